"""Drivers: one module for each kind of storage system, behind one interface."""
