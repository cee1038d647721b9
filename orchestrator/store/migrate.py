"""The schema's version: upgrade, downgrade, and tell one that is behind."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, inspect, select, text

from orchestrator.domain.errors import Conflict, InvalidInput, Unavailable
from orchestrator.store import schema, urls
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.lives import begin
from orchestrator.store.tables import installation, lives
from orchestrator.store.transaction import Transaction

#: One process migrates at a time.
_MIGRATION_LOCK = 0x6D696772


def upgrade(url: str, revision: str = "head", *, named: bool = True) -> None:
    """Bring the database to a revision; the first time, give the installation its id.

    Not ``named``, it has none yet, so that the database can be copied. Raises `Conflict` if the
    schema is newer than this version knows.
    """
    _check_name(revision)

    def work(transaction: Transaction) -> None:
        _refuse_newer(transaction)
        command.upgrade(_config(transaction), revision)
        if named:
            _name(transaction)

    _alone(url, work)


def name_installation(url: str) -> None:
    """Give the installation its id, unless it has one."""
    _alone(url, _name)


def _name(transaction: Transaction) -> None:
    if not inspect(transaction.connection).has_table(installation.name):
        return
    if transaction.execute(select(installation.c.id)).first() is None:
        transaction.execute(
            insert(installation).values(id=1, uuid=uuid.uuid4().hex, created_at=db_now())
        )
        if inspect(transaction.connection).has_table(lives.name):
            begin(transaction, "the database is new")


def downgrade(url: str, revision: str) -> None:
    """Take the database back to a revision; ``base`` removes everything."""
    _check_name(revision)

    def work(transaction: Transaction) -> None:
        _refuse_newer(transaction)
        command.downgrade(_config(transaction), revision)

    _alone(url, work)


def _check_name(revision: str) -> None:
    if revision not in (*schema.revisions(), "head", "base"):
        raise InvalidInput(
            f"there is no revision {revision!r}: name one of {', '.join(schema.revisions())}",
            field="revision",
        )


def _refuse_newer(transaction: Transaction) -> None:
    found = _found(transaction)
    if found is not None and found not in schema.revisions():
        raise Conflict(str(schema.trouble(found)))


def _found(transaction: Transaction) -> str | None:
    return MigrationContext.configure(transaction.connection).get_current_revision()


def check(url: str) -> str | None:
    """None if the schema is the one this version needs, else what to do."""
    path = urls.file_of(url)
    if path is not None and not path.exists():
        return f"there is no database at {path} yet: run 'orchestrator db upgrade'"
    database = Database(url, pool_size=1, standby=True)
    try:
        return database.look(trouble)
    finally:
        database.close()


def trouble(transaction: Transaction) -> str | None:
    """The same of a database that is connected."""
    return schema.trouble(_found(transaction))


def refuse_unknown(url: str) -> None:
    """Raise `Conflict` if the schema is not this version's; a database that is away may have it."""
    with suppress(Unavailable):
        if (wrong := check(url)) is not None:
            raise Conflict(wrong)


def _alone(url: str, work: Any) -> None:
    if (path := urls.file_of(url)) is not None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"the database's directory {path.parent} cannot be made: {error.strerror}",
                field=urls.FIELD,
            ) from None
    database = Database(url, pool_size=1)
    try:
        with database.write(may_take_long=True) as transaction:
            if database.is_postgresql:
                transaction.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            work(transaction)
    finally:
        database.close()


def _config(transaction: Transaction) -> Config:
    config = schema.config()
    config.attributes["connection"] = transaction.connection
    return config
