"""The `file` driver: volumes as sparse image files in one directory."""
