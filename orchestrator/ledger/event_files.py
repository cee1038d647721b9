"""Event files: copies of numbered and chained events, for others to store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from orchestrator.history.events import read_after
from orchestrator.store.files import NameTakenError, write_lines
from orchestrator.store.lives import present
from orchestrator.store.tables import event_chain, event_commits
from orchestrator.store.transaction import Transaction

#: Events that a file has, about: with the commit that holds the last of so many.
AT_ONCE = 20_000
#: Events that are read at a time.
_PAGE = 1000

#: What is told of an event, as readers of the feed are told it.
_TOLD = (
    "number", "at", "kind", "backend", "volume", "volume_id", "snapshot", "policy", "job_id",
    "actor", "reason", "data",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file with all events from ``first`` to ``last``, and the link of the chain there."""

    first: int
    last: int
    link: str
    file: str
    sha256: str


def export(transaction: Transaction, directory: Path, after: int) -> Exported | None:
    """Write some of the events above number ``after`` to a file; None if there are none.

    ``after`` is 0 or where another export ended. Events that are not in the database any more
    are left out: the result tells with which one it begins. The last line tells the head of
    the chain there.
    """
    oldest = transaction.execute(select(func.min(event_commits.c.base))).scalar()
    start = max(after, oldest or 0)
    end = transaction.execute(
        select(event_chain.c.base, event_chain.c.events, event_chain.c.link)
        .where(event_chain.c.base >= start, event_chain.c.base < start + AT_ONCE)
        .order_by(event_chain.c.base.desc())
        .limit(1)
    ).first()
    if end is None:
        return None
    last, link = end.base + end.events, end.link.hex()
    name, sha256 = _write(transaction, directory, start, last, link)
    return Exported(first=start + 1, last=last, link=link, file=name, sha256=sha256)


def _write(
    transaction: Transaction, directory: Path, start: int, last: int, link: str
) -> tuple[str, str]:
    """The name and the hash of the new file; another's file is never overwritten."""
    name = f"events-{start + 1}-{last}.jsonl.gz"
    more = 1
    while True:
        try:
            return name, write_lines(directory, name, _lines(transaction, start, last, link))
        except NameTakenError:
            # An earlier life of this database, before it was restored, had other events.
            more += 1
            name = f"events-{start + 1}-{last}-{more}.jsonl.gz"


def _lines(
    transaction: Transaction, start: int, last: int, link: str
) -> Iterator[Mapping[str, Any]]:
    number = start
    while rows := read_after(transaction, number, min(_PAGE, last - number)):
        for row in rows:
            told = {name: getattr(row, name) for name in _TOLD}
            yield told if row.objects is None else {**told, "objects": row.objects}
        number = rows[-1].number
        if number >= last:
            break
    yield {"head": {"number": last, "link": link, "epoch": present(transaction).epoch}}
