"""Actions on snapshots."""
