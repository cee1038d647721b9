"""What came of each cell: kept by runs, read by the table."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.data.cell import Cell
from tests.rigs.provenance import UNKNOWN, commit

GREEN, RED, LEFT_OUT = "green", "red", "left out"


@dataclass(frozen=True)
class Result:
    """One cell, and how it ended; why it was left out, or what does not hold."""

    cell: Cell
    outcome: str
    why: str = ""
    database: str = "sqlite"
    #: Of the code that it is about.
    commit: str = UNKNOWN


class Record:
    """The cells of a run, and other tests by name."""

    def __init__(self) -> None:
        #: On which the cells are tried.
        self.database = "sqlite"
        self.results: list[Result] = []
        self.whole: dict[str, str] = {}

    def note(self, cell: Cell, outcome: str, why: str = "") -> None:
        self.results.append(Result(cell, outcome, why, self.database, commit()))

    def write(self, directory: Path) -> None:
        """Keep them in a file of this process's own."""
        directory.mkdir(parents=True, exist_ok=True)
        written = {"results": [asdict(one) for one in self.results], "whole": self.whole}
        (directory / f"{uuid.uuid4().hex}.json").write_text(json.dumps(written))


def read(directory: Path) -> Record:
    """What all runs have kept in a directory; of a cell that was tried again, what came last."""
    record, latest = Record(), {}
    for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime):
        written = json.loads(path.read_text())
        for one in written["results"]:
            result = Result(**{**one, "cell": Cell(**one["cell"])})
            latest[result.cell, result.database] = result
        record.whole |= written["whole"]
    record.results = list(latest.values())
    return record
