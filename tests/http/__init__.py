"""The HTTP service alone, as clients and those who mean it harm see it."""
