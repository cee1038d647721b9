"""Actions on backends."""
