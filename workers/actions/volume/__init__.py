"""What is done to volumes."""
