"""Questions: statements that are built once, with named parameters; `Transaction.ask` asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Dialect,
    Executable,
    Text,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.sql.sqltypes import NullType
from sqlalchemy.sql.visitors import replacement_traverse

from orchestrator.store.transaction import Asked, Rows, Transaction


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

    def execute(self, transaction: Transaction) -> Rows:
        ready = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in self._values.items()
        }
        result = transaction.execute(self._question.statement("sqlite"), ready)
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
