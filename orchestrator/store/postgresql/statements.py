"""Which statement PostgreSQL has for what is asked, as its driver takes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from psycopg.rows import RowFactory, dict_row
from sqlalchemy import BindParameter, Dialect, literal_column
from sqlalchemy.sql.sqltypes import NullType
from sqlalchemy.sql.visitors import replacement_traverse

from orchestrator.store.asking import Asked, Given, Query, Question
from orchestrator.store.bulk import Drawn, Inserted, Updated
from orchestrator.store.postgresql import bulk, claiming, finishing, lanes, loading, reports
from orchestrator.store.postgresql.bulk import Written, array
from orchestrator.store.transaction import Point

#: The statements that are written by hand, with their parameters as ``:name``.
TEXTS: dict[type[Query[Any]], str] = {}
for _some in (claiming, finishing, lanes, loading, reports):
    TEXTS.update(_some.STATEMENTS)

_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")


def _text(statement: str) -> Callable[[Query[Any]], Written]:
    written = _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%")).encode()
    return lambda asked: (written, _ready(vars(asked)))


def _ready(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: array(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _point(asked: Point) -> Written:
    asked.reach()
    return b"", {}


WRITERS: dict[type[Asked[Any]], Callable[[Any], Written]] = {
    **{query: _text(statement) for query, statement in TEXTS.items()},
    Drawn: bulk.drawn,
    Inserted: bulk.inserted,
    Updated: bulk.updated,
    Point: _point,
}


def _maker(row: Any) -> RowFactory[Any]:
    if not hasattr(row, "_make"):
        return dict_row
    return lambda _cursor: row._make


_MAKERS: dict[type[Asked[Any]], RowFactory[Any]] = {
    query: _maker(query.row) for query in WRITERS if issubclass(query, Query)
}


def maker(asked: Asked[Any]) -> RowFactory[Any]:
    """What makes the rows of this."""
    return _MAKERS.get(type(asked), dict_row)


def written(asked: Asked[Any], dialect: Dialect) -> Written:
    """The statement and its parameters; none for a failpoint, which is passed."""
    if isinstance(asked, Given):
        statement, constants = _question(asked.question, dialect)
        return statement, {**constants, **_ready(asked.values)}
    return WRITERS[type(asked)](asked)


def _question(question: Question, dialect: Dialect) -> Written:
    """A question's statement, and the constants that it still has.

    Those of its conditions are written out: a plan that is kept for all values could not
    use a partial index without knowing them.
    """
    if question.written is None:
        statement: Any = replacement_traverse(
            question.statement,  # type: ignore[call-overload]
            {},
            lambda element, **_: _written_out(element, dialect),
        )
        compiled = statement.compile(dialect=dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        question.written = str(compiled).encode(), constants
    return question.written


def _written_out(element: Any, dialect: Dialect) -> Any:
    if not isinstance(element, BindParameter) or element.value is None:
        return None
    if isinstance(element.type, NullType):
        return None  # a new value of a column, whose type that has
    literal = element.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    return literal_column(str(literal), element.type)
