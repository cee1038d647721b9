"""What came of each cell: kept by runs, read by the table."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.chaos.cases import CASES
from tests.chaos.faults import FAULTS
from tests.rigs.provenance import UNKNOWN, commit

GREEN = "green"
RED = "red"


@dataclass(frozen=True)
class Result:
    """One cell."""

    role: str
    action: str
    step: str
    fault: str
    driver: str
    database: str
    outcome: str
    #: Of the code that it is about.
    commit: str = UNKNOWN


@dataclass(frozen=True)
class Absent:
    """A point that an action does not pass: there is no cell."""

    role: str
    action: str
    point: str
    driver: str
    database: str


class Record:
    """The cells of one run, what there was no cell for, and what could not be tried here."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.absent: set[Absent] = set()
        self.untried: dict[str, str] = {}
        #: Other tests by name, and how they ended.
        self.whole: dict[str, str] = {}

    def note(self, result: Result) -> None:
        self.results.append(replace(result, commit=commit()))

    def write(self, directory: Path) -> None:
        """Keep them in a file of this process's own."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{uuid.uuid4().hex}.json"
        path.write_text(
            json.dumps(
                {
                    "results": [asdict(result) for result in self.results],
                    "absent": [asdict(absent) for absent in self.absent],
                    "untried": self.untried,
                    "whole": self.whole,
                }
            )
        )


def read(directory: Path) -> Record:
    """What all runs have kept of the cells that there still are; of one that was tried again, what
    came last.
    """
    record = Record()
    latest: dict[Result, Result] = {}
    for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime):
        written = json.loads(path.read_text())
        for result in (Result(**result) for result in written["results"]):
            if result.action in CASES and result.fault in FAULTS:
                latest[replace(result, outcome="", commit="")] = result
        absent = (Absent(**one) for one in written["absent"])
        record.absent |= {one for one in absent if one.action in CASES}
        record.untried |= written["untried"]
        record.whole |= written["whole"]
    record.results = list(latest.values())
    return record
