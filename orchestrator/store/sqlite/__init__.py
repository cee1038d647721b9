"""SQLite: its statements for the named queries, and what a transaction is there.

Writing transactions are one at a time, so nothing is locked and numbers are counted in a table.
"""
