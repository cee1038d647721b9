"""Actions on export policies."""
