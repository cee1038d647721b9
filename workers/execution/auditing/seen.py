"""What an audit has seen of a backend's storage, kept on the disk: however much, little memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from workers.backends.base.facts import SnapshotFacts, VolumeFacts

#: How much of it SQLite may keep in memory, in KiB.
_CACHE = 8192
#: Rows read and written at a time.
PAGE = 500


@dataclass(frozen=True)
class SeenDevice:
    """A device of a volume on this host; None: it has none but addresses, or tells no size."""

    path: str | None
    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class SeenVolume:
    """One volume on the storage."""

    number: int
    facts: VolumeFacts
    snapshots: tuple[SnapshotFacts, ...]
    devices: tuple[SeenDevice, ...]


class Seen:
    """Volumes of a backend's storage, and the lanes that jobs had meanwhile."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(f"PRAGMA cache_size = -{_CACHE}")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(
            "CREATE TABLE volumes (number INTEGER PRIMARY KEY, id TEXT, facts TEXT, "
            "snapshots TEXT, devices TEXT, matched INTEGER NOT NULL DEFAULT 0)"
        )
        db.execute("CREATE INDEX by_id ON volumes (id)")
        db.execute("CREATE TABLE strays (number INTEGER PRIMARY KEY, volume TEXT, name TEXT)")
        db.execute("CREATE INDEX strays_of ON strays (volume)")
        db.execute("CREATE TABLE busy (lane TEXT PRIMARY KEY) WITHOUT ROWID")
        # Nobody else sees it, and nothing of it stays: it is one transaction that never commits.
        db.execute("BEGIN")

    def add(
        self,
        facts: VolumeFacts,
        snapshots: Sequence[SnapshotFacts],
        devices: Sequence[SeenDevice],
    ) -> None:
        """Note a volume."""
        kept = (json.dumps([vars(one) for one in several]) for several in (snapshots, devices))
        self._db.execute(
            "INSERT INTO volumes (id, facts, snapshots, devices) VALUES (?, ?, ?, ?)",
            (facts.id, json.dumps(vars(facts)), *kept),
        )

    def add_stray(self, volume_id: str, facts: SnapshotFacts) -> None:
        """Note a snapshot whose volume is not there."""
        self._db.execute("INSERT INTO strays (volume, name) VALUES (?, ?)", (volume_id, facts.name))

    def strays(self, volume_id: str) -> list[str]:
        """The snapshots of a volume that is not there."""
        rows = self._db.execute(
            "SELECT name FROM strays WHERE volume = ? ORDER BY number", (volume_id,)
        )
        return [row[0] for row in rows]

    def stray_volumes(self) -> Iterator[list[str]]:
        """The volumes that are not there and have snapshots, by pages."""
        last = ""
        while rows := self._db.execute(
            "SELECT DISTINCT volume FROM strays WHERE volume > ? ORDER BY volume LIMIT ?",
            (last, PAGE),
        ).fetchall():
            last = rows[-1][0]
            yield [row[0] for row in rows]

    def count(self) -> int:
        """How many volumes were seen."""
        return int(self._db.execute("SELECT count(*) FROM volumes").fetchone()[0])

    def of(self, ids: Iterable[str]) -> dict[str, list[SeenVolume]]:
        """The volumes that bear these stamps; they count as matched from now on."""
        wanted = json.dumps(list(ids))
        found: dict[str, list[SeenVolume]] = {}
        within = "id IN (SELECT value FROM json_each(?))"
        for row in self._db.execute(
            f"SELECT number, facts, snapshots, devices FROM volumes WHERE {within} ORDER BY number",  # noqa: S608
            (wanted,),
        ):
            one = _read(row)
            found.setdefault(str(one.facts.id), []).append(one)
        self._db.execute(f"UPDATE volumes SET matched = 1 WHERE {within}", (wanted,))  # noqa: S608
        return found

    def unmatched(self) -> Iterator[list[SeenVolume]]:
        """The volumes that nobody has asked for, by pages."""
        last = 0
        while rows := self._db.execute(
            "SELECT number, facts, snapshots, devices FROM volumes "
            "WHERE matched = 0 AND number > ? ORDER BY number LIMIT ?",
            (last, PAGE),
        ).fetchall():
            last = rows[-1][0]
            yield [_read(row) for row in rows]

    def several(self, ids: Iterable[str]) -> set[str]:
        """Those of these stamps that more than one volume bears."""
        wanted = json.dumps(list(ids))
        rows = self._db.execute(
            "SELECT id FROM volumes WHERE id IN (SELECT value FROM json_each(?)) "
            "GROUP BY id HAVING count(*) > 1",
            (wanted,),
        )
        return {row[0] for row in rows}

    def note_busy(self, lanes: Iterable[str]) -> None:
        """Note lanes of jobs that may have changed something since the audit began."""
        self._db.executemany(
            "INSERT INTO busy VALUES (?) ON CONFLICT DO NOTHING", ((lane,) for lane in lanes)
        )

    def is_busy(self, lane: str) -> bool:
        """Whether a job may have changed what this lane stands for."""
        row = self._db.execute("SELECT 1 FROM busy WHERE lane = ?", (lane,)).fetchone()
        return row is not None


@contextmanager
def nothing_seen() -> Iterator[Seen]:
    """An empty store, which is gone afterwards."""
    # SQLite's name for a database in a temporary file of its own.
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        yield Seen(db)


def skipped(volume_id: str) -> str:
    """What `Seen.note_busy` notes of a volume, by its id, that was left out: no lane's name."""
    return f"id {volume_id}"


def _read(row: tuple[int, str, str, str]) -> SeenVolume:
    number, facts, snapshots, devices = row
    return SeenVolume(
        number=number,
        facts=VolumeFacts(**json.loads(facts)),
        snapshots=tuple(SnapshotFacts(**one) for one in json.loads(snapshots)),
        devices=tuple(SeenDevice(**one) for one in json.loads(devices)),
    )
