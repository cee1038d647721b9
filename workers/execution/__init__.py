"""Executing jobs: what a driver is asked to do for each action, and what that leaves."""
