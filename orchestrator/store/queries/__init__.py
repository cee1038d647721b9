"""The protocol of named queries: what the engine asks, whatever the database.

Each is a class: its fields are the arguments, its parameter is the type of its rows, its docstring
the invariant that it keeps. `orchestrator.store.postgresql` and `orchestrator.store.sqlite` have a
statement for each.
"""
