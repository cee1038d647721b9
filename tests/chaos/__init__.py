"""The crash matrix: every action, broken off at every step, by every fault one can make."""
