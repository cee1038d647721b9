"""Real systems that tests start, use and throw away."""
