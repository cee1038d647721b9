"""What an audit has seen of a backend's storage, kept on the disk: however much, little memory."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from workers.backends.base.facts import SnapshotFacts, VolumeFacts

#: How much of it SQLite may keep in memory, in KiB.
_CACHE = 8192
#: Rows read and written at a time.
PAGE = 500
_WITHIN = "id IN (SELECT value FROM json_each(?))"


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


class Plain(NamedTuple):
    """What a volume and its record are compared by at first."""

    name: str
    size_bytes: int
    metadata: Mapping[str, str]
    settings: Mapping[str, Any]
    policy: str | None
    #: Of each, in their order: its id, its name, its size.
    snapshots: list[list[Any]]


#: The order in which values are kept.
_VOLUME, _SNAPSHOT = (
    tuple(field.name for field in fields(kind)) for kind in (VolumeFacts, SnapshotFacts)
)
_PLAIN = [_VOLUME.index(name) for name in Plain._fields[:-1]]
_PLAIN_OF_SNAPSHOT = [_SNAPSHOT.index(name) for name in ("id", "name", "size_bytes")]


class Seen:
    """Volumes of a backend's storage, and the lanes that jobs had meanwhile."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(f"PRAGMA cache_size = -{_CACHE}")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(
            "CREATE TABLE volumes (number INTEGER PRIMARY KEY, id TEXT, facts TEXT, "
            "ordinary INTEGER NOT NULL, matched INTEGER NOT NULL DEFAULT 0)"
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
        several = ([[*vars(one).values()] for one in some] for some in (snapshots, devices))
        self._db.execute(
            "INSERT INTO volumes (id, facts, ordinary) VALUES (?, ?, ?)",
            (
                facts.id,
                json.dumps([[*vars(facts).values()], *several]),
                _is_ordinary(facts, snapshots),
            ),
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

    def match(self, ids: Iterable[str]) -> dict[str, Plain]:
        """The volumes that bear these stamps, and no two the same one, if nothing about them but
        this is to be compared. All that bear them count as matched from now on."""
        wanted = json.dumps(list(ids))
        rows = self._db.execute(
            f"SELECT id, facts, ordinary FROM volumes WHERE {_WITHIN}",  # noqa: S608
            (wanted,),
        ).fetchall()
        self._db.execute(f"UPDATE volumes SET matched = 1 WHERE {_WITHIN}", (wanted,))  # noqa: S608
        borne = Counter(row[0] for row in rows)
        return {
            id_: _plain(*json.loads(facts)[:2])
            for id_, facts, ordinary in rows
            if ordinary and borne[id_] == 1
        }

    def of(self, ids: Iterable[str]) -> dict[str, list[SeenVolume]]:
        """The volumes that bear these stamps."""
        found: dict[str, list[SeenVolume]] = {}
        for row in self._db.execute(
            f"SELECT number, facts FROM volumes WHERE {_WITHIN} ORDER BY number",  # noqa: S608
            (json.dumps(list(ids)),),
        ):
            one = _read(row)
            found.setdefault(str(one.facts.id), []).append(one)
        return found

    def unmatched(self) -> Iterator[list[SeenVolume]]:
        """The volumes that nobody has asked for, by pages."""
        last = 0
        while rows := self._db.execute(
            "SELECT number, facts FROM volumes "
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
        return bool(self.busy([lane]))

    def busy(self, lanes: Iterable[str]) -> set[str]:
        """Those of these lanes of which a job may have changed what they stand for."""
        wanted = json.dumps(list(lanes))
        rows = self._db.execute(
            "SELECT lane FROM busy WHERE lane IN (SELECT value FROM json_each(?))", (wanted,)
        )
        return {row[0] for row in rows}


@contextmanager
def nothing_seen() -> Iterator[Seen]:
    """An empty store, which is gone afterwards."""
    # SQLite's name for a database in a temporary file of its own.
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        yield Seen(db)


def skipped(volume_id: str) -> str:
    """What `Seen.note_busy` notes of a volume, by its id, that was left out: no lane's name."""
    return f"id {volume_id}"


def _is_ordinary(facts: VolumeFacts, snapshots: Sequence[SnapshotFacts]) -> bool:
    """Whether nobody has it, and nothing shows that others may lay hands on it."""
    images: list[VolumeFacts | SnapshotFacts] = [facts, *snapshots]
    return not facts.attached and all(
        one.links is None and one.owner is None and one.written_at is None for one in images
    )


def _plain(facts: Sequence[Any], snapshots: Sequence[Sequence[Any]]) -> Plain:
    kept = [[one[place] for place in _PLAIN_OF_SNAPSHOT] for one in snapshots]
    return Plain._make([*(facts[place] for place in _PLAIN), kept])


def _read(row: tuple[int, str]) -> SeenVolume:
    number, written = row
    facts, snapshots, devices = json.loads(written)
    return SeenVolume(
        number=number,
        facts=VolumeFacts(**dict(zip(_VOLUME, facts, strict=True))),
        snapshots=tuple(
            SnapshotFacts(**dict(zip(_SNAPSHOT, one, strict=True))) for one in snapshots
        ),
        devices=tuple(SeenDevice(*one) for one in devices),
    )
