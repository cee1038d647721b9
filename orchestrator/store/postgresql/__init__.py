"""PostgreSQL: its statements for the named queries, and what a transaction is there.

Several statements travel as one pipeline. Rows are locked, and several writers work at once.
"""
