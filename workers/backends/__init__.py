"""Drivers: one module for each kind of storage system, behind the interface in `base`."""
