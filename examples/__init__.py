"""Examples that run: the demo, a fleet as a CSV file, a shell script."""
