"""What is done to export policies."""
