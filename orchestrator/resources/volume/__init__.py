"""Volumes: the resource, how it is loaded, changed, locked and read."""
