"""What is done to backends."""
