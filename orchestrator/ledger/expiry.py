"""Archives that are deleted, as the retention says; that is itself an event.

The record of it is committed first, the files go after that: whoever dies in between leaves files
that the next run takes away.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select, text, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.ledger.archive import alone
from orchestrator.ledger.chain import require_own
from orchestrator.ledger.chapters import Document, is_signed, name_of, signed
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import UNUSUAL_EVENT, event_archives, events
from orchestrator.store.transaction import Transaction

#: Files that are deleted in one transaction.
AT_ONCE = 100


def expire(
    transaction: Transaction, key: bytes, directory: Path, *, older_than_days: float
) -> list[str]:
    """Record the deletion of archives that are old enough; the files that may go now.

    Of events always the oldest ones. Files of jobs are as old as the last of them has ended, and
    as the file: a wrong clock on this host deletes nothing that is young.
    """
    if not alone(transaction):
        return []
    # What another key signs vouches for nothing.
    require_own(transaction, key)
    limit: datetime = transaction.execute(select(db_now(-older_than_days * 86400.0))).scalar_one()
    told: Document = {}
    files: list[str] = []
    chapters = _chapters(transaction, directory, limit)
    if chapters:
        last = chapters[-1]
        # As they were named, not as a row says that somebody may have altered.
        files = [name_of(one.base, one.last) for one in chapters]
        told["events"] = {
            "first": chapters[0].base + 1,
            "last": last.last,
            "link": last.link_after.hex(),
            "files": files,
        }
        now = transaction.execute(select(db_now())).scalar_one()
        transaction.execute(
            update(event_archives)
            .where(among(event_archives.c.base, [one.base for one in chapters]))
            .values(deleted_at=now)
        )
    if old := _jobs(directory, limit):
        told["jobs"] = {"files": old}
    if not told:
        return []
    now = transaction.execute(select(db_now())).scalar_one()
    record(
        transaction,
        [
            Event(
                kind=EventKind.ARCHIVES_DELETED,
                actor=ENGINE,
                data=signed(key, EventKind.ARCHIVES_DELETED, told),
            )
        ],
        now,
    )
    return files + old


def left_over(transaction: Transaction, key: bytes, directory: Path) -> list[str]:
    """Files whose deletion was recorded, and which are still there.

    Only what an event names that was signed with the key: not what a row says, which whoever
    writes to the database can alter.
    """
    there = {path.name for path in directory.glob("*.jsonl.gz")}
    if not there:
        return []
    # The second condition is the index's own: SQLite takes it for nothing else.
    query = select(events.c.data).where(
        events.c.kind == EventKind.ARCHIVES_DELETED, text(UNUSUAL_EVENT)
    )
    told = transaction.execute(query).scalars()
    named = {
        name
        for one in told
        if is_signed(key, EventKind.ARCHIVES_DELETED, one)
        for name in _files(one)
    }
    return sorted(there & named)


def _files(told: Document) -> list[str]:
    return [name for part in ("events", "jobs") for name in told.get(part, {}).get("files", ())]


def unlink(directory: Path, names: Iterable[str]) -> None:
    """Delete files of the archive."""
    for name in names:
        (directory / name).unlink(missing_ok=True)


def _chapters(transaction: Transaction, directory: Path, limit: datetime) -> list[Any]:
    """The oldest archives of events that are there, as far as they and their files are old enough.

    A row says less than its file: whoever writes to the database makes it as old as they like.
    """
    rows = transaction.execute(
        select(event_archives)
        .where(event_archives.c.deleted_at.is_(None))
        .order_by(event_archives.c.base)
        .limit(AT_ONCE)
    )
    old: list[Any] = []
    for row in rows:
        if row.archived_at >= limit or _is_young(directory / name_of(row.base, row.last), limit):
            break
        old.append(row)
    return old


def _jobs(directory: Path, limit: datetime) -> list[str]:
    """Files of jobs that all ended before ``limit``."""
    old = (
        path.name
        for path in sorted(directory.glob("jobs-*.jsonl.gz"))
        if not _is_young(path, limit) and _all_ended(path, limit)
    )
    return list(islice(old, AT_ONCE))


def _is_young(path: Path, limit: datetime) -> bool:
    """Whether a file was written after ``limit``; what is not there is not."""
    try:
        return path.stat().st_mtime >= limit.timestamp()
    except FileNotFoundError:
        return False


def _all_ended(path: Path, limit: datetime) -> bool:
    """Whether all jobs in a file ended before ``limit``; no, if it cannot be read."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return all(
                datetime.fromisoformat(json.loads(line)["finished_at"]) < limit for line in lines
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return False
