"""How SQLite executes what is asked: at once, each by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sqlalchemy import Boolean, Date, bindparam, column, text
from sqlalchemy.types import TypeEngine

from orchestrator.store.asking import Asked, Given, Query
from orchestrator.store.bulk import Drawn, Inserted, Updated, draw
from orchestrator.store.columns import Json, UtcDateTime
from orchestrator.store.queries.claiming import ClaimJobs
from orchestrator.store.sqlite import bulk, claiming, finishing, lanes, loading, reports
from orchestrator.store.transaction import Point, Transaction

#: The statements that are written by hand, with their parameters as ``:name``.
TEXTS: dict[type[Query[Any]], str] = {}
for _some in (claiming, finishing, lanes, loading, reports):
    TEXTS.update(_some.STATEMENTS)

_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
#: What SQLite itself knows as text or number only.
_TYPES: dict[Any, TypeEngine[Any]] = {
    datetime: UtcDateTime(),
    date: Date(),
    bool: Boolean(),
    dict: Json,
}
#: Lists are given as text, and read as JSON.
_READ = {**_TYPES, list: Json}

_IS_ANY_QUEUED = text(claiming.IS_ANY_QUEUED)

Runner = Callable[[Transaction, Any], Sequence[Any]]


def _types(
    declared: Any, wanted: set[str], types: Mapping[Any, TypeEngine[Any]]
) -> dict[str, TypeEngine[Any]]:
    found: dict[str, TypeEngine[Any]] = {}
    for name, hint in get_type_hints(declared).items():
        if get_origin(hint) is UnionType:
            hint = next(one for one in get_args(hint) if one is not NoneType)
        if name in wanted and (get_origin(hint) or hint) in types:
            found[name] = types[get_origin(hint) or hint]
    return found


def _text(query: type[Query[Any]], statement: str) -> Runner:
    names = set(_PARAMETER.findall(statement))
    taken = [bindparam(name, type_=type_) for name, type_ in _types(query, names, _TYPES).items()]
    ready: Any = text(statement).bindparams(*taken)
    names_of_row = list(getattr(query.row, "__annotations__", {}))
    if names_of_row:
        types = _types(query.row, set(names_of_row), _READ)
        ready = ready.columns(*(column(name, types.get(name)) for name in names_of_row))
    make = getattr(query.row, "_make", None)

    def run(transaction: Transaction, asked: Query[Any]) -> Sequence[Any]:
        values = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in vars(asked).items()
            if name in names
        }
        result = transaction.execute(ready, values)
        if make is not None:
            return [make(row) for row in result]
        return result.mappings().all() if names_of_row else []

    return run


_claim_jobs = _text(ClaimJobs, TEXTS[ClaimJobs])


def _claim(transaction: Transaction, asked: ClaimJobs) -> Sequence[Any]:
    """Nothing is drawn, and nothing written, while nothing is queued."""
    if transaction.execute(_IS_ANY_QUEUED, {"ids": json.dumps(asked.ids)}).first() is None:
        return []
    draw(transaction, "fences", asked.most)
    return _claim_jobs(transaction, asked)


def _given(transaction: Transaction, asked: Given) -> Sequence[Any]:
    result = transaction.execute(asked.question.statement, asked.values)
    return result.mappings().all() if result.returns_rows else []


def _point(_transaction: Transaction, asked: Point) -> Sequence[Any]:
    asked.reach()
    return []


RUNNERS: dict[type[Asked[Any]], Runner] = {
    **{query: _text(query, statement) for query, statement in TEXTS.items()},
    ClaimJobs: _claim,
    Drawn: bulk.drawn,
    Inserted: bulk.inserted,
    Updated: bulk.updated,
    Given: _given,
    Point: _point,
}
