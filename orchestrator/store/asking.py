"""Several statements in one round trip: what the hot paths of the engine are made of.

A `Question` is a statement that is built once, with named parameters. `ask` executes
questions, and rows to be inserted or updated (`orchestrator.store.bulk`), in order, in the
transaction of the connection. On PostgreSQL they travel as one pipeline, each seeing what
those before it did; SQLite has no way to travel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Connection,
    Dialect,
    Executable,
    Text,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.sqltypes import NullType
from sqlalchemy.sql.visitors import replacement_traverse

from orchestrator import failpoints
from orchestrator.store.pipeline import pipelined
from orchestrator.store.verdicts import ends_only_this_session, ends_session

Rows = Sequence[Mapping[str, Any]]


class Asked(Protocol):
    """Something to be executed, with its values."""

    def written(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """For PostgreSQL: the statement as its driver takes it, and the parameters."""
        ...

    def execute(self, connection: Connection) -> Rows:
        """For SQLite: execute it now."""
        ...


def ask(connection: Connection, *asked: Asked) -> list[Rows]:
    """Execute these in order; the rows of each, by column name (none where it returns none).

    Raises what SQLAlchemy raises.
    """
    if asked and connection.dialect.name == "postgresql":
        return _pipeline(connection, asked)
    return [one.execute(connection) for one in asked]


#: What was put off, by the connection; it goes with that.
_later: WeakKeyDictionary[Connection, list[Asked]] = WeakKeyDictionary()


def put_off(connection: Connection, *asked: Asked) -> None:
    """Execute these with whatever is asked next, at the latest with the commit.

    For the last statements of a transaction, if nobody needs their rows: on PostgreSQL they
    and the commit are one round trip. Only `ask` knows of them; other statements do not see
    what they do.
    """
    if connection.dialect.name == "postgresql":
        _later.setdefault(connection, []).extend(asked)
    else:
        ask(connection, *asked)


def commit(connection: Connection) -> None:
    """Commit on PostgreSQL, with what was put off; SQLite is left to SQLAlchemy.

    It says why it failed. psycopg's own commit wants one answer: where a pooler adds an error to
    that of the server, which has ended the session, it tells neither.
    """
    if connection in _later:
        _pipeline(connection, (), commit=True)
    elif connection.dialect.name == "postgresql":
        raw = _raw(connection)
        if raw.info.transaction_status != TransactionStatus.IDLE:
            with _errors(connection):
                raw.execute(b"COMMIT", prepare=False)


def _pipeline(
    connection: Connection, asked: Sequence[Asked], *, commit: bool = False
) -> list[Rows]:
    raw = _raw(connection)
    if not connection.in_transaction():
        connection.begin()
    before = _later.pop(connection, [])
    cursors = [raw.cursor(row_factory=dict_row) for _ in asked]
    with _errors(connection):
        begun = raw.autocommit or raw.info.transaction_status != TransactionStatus.IDLE
        if len(asked) == 1 and begun and not before and not commit:
            _execute(cursors[0], connection, asked[0])
        else:
            # Here the beginning of a transaction travels along, and its end.
            with pipelined(raw, begin=not begun):
                # Nobody wants their rows, and a cursor for each costs more than one.
                unread = raw.cursor()
                for one in before:
                    _execute(unread, connection, one)
                for cursor, one in zip(cursors, asked, strict=True):
                    _execute(cursor, connection, one)
                if commit:
                    failpoints.reach("pipeline.before_commit", connection)
                    unread.execute(b"COMMIT", prepare=False)
                    failpoints.reach("pipeline.before_sync", connection)
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


def _raw(connection: Connection) -> psycopg.Connection[Any]:
    return connection.connection.driver_connection  # type: ignore[return-value]


@contextmanager
def _errors(connection: Connection) -> Iterator[None]:
    """Raise what SQLAlchemy would for an error of psycopg, and let go of a dead connection."""
    raw = _raw(connection)
    try:
        yield
    except psycopg.Error as error:
        broken = raw.closed or ends_session(error)
        if broken:
            if not ends_only_this_session(error):
                # As SQLAlchemy does for its own statements: the others in the pool, made before,
                # have died of the same or are on a server that takes no writes any more.
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


def _execute(cursor: psycopg.Cursor[Any], connection: Connection, one: Asked) -> None:
    statement, values = one.written(connection.dialect)
    cursor.execute(statement.encode(), values)


class Question:
    """A statement with named parameters, built once for each kind of database.

    ``build`` takes the dialect's name, for `one_of` and the like.
    """

    def __init__(self, build: Callable[[str], Executable]) -> None:
        self._build = build
        self._statements: dict[str, Executable] = {}
        self._written: tuple[str, dict[str, Any]] | None = None

    def __call__(self, **values: Any) -> Asked:
        """Ask it with these values; lists for what `one_of` names."""
        return _Given(self, values)

    def statement(self, dialect: str) -> Executable:
        """The statement for a kind of database."""
        if dialect not in self._statements:
            self._statements[dialect] = self._build(dialect)
        return self._statements[dialect]

    def written(self, dialect: Dialect) -> tuple[str, dict[str, Any]]:
        """The statement as PostgreSQL's driver takes it, and the constants that it still has.

        Those of its conditions are written out: a plan that is kept for all values could not
        use a partial index without knowing them.
        """
        if self._written is None:
            statement: Any = replacement_traverse(
                self.statement(dialect.name),  # type: ignore[call-overload]
                {},
                lambda element, **_: _written_out(element, dialect),
            )
            compiled = statement.compile(dialect=dialect)
            constants = {
                name: value for name, value in compiled.params.items() if value is not None
            }
            self._written = str(compiled), constants
        return self._written


def _written_out(element: Any, dialect: Dialect) -> Any:
    if not isinstance(element, BindParameter) or element.value is None:
        return None
    if isinstance(element.type, NullType):
        return None  # a new value of a column, whose type that has
    literal = element.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    return literal_column(str(literal), element.type)


class _Given:
    def __init__(self, question: Question, values: dict[str, Any]) -> None:
        self._question, self._values = question, values

    def written(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        statement, constants = self._question.written(dialect)
        ready = {
            name: array(value) if isinstance(value, list) else value
            for name, value in self._values.items()
        }
        return statement, {**constants, **ready}

    def execute(self, connection: Connection) -> Rows:
        ready = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in self._values.items()
        }
        result = connection.execute(self._question.statement("sqlite"), ready)
        found: Rows = result.mappings().all() if result.returns_rows else []  # type: ignore[assignment]
        return found


def array(values: Sequence[Any]) -> Any:
    """Texts or whole numbers as PostgreSQL writes an array; anything else as it is.

    Its driver would look at each value for its type, and for what needs a quotation mark.
    """
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    if kinds == {str}:
        joined = '","'.join(values)
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return '{"' + joined + '"}'
    return values


def one_of(dialect: str, column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """That a column has one of the values of a list parameter, however many there are."""
    if dialect == "postgresql":
        return column == any_(bindparam(parameter, type_=ARRAY(column.type)))
    parsed = func.json_each(bindparam(parameter, type_=Text)).table_valued("value")
    return column.in_(select(parsed.c.value))


def rows_of(dialect: str, parameter: str) -> Any:
    """A list parameter of texts as a table with the one column ``value``."""
    if dialect == "postgresql":
        array = bindparam(parameter, type_=ARRAY(Text))
        return func.unnest(array).table_valued("value").render_derived(name=parameter)
    return func.json_each(bindparam(parameter, type_=Text)).table_valued("value").alias(parameter)
