"""The `tiny` driver: volumes as files beside an index of them."""
