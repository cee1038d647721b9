"""Transactions: what is executed in one, what is deferred to its end, and the commit.

Every transaction that `Database` begins, for reading or for writing, is passed on as a
`Transaction`. Connections stay within this package.

`Transaction.ask` executes several statements in one round trip: questions
(`orchestrator.store.asking`), and rows to be inserted or updated (`orchestrator.store.bulk`). On
PostgreSQL they travel as one pipeline; SQLite has no way to travel, and executes each at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import Connection, Dialect, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from orchestrator import failpoints
from orchestrator.store.pipeline import pipelined
from orchestrator.store.verdicts import ends_only_this_session, ends_session

Rows = Sequence[Mapping[str, Any]]


class Asked(Protocol):
    """Something to be executed, with its values."""

    def written(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """For PostgreSQL: the statement as its driver takes it, and the parameters."""
        ...

    def execute(self, transaction: Transaction) -> Rows:
        """For SQLite: execute it now."""
        ...


#: A failpoint that is passed once, with no facts.
_ONCE: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class _Point:
    """A failpoint among statements: passed when its turn comes, and nothing is executed."""

    name: str
    raw: Any
    passes: Iterable[Mapping[str, Any]]

    def written(self, _dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        failpoints.reach_within(self.name, self.raw, self.passes)
        return "", {}

    def execute(self, _transaction: Transaction) -> Rows:
        failpoints.reach_within(self.name, self.raw, self.passes)
        return []


class Transaction:
    """One transaction, from its first statement to its commit."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.dialect = connection.dialect
        #: Execute a statement of SQLAlchemy at once. It does not see what was deferred.
        self.execute = connection.execute
        self._is_postgresql = connection.dialect.name == "postgresql"
        self._deferred: list[Asked] = []
        self._before_commit: list[_Point] = []

    def ask(self, *asked: Asked) -> list[Rows]:
        """Execute what was deferred, then these, in order, each seeing what those before it did.

        Returns the rows of each of these by column name, none for one that returns none. Raises
        what SQLAlchemy raises.
        """
        if asked and self._is_postgresql:
            return self._pipeline(asked)
        return [one.execute(self) for one in asked]

    def defer(self, *asked: Asked) -> None:
        """Execute these with whatever is asked next, at the latest with the commit.

        For the last statements of a transaction that writes, if nobody needs their rows: on
        PostgreSQL they and the commit are one round trip.
        """
        if self._is_postgresql:
            self._deferred += asked
        else:
            self.ask(*asked)

    def reach(self, point: str, passes: Iterable[Mapping[str, Any]] = _ONCE) -> None:
        """Have a failpoint passed in the flush: after the last statement, before the COMMIT.

        ``passes``: the facts of each pass, if it is passed for several things that were done.
        """
        self._before_commit.append(_Point(point, self.raw, passes))

    def point(self, point: str, passes: Iterable[Mapping[str, Any]] = _ONCE) -> Asked:
        """The same to be asked or deferred: it is passed in its place among the statements."""
        return _Point(point, self.raw, passes)

    def insert(self, table: Table) -> Any:
        """An INSERT that may say what is done about a conflict."""
        return (postgresql if self._is_postgresql else sqlite).insert(table)

    def lock(self, kind: int, key: int) -> None:
        """Wait until nobody else holds this lock, and hold it until the transaction ends.

        SQLite needs none: its writing transactions are one at a time.
        """
        if self._is_postgresql:
            self.execute(select(func.pg_advisory_xact_lock(kind, key)))

    def try_lock(self, key: int) -> bool:
        """Hold this lock until the transaction ends; False if somebody else holds it."""
        if not self._is_postgresql:
            return True
        return bool(self.execute(select(func.pg_try_advisory_xact_lock(key))).scalar_one())

    def savepoint(self) -> AbstractContextManager[Any]:
        """A block whose failure undoes only what was executed in it."""
        return self.connection.begin_nested()

    def commit(self) -> None:
        """Pass failpoints and commit, with what was deferred; on SQLite, SQLAlchemy commits.

        It says why it failed. psycopg's own commit wants one answer: where a pooler adds an error
        to that of the server, which has ended the session, it gives neither.
        """
        if self._deferred:
            self._pipeline((), commit=True)
            return
        for point in self._before_commit:
            point.execute(self)
        if self._is_postgresql:
            raw = self.raw
            if raw.info.transaction_status != TransactionStatus.IDLE:
                with self._errors():
                    raw.execute(b"COMMIT", prepare=False)

    def _pipeline(self, asked: Sequence[Asked], *, commit: bool = False) -> list[Rows]:
        raw = self.raw
        if not self.connection.in_transaction():
            self.connection.begin()
        deferred, self._deferred = self._deferred, []
        cursors = [raw.cursor(row_factory=dict_row) for _ in asked]
        with self._errors():
            begun = raw.autocommit or raw.info.transaction_status != TransactionStatus.IDLE
            if len(asked) == 1 and begun and not deferred and not commit:
                self._send(cursors[0], asked[0])
            else:
                # Here the beginning of a transaction travels along, and its end.
                with pipelined(raw, begin=not begun):
                    # Nobody wants their rows, and a cursor for each costs more than one.
                    unread = raw.cursor()
                    for one in deferred:
                        self._send(unread, one)
                    for cursor, one in zip(cursors, asked, strict=True):
                        self._send(cursor, one)
                    if commit:
                        for point in self._before_commit:
                            self._send(unread, point)
                        unread.execute(b"COMMIT", prepare=False)
                        failpoints.reach_within("pipeline.before_sync", raw, _ONCE)
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def _send(self, cursor: psycopg.Cursor[Any], one: Asked) -> None:
        statement, values = one.written(self.dialect)
        if statement:
            cursor.execute(statement.encode(), values)

    @property
    def raw(self) -> psycopg.Connection[Any]:
        """The driver's own connection; on SQLite one of `sqlite3`."""
        return self.connection.connection.driver_connection  # type: ignore[return-value]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what SQLAlchemy would for an error of psycopg, and let go of a dead connection."""
        connection, raw = self.connection, self.raw
        try:
            yield
        except psycopg.Error as error:
            broken = raw.closed or ends_session(error)
            if broken:
                if not ends_only_this_session(error):
                    # As SQLAlchemy does for its own statements: the others in the pool, made
                    # before, have died of the same or are on a server that takes no writes any
                    # more.
                    connection.engine.pool._invalidate(connection.connection, error, _checkin=False)
                connection.invalidate(error)
            raise DBAPIError.instance(
                None,
                None,
                error,
                psycopg.Error,
                hide_parameters=True,
                connection_invalidated=bool(broken),
                dialect=connection.dialect,
            ) from error
