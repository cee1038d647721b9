"""The database: tables, connections, and the few building blocks of statements."""
