"""A transaction of PostgreSQL: what is asked together travels as one pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from orchestrator import failpoints
from orchestrator.machine import machine_id
from orchestrator.store.asking import Asked
from orchestrator.store.postgresql import conditions as _conditions  # noqa: F401 - are registered
from orchestrator.store.postgresql.pipeline import pipelined
from orchestrator.store.postgresql.statements import maker, written
from orchestrator.store.transaction import ONCE, Transaction
from orchestrator.store.verdicts import ends_only_this_session, ends_session

#: Our sessions plan for few rows found by index (`orchestrator.store.sessions`).
_PLAN_FREELY = text(
    "SELECT set_config(name, value, true) FROM (VALUES ('enable_seqscan', 'on'),"
    " ('enable_hashjoin', 'on'), ('enable_mergejoin', 'on'), ('cpu_operator_cost', '0.0025'))"
    " AS wanted (name, value)"
)
_INSTANCE = text(
    "SELECT oid, coalesce(host(inet_server_addr()), :local) AS address,"
    " coalesce(inet_server_port(), 0) AS port"
    " FROM pg_database WHERE datname = current_database()"
)
_SYSTEM = text("SELECT system_identifier FROM pg_control_system()")


class PostgresqlTransaction(Transaction):
    """A transaction of PostgreSQL."""

    writes_alone = False

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._deferred: list[Asked[Any]] = []

    def _ask(self, asked: Sequence[Asked[Any]]) -> Sequence[Sequence[Any]]:
        return self._pipeline(asked) if asked else []

    def ask_along(self, first: Asked[Any], *others: Asked[Any]) -> Sequence[Sequence[Any]]:
        """See `Transaction.ask_along`."""
        return self._pipeline((first, *others))

    def defer(self, *asked: Asked[Any]) -> None:
        """See `Transaction.defer`."""
        self._deferred += asked

    def insert(self, table: Table) -> Any:
        """See `Transaction.insert`."""
        return postgresql.insert(table)

    def lock(self, kind: int, key: int) -> None:
        """See `Transaction.lock`."""
        self.execute(select(func.pg_advisory_xact_lock(kind, key)))

    def try_lock(self, key: int) -> bool:
        """See `Transaction.try_lock`."""
        return bool(self.execute(select(func.pg_try_advisory_xact_lock(key))).scalar_one())

    def read_many(self) -> None:
        """See `Transaction.read_many`."""
        self.execute(_PLAN_FREELY)

    def instance(self) -> str:
        """See `Transaction.instance`."""
        row = self.execute(_INSTANCE, {"local": machine_id()}).one()
        try:
            with self.savepoint():
                system = self.execute(_SYSTEM).scalar_one()
        except DBAPIError:
            system = "unknown"  # this role may not ask
        return f"postgresql {system} {row.oid} {row.address} {row.port}"

    def commit(self) -> None:
        """Pass failpoints and commit, with what was deferred.

        It says why it failed. psycopg's own commit wants one answer: where a pooler adds an error
        to that of the server, which has ended the session, it gives neither.
        """
        if self._deferred:
            self._pipeline((), commit=True)
            return
        for point in self._before_commit:
            point.reach()
        raw = self.raw
        if raw.info.transaction_status != TransactionStatus.IDLE:
            with self._errors():
                raw.execute(b"COMMIT", prepare=False)

    def _pipeline(
        self, asked: Sequence[Asked[Any]], *, commit: bool = False
    ) -> Sequence[Sequence[Any]]:
        raw = self.raw
        if not self.connection.in_transaction():
            self.connection.begin()
        deferred, self._deferred = self._deferred, []
        cursors = [raw.cursor(row_factory=maker(one)) for one in asked]
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
                            point.reach()
                        unread.execute(b"COMMIT", prepare=False)
                        failpoints.reach_within("pipeline.before_sync", raw, ONCE)
            return [_rows(cursor) for cursor in cursors]

    def _send(self, cursor: psycopg.Cursor[Any], one: Asked[Any]) -> None:
        statement, values = written(one, self.connection.dialect)
        if statement:
            cursor.execute(statement, values)

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


def _rows(cursor: psycopg.Cursor[Any]) -> Sequence[Any]:
    """The rows of a statement. `Cursor.description` would build an object for each column."""
    result = cursor.pgresult
    return cursor.fetchall() if result is not None and result.nfields else []
