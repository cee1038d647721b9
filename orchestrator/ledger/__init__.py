"""The ledger: the keyed chain over the history, its archives, and their verification."""
