"""The `file` driver: volumes as sparse image files in one directory."""

from workers.backends.file.driver import FileDriver

__all__ = ["FileDriver"]
