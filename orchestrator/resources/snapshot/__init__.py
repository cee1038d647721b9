"""Snapshots of volumes: the resource, how it is changed, and which one is newer."""
