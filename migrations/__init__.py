"""Schema migrations (alembic), for SQLite and PostgreSQL."""
