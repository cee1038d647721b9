"""The schema's version: upgrade, downgrade, and tell one that is behind."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, make_url, select, text

import migrations
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.lives import begin
from orchestrator.store.tables import installation, lives

#: One process migrates at a time.
_MIGRATION_LOCK = 0x6D696772


def upgrade(url: str, revision: str = "head", *, named: bool = True) -> None:
    """Bring the database to a revision; the first time, give the installation its id.

    Not ``named``, it has none yet, so that the database can be copied.
    """

    def work(connection: Connection) -> None:
        command.upgrade(_config(connection), revision)
        if named:
            _name(connection)

    _alone(url, work)


def name_installation(url: str) -> None:
    """Give the installation its id, unless it has one."""
    _alone(url, _name)


def _name(connection: Connection) -> None:
    if not inspect(connection).has_table(installation.name):
        return
    if connection.execute(select(installation.c.id)).first() is None:
        connection.execute(
            insert(installation).values(id=1, uuid=uuid.uuid4().hex, created_at=db_now())
        )
        if inspect(connection).has_table(lives.name):
            begin(connection, "the database is new")


def downgrade(url: str, revision: str) -> None:
    """Take the database back to a revision; ``base`` removes everything."""
    _alone(url, lambda connection: command.downgrade(_config(connection), revision))


def check(url: str) -> str | None:
    """None if the schema is the one this version needs, else what to do."""
    path = _file_of(url)
    if path is not None and not path.exists():
        return f"there is no database at {path} yet: run 'orchestrator db upgrade'"
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()
    wanted = ScriptDirectory.from_config(_config(None)).get_current_head()
    if found == wanted:
        return None
    if found is None:
        return "the database has no schema yet: run 'orchestrator db upgrade'"
    return f"the schema is at {found}, this version needs {wanted}: run 'orchestrator db upgrade'"


def _file_of(url: str) -> Path | None:
    """The file of a SQLite database."""
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database) if is_sqlite and parsed.database else None


def _alone(url: str, work: Any) -> None:
    if (path := _file_of(url)) is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(url, pool_size=1)
    try:
        with database.write(may_take_long=True) as connection:
            if database.is_postgresql:
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            work(connection)
    finally:
        database.close()


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config
