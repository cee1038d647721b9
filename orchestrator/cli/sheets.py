"""Reads batches from CSV as spreadsheets write it; every mistake is told with row and column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import JobOptions, no_such_action, parse_request
from orchestrator.cli.key_values import add_param, parameter
from orchestrator.domain.action import written_names
from orchestrator.domain.errors import (
    InvalidInput,
    MalformedBody,
    MissingField,
    Problem,
    UnknownAction,
    UnknownField,
    UnknownParameter,
    problem_for,
)
from orchestrator.domain.nearest import did_you_mean
from orchestrator.domain.targets import KINDS

_TARGETS = ("backend", *KINDS, "host")
#: Columns that are no parameters.
_FIELDS = ("ref", "action", *_TARGETS, *JobOptions.model_fields)
_NUMBERS = ("priority", "max_attempts")
#: The most mistakes that are told.
MOST = 100
#: With this first line spreadsheets say how the cells are separated; they show no such row.
_SEPARATOR = re.compile(r'"?sep=(.)"?[ ,;\t]*', re.IGNORECASE)

Row = tuple[int, list[str]]


def read_sheet(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The jobs of a table, a row each, and where each stands.

    The first row that is not empty names the columns, in capitals or not: ``ref``, ``action``,
    ``backend``, ``volume``, ``snapshot``, ``policy``, ``host``, ``depends_on`` (refs or ids,
    separated by blanks, commas or semicolons), ``priority`` and the other options of a job; any
    other is a parameter, such as ``size`` or ``metadata.owner``. An empty cell is absent. Rows are
    counted as spreadsheets do.

    Raises a `Problem` that is the first mistake, with up to 100 under ``errors``: ``row``,
    ``column``, ``code``, ``detail``; ``more`` tells how many others there are.
    """
    rows = _rows(text)
    named = next(((number, row) for number, row in rows if any(map(str.strip, row))), None)
    if named is None:
        raise InvalidInput("the file is empty: its first row names the columns", field="file")
    mistakes = _Mistakes()
    columns = _columns(named, mistakes)
    mistakes.end()
    filled = [(number, _filled(number, row, columns, mistakes)) for number, row in rows]
    filled = [(number, cells) for number, cells in filled if cells]
    refs = _refs(filled, mistakes)
    jobs = [_job(number, cells, refs, mistakes) for number, cells in filled]
    mistakes.end()
    return jobs, [f"row {number}" for number, _ in filled]


class _Mistakes:
    """What is wrong with a table, in the order of its rows."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Problem]] = []

    def add(self, number: int, column: str | None, problem: Problem) -> None:
        """Add one, saying where in the table it is."""
        detail = problem.detail
        if problem.field:
            detail = detail.removeprefix(f"{problem.field}: ")
        place = f"row {number}" + (f", column {column}" if column else "")
        facts = {name: value for name, value in problem.facts.items() if name != "errors"}
        facts |= {"row": number, **({"column": column} if column else {})}
        field = column or problem.field or "file"
        told = type(problem)(f"{place}: {detail}", field=field, **facts)
        self._found.append((number, told))

    def end(self) -> None:
        """Raise the first, with all."""
        if not self._found:
            return
        told = [problem for _, problem in sorted(self._found, key=lambda found: found[0])]
        first = told[0]
        if len(told) > 1:
            first.facts["errors"] = [
                {"code": one.code, "detail": one.detail, "field": one.field}
                | {name: one.facts[name] for name in ("row", "column") if name in one.facts}
                for one in told[:MOST]
            ]
        if len(told) > MOST:
            first.facts["more"] = len(told) - MOST
        raise first


def _rows(text: str) -> Iterator[Row]:
    """The rows and their numbers. Raises `MalformedBody`."""
    first, _, rest = text.partition("\n")
    if said := _SEPARATOR.fullmatch(first.rstrip("\r")):
        text, delimiter = rest, said[1]
    else:
        names = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
        # Where the comma is the decimal sign, spreadsheets separate by semicolons.
        delimiter = max(",;\t", key=names.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise MalformedBody(f"row {number} is no CSV: {error}", field="file") from None
        yield number, row


def _columns(named: Row, mistakes: _Mistakes) -> list[str]:
    """The columns, as they are known here."""
    number, header = named
    taken = {
        name
        for action in ACTIONS.values()
        for own_name, info in action.params.model_fields.items()
        for name in written_names(own_name, info)
    }
    columns = [_folded(name, {*_FIELDS, *taken}) for name in header]
    while columns and not columns[-1]:
        columns.pop()
    for place, name in enumerate(columns):
        if not name:
            problem: Problem = InvalidInput(f"column {place + 1} has no name", field="file")
            mistakes.add(number, None, problem)
        elif name in columns[:place]:
            mistakes.add(number, name, InvalidInput("it is there twice"))
        elif name not in _FIELDS and name.partition(".")[0] not in taken:
            known = sorted({*_FIELDS, *taken})
            otherwise = f" nor one of {', '.join(_FIELDS)}"
            why = f"it is no parameter of any action{did_you_mean(name, known, otherwise)}"
            mistakes.add(number, name, UnknownField(why))
    if "action" not in columns:
        why = "there is no column 'action'; the first row names the columns"
        mistakes.add(number, None, MissingField(why, field="action"))
    return columns


def _folded(name: str, known: set[str]) -> str:
    """``Size`` and ``Depends on`` as they are known; what is not is left as it was written."""
    written = name.strip()
    head, dot, entry = written.partition(".")
    folded = re.sub(r"[\s-]+", "_", head.strip().casefold())
    return f"{folded}{dot}{entry}" if folded in known else written


def _filled(
    number: int, row: Sequence[str], columns: Sequence[str], mistakes: _Mistakes
) -> dict[str, str]:
    """The cells of a row that are not empty, by column."""
    for value in row[len(columns) :]:
        if value.strip():
            why = (
                f"{value!r} stands beyond the last column, {columns[-1]}; quote a cell that holds "
                "the separator"
            )
            mistakes.add(number, None, InvalidInput(why, field="file"))
    cells = {name: value.strip() for name, value in zip(columns, row, strict=False)}
    return {name: value for name, value in cells.items() if value}


def _refs(filled: Sequence[tuple[int, Mapping[str, str]]], mistakes: _Mistakes) -> set[str]:
    """The refs of a file, each once."""
    rows: dict[str, int] = {}
    for number, cells in filled:
        ref = cells.get("ref")
        if ref is not None and rows.setdefault(ref, number) != number:
            why = f"ref {ref!r} is used in row {rows[ref]} already"
            mistakes.add(number, "ref", InvalidInput(why))
    return set(rows)


def _job(number: int, cells: dict[str, str], refs: set[str], mistakes: _Mistakes) -> dict[str, Any]:
    """The job of a row, checked as far as can be without the service."""
    action = cells.get("action")
    if action is None:
        mistakes.add(number, "action", MissingField("the cell is empty"))
        return {}
    if action not in ACTIONS:
        mistakes.add(number, "action", UnknownAction(no_such_action(action)))
        return {}
    job: dict[str, Any] = {}
    params: dict[str, Any] = {}
    readable = True
    for column, value in cells.items():
        try:
            if column in _FIELDS:
                job[column] = _field(column, value, refs)
            else:
                _check_taken(action, column)
                add_param(params, action, column, value)
        except Problem as problem:
            mistakes.add(number, column, problem)
            readable = False
    job["params"] = params
    if readable:
        try:
            parse_request(job)
        except Problem as problem:
            for one in _each(problem):
                mistakes.add(number, _column_of(one.field, cells), one)
    return job


def _each(problem: Problem) -> Iterator[Problem]:
    """All that a problem tells of, one by one."""
    for one in problem.facts.get("errors") or ():
        yield problem_for(one["code"])(one["detail"], field=one["field"])
    if "errors" not in problem.facts:
        yield problem


def _field(column: str, value: str, refs: set[str]) -> Any:
    if column == "depends_on":
        names = [name for name in re.split(r"[\s,;]+", value) if name]
        # A name given in the file goes before an id that looks the same.
        return [int(n) if n.isdecimal() and n not in refs else n for n in names]
    if column in _NUMBERS:
        try:
            return int(value)
        except ValueError:
            raise InvalidInput(f"{value!r} is no whole number") from None
    return value


def _check_taken(action: str, column: str) -> None:
    name = column.partition(".")[0]
    if parameter(action, name) is None:
        taken = ", ".join(ACTIONS[action].params.model_fields)
        raise UnknownParameter(f"{action} takes no parameter {name!r}; it takes {taken or 'none'}")


def _column_of(field: str | None, cells: dict[str, str]) -> str:
    """The column that a field of a job request came from."""
    parts = (field or "").split(".")
    if parts[0] != "params":
        return parts[0]
    name = parts[1] if len(parts) > 1 else "params"
    info = parameter(cells["action"], name)
    names = written_names(name, info) if info is not None else (name,)
    written = [column for column in cells if column in names]
    entries = [".".join(parts[1:3]), *(column for column in cells if column.startswith(f"{name}."))]
    return next((c for c in (*written, *entries) if c in cells), names[0])
