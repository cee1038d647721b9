"""Column types and the clock, meaning the same on PostgreSQL and SQLite."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

#: JSON that PostgreSQL keeps parsed; Python's None is SQL's NULL.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class JsonAsWritten(TypeDecorator[Any]):
    """`Json` for who must find out whether it was changed, to be read only.

    SQLite keeps text: where a key comes twice, or that is no JSON, readers differ over what it
    says, and it is read as that text. SQL's NULL is the only null.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type that carries it."""
        kept: TypeEngine[Any] = Text() if dialect.name == "sqlite" else JSONB()
        return dialect.type_descriptor(kept)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """What it says."""
        if dialect.name != "sqlite" or value is None:
            return value
        return as_written(value)


def as_written(text: str) -> Any:
    """What `JsonAsWritten` has of a text; of one of PostgreSQL's, which writes each key once, too.

    SQL's NULL is the only null.
    """
    try:
        found = _read_once(text)
    except ValueError:
        return text
    return text if found is None else found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


_read_once = json.JSONDecoder(object_pairs_hook=_once).decode


#: A 64-bit id; SQLite wants INTEGER for a row's own number.
BigId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, always aware. SQLite keeps it as text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean another moment on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs its zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give every time back in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):
    """The database's clock, or ``db_now(seconds)`` ahead of it: the engine's one clock.

    Leases, start times and back-off are compared with it, so the clocks of workers and
    API hosts do not matter.
    """

    type = UtcDateTime()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    ahead = compiler.process(element.clauses, **kw)
    if not ahead:
        return "clock_timestamp()"
    return f"(clock_timestamp() + make_interval(secs => {ahead}))"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    ahead = compiler.process(element.clauses, **kw)
    moved = f", ({ahead}) || ' seconds'" if ahead else ""
    # Six digits after the second, as the column type writes them, so that text sorts by time.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{moved})"
