"""Reads batch files: CSV, JSON or NDJSON; errors name the place in the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.actions.requests import MAX_BATCH
from orchestrator.cli.sheets import read_sheet
from orchestrator.domain import exact
from orchestrator.domain.errors import (
    InvalidInput,
    InvalidSize,
    MalformedBody,
    Problem,
    UnknownField,
)
from orchestrator.domain.sizes import doubt, parse_size


@dataclass(frozen=True)
class BatchFile:
    """The jobs of a file, and where in it each stands."""

    jobs: list[dict[str, Any]]
    #: ``row 3``, ``line 3`` or ``job 3``.
    places: list[str]
    reason: str | None = None

    def doubts(self) -> list[str]:
        """A sentence about each size whose unit was probably forgotten."""
        told = []
        for place, job in zip(self.places, self.jobs, strict=True):
            params = job.get("params")
            written = (
                params.get("size", params.get("size_bytes")) if isinstance(params, dict) else None
            )
            try:
                doubtful = None if written is None else doubt(parse_size(written))
            except InvalidSize:
                continue  # for the service to refuse
            if doubtful is not None:
                told.append(f"{place}: {doubtful}")
        return told

    @contextmanager
    def naming_places(self) -> Iterator[None]:
        """Say of a refusal of one job where that job stands in the file."""
        try:
            yield
        except Problem as problem:
            index = problem.facts.get("index")
            told = "line" in problem.facts  # the service has read lines and names one
            if isinstance(index, int) and index < len(self.places) and not told:
                _name(problem, self.places[index])
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


def read_csv(text: str) -> BatchFile:
    """The jobs of a table; see `orchestrator.cli.sheets`."""
    return BatchFile(*read_sheet(text))


def read_json(text: str) -> BatchFile:
    """The jobs of a JSON array, or of an object with ``jobs`` and ``reason``."""
    try:
        written = exact.read_json(text, "the file", "file")
    except MalformedBody as problem:
        index = next((key for key in problem.facts.get("path", ()) if isinstance(key, int)), None)
        if index is not None:
            _name(problem, f"job {index + 1}")
        raise
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
            job = exact.read_json(line, place, "file")
        except MalformedBody as problem:
            problem.facts["line"] = number
            if "path" in problem.facts:
                _name(problem, place)
            raise
        _check_object(place, job)
        jobs.append(job)
        places.append(place)
    return BatchFile(jobs, places)


def _name(problem: Problem, place: str) -> None:
    """Say in a problem where in the file it is."""
    problem.detail = f"{place}: {problem.detail}"
    problem.args = (problem.detail,)


def _check_object(place: str, job: Any) -> None:
    if not isinstance(job, dict):
        raise InvalidInput(f'{place} is no object such as {{"action": …}}', field="file")


_READERS = {".csv": read_csv, ".json": read_json, ".ndjson": read_ndjson}
