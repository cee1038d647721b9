"""What is done to snapshots."""
