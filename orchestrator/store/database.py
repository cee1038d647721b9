"""Connections: one engine a process, transactions that are retried as a whole."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    false,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.domain.errors import Unavailable
from orchestrator.store import schema, urls
from orchestrator.store.postgresql.transaction import PostgresqlTransaction
from orchestrator.store.reasons import READS_ONLY, reason
from orchestrator.store.sessions import Sessions, lift_limit, line_options
from orchestrator.store.sqlite.transaction import SqliteTransaction
from orchestrator.store.tables import installation
from orchestrator.store.transaction import Transaction
from orchestrator.store.verdicts import (
    READ_ONLY,
    ends_only_this_session,
    ends_session,
    is_away,
    is_of_the_schema,
    is_repeatable,
    lacks_a_right,
    sqlstate,
    was_not_committed,
)

T = TypeVar("T")

#: Attempts at one transaction that the database asks to repeat (deadlock, busy).
_TRIES = 6
#: Attempts at one transaction whose connection dies: pooled ones may all have died together.
_TRIES_WHEN_DYING = 3
#: Seconds a writer waits for SQLite's one write lock.
_SQLITE_BUSY = 30.0
#: Unless the settings say otherwise: see `orchestrator.settings.DatabaseSettings`.
IDLE_SECONDS = 20.0
#: What a reading function sees.
_ONE_STATE = "REPEATABLE READ"
#: What only a database that takes writes does.
_NO_CHANGE = update(installation).values(id=installation.c.id).where(false())


class Database:
    """The database that a URL names. Threads share it; processes each make their own."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        idle_seconds: float = IDLE_SECONDS,
        standby: bool = False,
        known_schema: bool = False,
    ) -> None:
        """``idle_seconds``: how long a session of PostgreSQL may wait in a transaction for this
        process before it is ended. ``standby``: for reading, a server that takes no writes will
        do. ``known_schema``: no connection is made while the schema is not this version's.

        Raises `InvalidInput` for a URL that cannot be used.
        """
        parsed = urls.parse(url)
        self.url = url
        #: "postgresql" or "sqlite".
        self.kind = parsed.get_backend_name()
        self._transaction = SqliteTransaction if self.kind == "sqlite" else PostgresqlTransaction
        self._sessions: Sessions | None = None
        self._known_schema = known_schema
        if self.kind == "sqlite":
            self.engine = _sqlite_engine(parsed, pool_size)
        else:
            self._sessions = Sessions(
                idle_seconds, pooled=not urls.prepares(parsed), standby=standby
            )
            self.engine = create_engine(
                urls.without_ours(parsed),
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_timeout=10,
                # The one used last has its statements prepared, and is warm.
                pool_use_lifo=True,
                isolation_level="READ COMMITTED",  # whatever the server's default is
                json_serializer=_dumps,
                hide_parameters=True,  # they may hold what must be in no log
                connect_args=line_options(idle_seconds, set(parsed.query)),
            )
            sessions = self._sessions
            event.listen(self.engine, "connect", lambda raw, _: sessions.begin(raw))
            event.listen(self.engine, "checkin", _leave_to_server)
            event.listen(self.engine, "handle_error", _note_end_of_session)
        if known_schema:
            event.listen(self.engine, "connect", lambda raw, _: schema.refuse_unknown(raw))

    @property
    def is_postgresql(self) -> bool:
        """Whether rows can be locked and several writers work at once."""
        return self.kind == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that sees one state of the database, changes nothing and defers nothing.

        It may take as long as one likes.
        """
        with self._reading() as transaction:
            if self.is_postgresql:
                self._reconnect(transaction.connection)
            yield transaction

    def look(self, work: Callable[[Transaction], T]) -> T:
        """Run a reading function on one state of the database; again if its connection died."""
        try:
            return self._look_once(work)
        except Unavailable as error:
            if not _has_died(error):
                raise
        return self._look_once(work)

    def _look_once(self, work: Callable[[Transaction], T]) -> T:
        with self._reading() as transaction:
            self._begin(transaction.connection)
            return work(transaction)

    def glance(self, work: Callable[[Transaction], T]) -> T:
        """The same for what does not change any more: each statement sees a state of its own.

        On PostgreSQL no transaction begins or ends for it.
        """
        if not self.is_postgresql or self._is_pooled:
            return self.look(work)
        try:
            with self._reading("AUTOCOMMIT") as transaction:
                self._begin(transaction.connection)
                return work(transaction)
        except Unavailable as error:
            if not _has_died(error):
                raise
        return self.look(work)

    @contextmanager
    def _reading(self, isolation: str = _ONE_STATE) -> Iterator[Transaction]:
        with self._reachable(reading=True), self.engine.connect() as connection:
            if self.is_postgresql:
                # The first connection tells whether there is a pooler.
                if self._is_pooled:
                    isolation = _ONE_STATE
                connection = connection.execution_options(
                    isolation_level=isolation, postgresql_readonly=True
                )
            yield self._transaction(connection)
            # At a rollback, psycopg would forget every statement that it has prepared.
            connection.commit()

    @contextmanager
    def write(self, *, may_take_long: bool = False) -> Iterator[Transaction]:
        """One transaction, committed at the end. SQLite's is the only one that writes.

        ``may_take_long``: as a whole database that is copied or migrated does.
        """
        with self._reachable(), self.engine.connect() as connection:
            if not self.is_postgresql:
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                self._begin(connection)
                if may_take_long and self.is_postgresql:
                    lift_limit(connection)
                transaction = self._transaction(connection)
                yield transaction
                transaction.commit()

    def try_to_write(self) -> None:
        """Find out whether changes are taken, without any. Raises `Unavailable` if they are not."""
        if (file := urls.file_of(self.url)) is None:
            self.transact(lambda transaction: transaction.execute(_NO_CHANGE))
            return
        # The one writer may take a while; whoever asks this does not want to wait for its turn.
        self.look(lambda transaction: transaction.execute(select(installation.c.id)))
        if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise Unavailable(READS_ONLY)

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction, again as a whole where the database asks for it.

        ``work`` must have no effect outside the database. Raises `Unavailable` when that
        cannot be reached.
        """
        for attempt in range(1, _TRIES + 1):
            committing = False
            try:
                with self.write() as transaction:
                    done = work(transaction)
                    committing = True
                return done
            except (DBAPIError, Unavailable) as error:
                # A pooled connection that has died says so at its first use, and one may die
                # at any time. Nothing is repeated once a commit was sent and may have taken
                # effect.
                undone = not committing or was_not_committed(_cause(error))
                died = undone and _has_died(error)
                if not (died and attempt <= _TRIES_WHEN_DYING) and not is_repeatable(error):
                    raise
                if attempt == _TRIES:
                    raise Unavailable(
                        "the database is too busy to commit this: try again"
                    ) from error
                if not died or attempt > 1:
                    pause = random.uniform(0.005, 0.02) * 2**attempt  # noqa: S311 - not a secret
                    time.sleep(pause)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @property
    def _is_pooled(self) -> bool:
        """Whether a pooler has been seen that lends sessions for one transaction each."""
        return self._sessions is not None and self._sessions.pooled

    def _reconnect(self, connection: Connection, *, again: bool = True) -> None:
        """Take a new connection if the pooled one has died; this transaction may take its time."""
        try:
            self._begin(connection)
            lift_limit(connection)
        except (OperationalError, InterfaceError, InternalError) as error:
            if not error.connection_invalidated or not again:
                raise
            connection.rollback()
            self._reconnect(connection, again=False)

    def _begin(self, connection: Connection) -> None:
        """What a session that is lent must be told at the beginning of a transaction."""
        if self._is_pooled and self._sessions is not None:
            self._sessions.begin_transaction(connection)

    @contextmanager
    def _reachable(self, *, reading: bool = False) -> Iterator[None]:
        """Tell a database that cannot be reached from one that says no."""
        try:
            yield
        except PoolTimeout as error:
            raise Unavailable(
                "the database is too slow for the requests there are: try again"
            ) from error
        except DBAPIError as error:
            if reading and sqlstate(error) == READ_ONLY:
                raise
            if not is_away(error) and not lacks_a_right(error):
                self._look_at_schema(error)
                raise
            raise Unavailable(reason(sqlstate(error), str(error.orig))) from error

    def _look_at_schema(self, error: DBAPIError) -> None:
        """Raise `Unavailable` if something is not there because the schema is another one's."""
        if self._known_schema and is_of_the_schema(error):
            self.engine.dispose()  # those that were made before it changed
            self.engine.connect().close()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _leave_to_server(raw: Any, _record: object) -> None:
    """Have the server's settings say again whether a session of PostgreSQL may write.

    SQLAlchemy leaves a connection that has read with ``BEGIN READ WRITE`` for what comes next,
    which would write even where an administrator, or a service short of space, has said not to.
    """
    if raw is not None:
        raw.read_only = None


def _note_end_of_session(context: ExceptionContext) -> None:
    """Let a session that is of no use go, whether or not its line is still there."""
    error = context.original_exception
    if ends_session(error):
        context.is_disconnect = True
        if ends_only_this_session(error):
            context.invalidate_pool_on_disconnect = False


def _sqlite_engine(url: URL, pool_size: int) -> Engine:
    path = url.database or ""
    engine = create_engine(
        url,
        json_serializer=_dumps,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=2 * pool_size,
        pool_timeout=_SQLITE_BUSY,
        connect_args={"timeout": _SQLITE_BUSY, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves, below
        cursor = raw.cursor()
        # Write-ahead log: readers never wait for the writer. FULL: a commit survives a
        # power cut.
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.close()
        if Path(path).stat().st_uid == os.geteuid():
            Path(path).chmod(0o600)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _has_died(error: Exception) -> bool:
    cause = _cause(error)
    return isinstance(cause, DBAPIError) and (cause.connection_invalidated or ends_session(cause))


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ if isinstance(error, Unavailable) else error
