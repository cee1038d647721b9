"""A database that was restored from a backup: noticed, and told, before rules act on it.

The scheduler keeps the newest link of the chain of events beside the database, in its data
directory. A database that no longer has that link is older than it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import Connection, select, update

from orchestrator.audit import chain
from orchestrator.audit.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.tables import installation

_FILE = "audit.head"
_ENGINE = "orchestrator"


class Watch:
    """What a scheduler remembers of the chain, on its own disk."""

    def __init__(self, data: Path) -> None:
        self._path = data / _FILE
        self._kept = _read(self._path)

    def is_older(self, connection: Connection) -> bool:
        """Whether the database lacks what it had when this was kept last."""
        kept = self._kept
        if kept is None or kept["installation"] != _uuid(connection):
            return False
        return not chain.has_link(connection, kept["number"], kept["link"])

    def keep(self, connection: Connection) -> None:
        """Remember the newest link."""
        head = chain.head(connection)
        if head is None:
            return
        number, link = head
        told = {"installation": _uuid(connection), "number": number, "link": link}
        if told != self._kept:
            _write(self._path, told)
            self._kept = told


def note_restored(connection: Connection) -> None:
    """Note that the database is older than it was: rules repair nothing until that is undone."""
    row = connection.execute(
        select(installation.c.restored_at, db_now().label("now")).with_for_update()
    ).one()
    if row.restored_at is None:
        connection.execute(update(installation).values(restored_at=row.now))
        record(connection, [Event(kind="database.restored", actor=_ENGINE)], row.now)


def acknowledge(connection: Connection, actor: str, reason: str | None) -> dict[str, Any]:
    """Note that somebody has seen to a restored database: rules act again."""
    row = connection.execute(
        select(installation.c.restored_at, db_now().label("now")).with_for_update()
    ).one()
    if row.restored_at is not None:
        connection.execute(update(installation).values(restored_at=None))
        event = Event(kind="database.acknowledged", actor=actor, reason=reason)
        record(connection, [event], row.now)
    return state(connection)


def state(connection: Connection) -> dict[str, Any]:
    """When the database was found to be older than it had been; None if it is not, or that
    was acknowledged."""
    return {"restored_at": connection.execute(select(installation.c.restored_at)).scalar()}


def _uuid(connection: Connection) -> str:
    return str(connection.execute(select(installation.c.uuid)).scalar_one())


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(kept, dict) and {"installation", "number", "link"} <= kept.keys()
    return kept if known else None


def _write(path: Path, told: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{_FILE}.", encoding="ascii", delete=False
    ) as new:
        json.dump(told, new)
        new.flush()
        os.fsync(new.fileno())
    Path(new.name).replace(path)
