"""Actions on volumes."""
