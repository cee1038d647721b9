"""What can be asked of the database: statements with their values, for `Transaction.ask`.

A `Query` is declared in `orchestrator.store.queries`, and each database has a statement of its own
for it. A `Question` is one statement of SQLAlchemy, which writes it for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

from sqlalchemy import ARRAY, Boolean, ColumnElement, Dialect, Executable, Text, bindparam
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

R_co = TypeVar("R_co", covariant=True)

#: Rows by column name.
Rows = Sequence[Mapping[str, Any]]


class Asked(Generic[R_co]):
    """Something to be executed, with its values, that returns rows of this type."""


class Query(Asked[R_co]):
    """A named query: its fields are the arguments, its docstring says what it promises.

    Rows are `NamedTuple`s with the fields in the order of the statement's columns, or mappings
    by column name; a query of None returns none.
    """

    row: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        [base] = cls.__orig_bases__  # type: ignore[attr-defined]
        [cls.row] = get_args(base)


class Question:
    """A statement with named parameters, built once; SQLAlchemy writes it for both databases."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        #: As PostgreSQL's driver takes it, once it has been asked there.
        self.written: tuple[bytes, dict[str, Any]] | None = None

    def __call__(self, **values: Any) -> Given:
        """Ask it with these values; lists for what `one_of` names."""
        return Given(self, values)


@dataclass(frozen=True)
class Given(Asked[Mapping[str, Any]]):
    """A question with its values."""

    question: Question
    values: dict[str, Any]


class Listed(TypeDecorator[Sequence[Any]]):
    """Many values of a type in one parameter: as an array, or where there are none, as JSON."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        """``item``: the type of each value."""
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type that carries it."""
        plain = Text() if dialect.name == "sqlite" else ARRAY(self.item)
        return dialect.type_descriptor(plain)

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        """The values as that carries them; what is JSON by now is left as it is."""
        if dialect.name == "sqlite" and value is not None and not isinstance(value, str):
            return json.dumps(value)
        return value


class In(FunctionElement[bool]):
    """That a column has one of the values of a `Listed` parameter.

    The statement and its plan are the same for any number.
    """

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> Any:
        """Leave it as it is: compared with 1, as SQLite's conditions are, it would use no index."""
        return self


def one_of(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """That a column has one of the values of a list parameter, however many there are."""
    return In(column, bindparam(parameter, type_=Listed(column.type)))
