"""Reads batch files: CSV as spreadsheets write it, JSON, or NDJSON; errors name row and column."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.key_values import add_param, parameter
from orchestrator.domain.actions import ACTIONS, written_names
from orchestrator.domain.errors import (
    InvalidInput,
    MalformedBody,
    MissingField,
    Problem,
    UnknownAction,
    UnknownField,
    UnknownParameter,
)
from orchestrator.domain.requests import MAX_BATCH, JobOptions, no_such_action, parse_request

_TARGETS = ("backend", "volume", "snapshot", "policy", "host")
#: Columns that are no parameters.
_FIELDS = ("ref", "action", *_TARGETS, *JobOptions.model_fields)
_NUMBERS = ("priority", "max_attempts")


@dataclass(frozen=True)
class BatchFile:
    """The jobs of a file, and where in it each stands."""

    jobs: list[dict[str, Any]]
    #: ``row 3``, ``line 3`` or ``job 3``.
    places: list[str]
    reason: str | None = None

    @contextmanager
    def naming_places(self) -> Iterator[None]:
        """Say of a refusal of one job where that job stands in the file."""
        try:
            yield
        except Problem as problem:
            index = problem.facts.get("index")
            told = "line" in problem.facts  # the service has read lines and names one
            if isinstance(index, int) and index < len(self.places) and not told:
                problem.detail = f"{self.places[index]}: {problem.detail}"
                problem.args = (problem.detail,)
                problem.facts["place"] = self.places[index]
            raise


def read_batch(path: Path) -> BatchFile:
    """The jobs of a ``.csv``, ``.json`` or ``.ndjson`` file; ``-`` is standard input.

    What the name does not tell, the first character does. Raises `InvalidInput` and its kin.
    """
    try:
        written = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="file") from None
    try:
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = written[: error.start].count(b"\n") + 1
        raise MalformedBody(
            f"{path}: line {line} is not UTF-8: save the file as UTF-8", field="file"
        ) from None
    batch = _READERS[_format_of(path, text)](text)
    if not batch.jobs:
        raise InvalidInput(f"{path} holds no jobs", field="file")
    if len(batch.jobs) > MAX_BATCH:
        raise InvalidInput(
            f"{path} holds {len(batch.jobs)} jobs; a batch has at most {MAX_BATCH}: split it",
            field="file",
        )
    return batch


def _format_of(path: Path, text: str) -> str:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".json", ".ndjson"):
        return suffix
    if suffix == ".jsonl":
        return ".ndjson"
    first = text.lstrip()[:1]
    if first == "[":
        return ".json"
    if first != "{":
        return ".csv"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return ".ndjson"
    # One object: a whole batch has "jobs", a single line is a job.
    return ".json" if '"jobs"' in text else ".ndjson"


# -- CSV ----------------------------------------------------------------------------------


def read_csv(text: str) -> BatchFile:
    """The jobs of a table: a row each, its columns named by the first row.

    The columns ``ref``, ``action``, ``backend``, ``volume``, ``snapshot``, ``policy``, ``host``,
    ``depends_on`` (refs or ids, separated by blanks, commas or semicolons), ``priority`` and
    the other options of a job are known; any other is a parameter, such as ``size`` or
    ``metadata.owner``. An empty cell is absent. Rows are counted as spreadsheets do: the one
    with the names is row 1.
    """
    rows = _rows(text)
    first = next(rows, None)
    if first is None:
        raise InvalidInput("the file is empty: its first row names the columns", field="file")
    columns = _columns(first[1])
    filled = [(number, _filled(number, row, columns)) for number, row in rows]
    filled = [(number, cells) for number, cells in filled if cells]
    refs = {cells["ref"] for _, cells in filled if "ref" in cells}
    jobs = [_job(number, cells, refs) for number, cells in filled]
    return BatchFile(jobs, [f"row {number}" for number, _ in filled])


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows and their numbers."""
    header = text.partition("\n")[0]
    # Where the comma is the decimal sign, spreadsheets separate by semicolons.
    delimiter = max(",;\t", key=header.count)
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


def _columns(header: Sequence[str]) -> list[str]:
    columns = [name.strip() for name in header]
    while columns and not columns[-1]:
        columns.pop()
    taken = {
        name
        for action in ACTIONS.values()
        for own_name, info in action.params.model_fields.items()
        for name in written_names(own_name, info)
    }
    for place, name in enumerate(columns):
        if not name:
            raise InvalidInput(f"row 1: column {place + 1} has no name", field="file")
        if name in columns[:place]:
            raise InvalidInput(f"row 1, column {name}: it is there twice", field=name)
        if name not in _FIELDS and name.partition(".")[0] not in taken:
            raise UnknownField(
                f"row 1, column {name}: it is neither one of {', '.join(_FIELDS)} nor a "
                "parameter of any action",
                field=name,
                row=1,
                column=name,
            )
    if "action" not in columns:
        raise MissingField(
            "row 1: there is no column 'action'; the first row names the columns", field="action"
        )
    return columns


def _filled(number: int, row: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """The cells of a row that are not empty, by column."""
    for value in row[len(columns) :]:
        if value.strip():
            raise InvalidInput(
                f"row {number}: {value!r} stands beyond the last column, {columns[-1]}; quote a "
                "cell that holds the separator",
                field="file",
                row=number,
            )
    cells = {name: value.strip() for name, value in zip(columns, row, strict=False)}
    return {name: value for name, value in cells.items() if value}


def _job(number: int, cells: dict[str, str], refs: set[str]) -> dict[str, Any]:
    """The job of a row, checked as far as can be without the service."""
    action = cells.get("action")
    if action is None:
        raise _at(number, "action", MissingField("the cell is empty"))
    if action not in ACTIONS:
        raise _at(
            number,
            "action",
            UnknownAction(no_such_action(action)),
        )
    job: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for column, value in cells.items():
        try:
            if column in _FIELDS:
                job[column] = _field(column, value, refs)
            else:
                _check_taken(action, column)
                add_param(params, action, column, value)
        except Problem as problem:
            raise _at(number, column, problem) from None
    job["params"] = params
    try:
        parse_request(job)
    except Problem as problem:
        raise _at(number, _column_of(problem.field, cells), problem) from None
    return job


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


def _at(number: int, column: str, problem: Problem) -> Problem:
    """The problem, saying where in the table it is."""
    detail = problem.detail.removeprefix(f"{problem.field}: ") if problem.field else problem.detail
    facts = {**problem.facts, "row": number, "column": column}
    facts.pop("errors", None)
    return type(problem)(f"row {number}, column {column}: {detail}", field=column, **facts)


# -- JSON ---------------------------------------------------------------------------------


def read_json(text: str) -> BatchFile:
    """The jobs of a JSON array, or of an object with ``jobs`` and ``reason``."""
    written: Any
    try:
        written = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the file is no JSON: {error}", field="file") from None
    reason = None
    if isinstance(written, dict):
        unknown = set(written) - {"jobs", "reason"}
        if unknown:
            raise UnknownField(
                f"a batch has jobs and reason, not {min(unknown)!r}", field=min(unknown)
            )
        reason = written.get("reason")
        written = written.get("jobs")
    if not isinstance(written, list):
        raise InvalidInput('the file holds no array of jobs: [{"action": …}, …]', field="file")
    places = [f"job {number}" for number in range(1, len(written) + 1)]
    for place, job in zip(places, written, strict=True):
        _check_object(place, job)
    return BatchFile(written, places, reason)


def read_ndjson(text: str) -> BatchFile:
    """The jobs of a file with one JSON object a line."""
    jobs, places = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            job = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MalformedBody(f"{place} is no JSON: {error}", field="file", line=number) from None
        _check_object(place, job)
        jobs.append(job)
        places.append(place)
    return BatchFile(jobs, places)


def _check_object(place: str, job: Any) -> None:
    if not isinstance(job, dict):
        raise InvalidInput(f'{place} is no object such as {{"action": …}}', field="file")


_READERS = {".csv": read_csv, ".json": read_json, ".ndjson": read_ndjson}
