"""A driver that lives in a distribution of its own."""
