"""What a host knows of how its backend's volumes were made and removed: a note for each.

A provider can keep no stamp, so only such a note tells what a job of ours has begun from
nothing: that, and nothing else, may be taken away again. It is on the disk before the script
that it is about begins.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from workers.backends.base.attachments import made
from workers.backends.base.call import Call
from workers.backends.base.references import VolumeRef


class Stage(StrEnum):
    """How far it has come."""

    #: The script that makes it was begun, and has not been seen to end.
    BEGUN = "begun"
    #: The script has ended with success.
    MADE = "made"
    #: It is what was asked for.
    DONE = "done"
    #: The script has ended with an error: what is there, if anything, is not ours to take away.
    REFUSED = "refused"
    #: It was wiped, and is about to be removed.
    WIPED = "wiped"
    #: The script that removes it has ended with success.
    REMOVED = "removed"


@dataclass(frozen=True)
class Note:
    """What is known of one volume."""

    stage: Stage
    #: The job that has done it, as no other life of the database names its own.
    token: str
    #: The size that was asked for; of what was wiped, how much was overwritten.
    size_bytes: int = 0
    #: The script that makes it had ended with an error before: it was not begun from nothing.
    refused: bool = False


class Notes:
    """The notes of one backend on this host."""

    def __init__(self, room: Path) -> None:
        self._room = room / "volumes"

    def of(self, volume_id: str) -> Note | None:
        """What is known of it; None: nothing."""
        try:
            known = json.loads((self._room / volume_id).read_text())
            return Note(
                Stage(known["stage"]),
                str(known["token"]),
                int(known["size_bytes"]),
                bool(known.get("refused", False)),
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
            return None

    def write(self, volume_id: str, note: Note) -> None:
        """Put it on the disk."""
        new = made(self._room) / f".{volume_id}"
        with new.open("w") as file:
            json.dump(asdict(note), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._room / volume_id)
        directory = os.open(self._room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def forget_removed(self, days: float) -> None:
        """Delete the notes of what was removed longer ago."""
        if not self._room.is_dir():
            return
        for path in self._room.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime < days * 86400:
                    continue
                note = self.of(path.name)
                if note is not None and note.stage in (Stage.REMOVED, Stage.REFUSED):
                    path.unlink()


def is_begun_by(note: Note | None, volume: VolumeRef, call: Call) -> bool:
    """Whether this job has begun the volume, on this host and from nothing."""
    begun = (Stage.BEGUN, Stage.MADE, Stage.DONE)
    return (
        note is not None
        and note.token == call.token
        and note.stage in begun
        and not note.refused
        and volume.size_bytes is None
    )
