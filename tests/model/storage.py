"""What the `memory` backend really holds, read past its driver, and who changed it when."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from workers.backends.memory.store import place


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot on the storage."""

    id: str
    name: str
    size: int
    contents: bytes


@dataclass(frozen=True)
class StoredVolume:
    """A volume on the storage. ``attached``: None, ``ro`` or ``rw``."""

    id: str
    name: str
    size: int
    contents: bytes
    metadata: dict[str, str] = field(hash=False)
    attached: str | None
    restored_by: int | None
    snapshots: dict[str, StoredSnapshot] = field(hash=False)


#: All of a backend, by the ids of its volumes.
Stored = dict[str, StoredVolume]


def look(backend: str, installation: str) -> Stored:
    """Everything on the storage at this moment."""
    path = place(backend, installation)
    with closing(sqlite3.connect(path)) as db:
        attached = dict(db.execute("SELECT volume, read_only FROM attachments").fetchall())
        snapshots: dict[str, dict[str, StoredSnapshot]] = {}
        for volume, *facts in db.execute(
            "SELECT volume, id, name, size, contents FROM snapshots ORDER BY n"
        ):
            snapshots.setdefault(volume, {})[facts[0]] = StoredSnapshot(*facts)
        return {
            row[0]: StoredVolume(
                id=row[0],
                name=row[1],
                size=row[2],
                contents=row[3],
                metadata=json.loads(row[4]),
                attached={None: None, 0: "rw", 1: "ro"}[attached.get(row[0])],
                restored_by=row[5],
                snapshots=snapshots.get(row[0], {}),
            )
            for row in db.execute(
                "SELECT id, name, size, contents, metadata, restored_by FROM volumes ORDER BY n"
            )
        }


@dataclass(frozen=True)
class Effect:
    """One call that changed the storage."""

    operation: str
    job_id: int
    fence: int
    #: The last event there was at that moment.
    after_event: int
    before: Stored
    after: Stored


class Effects:
    """What drivers have changed, in order."""

    def __init__(self, look: Callable[[], Stored], last_event: Callable[[], int]) -> None:
        self._look = look
        self._last_event = last_event
        self.all: list[Effect] = []

    @contextmanager
    def noted(self, operation: str, job_id: int, fence: int) -> Iterator[None]:
        """Note what this call changes, however it ends."""
        before = self._look()
        try:
            yield
        finally:
            after = self._look()
            if after != before:
                self.all.append(Effect(operation, job_id, fence, self._last_event(), before, after))
