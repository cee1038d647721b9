"""Servers that the orchestrator starts itself, so that one machine needs nothing else."""
