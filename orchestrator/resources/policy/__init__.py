"""Export policies: the resource, how it is loaded, changed and read."""
