"""Archives of events: the oldest leave the database for files, and the chain tells where to.

A file is on the disk, whole, before the transaction that deletes its events ends. That
transaction also writes what there is to know of the file, as a row and as an event: the file is
vouched for by the chain that its events have left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import WrongState
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.ledger import chain
from orchestrator.ledger.chapters import (
    VOUCHING,
    Chapter,
    Document,
    last_named,
    name_of,
    told_format,
)
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.files import NameTakenError, write_lines
from orchestrator.store.tables import event_archives, event_chain, event_commits, events
from orchestrator.store.transaction import Transaction

#: Events that leave in one transaction, which are one file; at least one commit.
AT_ONCE = 10_000
#: Fewer events than that wait so long for others: not each few are a file of their own.
_WAITING_DAYS = 1.0
#: The advisory lock of whoever archives events, or deletes archives.
_ARCHIVE_LOCK = 0x6172636869


def archive_events(
    transaction: Transaction,
    key: bytes,
    directory: Path,
    *,
    older_than_days: float,
    most: int = AT_ONCE,
) -> int:
    """Move the oldest events out of the database, if they are old enough; how many it were.

    Only whole commits that have their links, in the order of their numbers. Fewer than ``most``
    wait for others, a day at most (or as long as they had to stay, if that is less). Raises
    `WrongState` if one is not as it was written: that stays where it can be looked into.
    """
    if not alone(transaction):
        return 0
    begin = chain.archived_up_to(transaction)
    base, before = begin.number, begin.link
    limit: datetime = transaction.execute(select(db_now(-older_than_days * 86400.0))).scalar_one()
    waiting = timedelta(days=max(0.0, min(_WAITING_DAYS, older_than_days)))
    waited = _is_older(transaction, base, limit - waiting)
    if not waited and _behind(transaction, base) <= most:
        return 0
    links, full = _due(transaction, base, limit, most)
    if not links or not (waited or full) or _only_of_archives(transaction, links):
        return 0
    links = _as_begun(directory, links)
    last = links[-1].base + links[-1].events
    name = name_of(base, last)
    try:
        sha256 = write_lines(directory, name, _documents(transaction, key, begin, links))
    except NameTakenError:
        raise WrongState(
            f"the archive has a file {name} that is not of this history: move it elsewhere",
            field="retention.archive",
        ) from None
    end = links[-1]
    chapter = Chapter(base, last, name, sha256, before, end.link, end.format, deleted=False)
    _leave(transaction, key, chapter, links)
    return int(last - base)


def alone(transaction: Transaction) -> bool:
    """Whether nobody else archives, until this transaction ends; on SQLite only one writes."""
    return transaction.try_lock(_ARCHIVE_LOCK)


def chapters(transaction: Transaction) -> list[Chapter]:
    """What is recorded of all archives, in their order."""
    rows = transaction.execute(select(event_archives).order_by(event_archives.c.base))
    return [
        Chapter(
            base=row.base,
            last=row.last,
            file=row.file,
            sha256=row.sha256,
            link_before=row.link_before,
            link_after=row.link_after,
            format=row.format,
            deleted=row.deleted_at is not None,
        )
        for row in rows
    ]


def _is_older(transaction: Transaction, number: int, limit: datetime) -> bool:
    """Whether the first commit behind a number is; one without events is looked into, too."""
    links = chain.links_after(transaction, number)[:1]
    if not links:
        return False
    newest = select(func.max(events.c.at)).where(events.c.commit_id == links[0].commit_id)
    at = transaction.execute(newest).scalar()
    return at is None or at < limit


def _behind(transaction: Transaction, number: int) -> int:
    """How many events with links there are behind a number, about."""
    last = transaction.execute(select(func.max(event_chain.c.base))).scalar()
    return 0 if last is None else int(last) + 1 - number


def _only_of_archives(transaction: Transaction, links: Sequence[Any]) -> bool:
    """Whether all that would be archived is what was told of archives: each file of these would
    make the next one. They leave with whatever else comes."""
    if len(links) > chain.PAGE:
        return False
    others = select(events.c.seq).where(
        among(events.c.commit_id, [one.commit_id for one in links]),
        events.c.kind.not_in(VOUCHING),
    )
    return transaction.execute(others.limit(1)).first() is None


def _due(
    transaction: Transaction, number: int, limit: datetime, most: int
) -> tuple[list[Any], bool]:
    """The links of the commits behind a number whose events are all older than ``limit``, and
    whether they are as many as a file shall have."""
    due: list[Any] = []
    total = 0
    while links := chain.links_after(transaction, number):
        ids = [one.commit_id for one in links]
        newest = dict(
            transaction.execute(
                select(events.c.commit_id, func.max(events.c.at))
                .where(among(events.c.commit_id, ids))
                .group_by(events.c.commit_id)
            ).all()
        )
        for one in links:
            total += one.events
            at = newest.get(one.commit_id)
            if due and total > most:
                return due, True
            # One that has lost its events is noticed when it is compared.
            if at is not None and at >= limit:
                return due, False
            due.append(one)
            number = one.base + one.events
    return due, False


def _as_begun(directory: Path, links: list[Any]) -> list[Any]:
    """As many of these as are in a file that was written for a transaction that failed: the new
    one takes its place."""
    ends = {one.base + one.events: place for place, one in enumerate(links, start=1)}
    for path in sorted(directory.glob(f"events-{links[0].base + 1}-*.jsonl.gz")):
        if (place := ends.get(last_named(path))) is not None:
            return links[:place]
    return links


def _documents(
    transaction: Transaction, key: bytes, begin: chain.Place, links: Sequence[Any]
) -> Iterator[Document]:
    """The lines of a file, each commit compared with its link."""
    place, rest = begin, links
    while rest:
        page = chain.bounded(rest[: chain.PAGE])
        rest = rest[len(page) :]
        ids = [one.commit_id for one in page]
        commits = {row.id: row for row in chain.numbered(transaction, ids)}
        found = dict(chain.events_of(transaction, ids))
        for one in page:
            # Of the very rows that go into the file.
            digests = [chain.digest_of(event, one.format) for event in found.get(one.commit_id, ())]
            broken = chain.compare(key, place, one, commits.get(one.commit_id), digests)
            if broken is not None:
                raise WrongState(
                    f"events are not archived: event {broken.number}: {broken.why}",
                    field="retention.events_days",
                )
            yield from _commit(one, found[one.commit_id], begin.link if one is links[0] else None)
            place = chain.Place(one.base + one.events, one.link, one.format)


def _commit(one: Any, found: Sequence[Any], before: bytes | None) -> Iterator[Document]:
    head: Document = {"id": one.commit_id, "events": one.events, "link": one.link.hex()}
    head |= told_format(one.format)
    if before is not None:
        head["before"] = before.hex()
    for event in found:
        told = {name: getattr(event, name) for name in chain.HASHED if name != "seq"}
        if told["objects"] is None:
            del told["objects"]
        document = {"number": one.base + event.seq, **told}
        yield {**document, "commit": head} if event is found[0] else document


def _leave(transaction: Transaction, key: bytes, chapter: Chapter, links: Sequence[Any]) -> None:
    """Delete what is in the file, and tell where it is."""
    ids = [one.commit_id for one in links]
    for start in range(0, len(ids), chain.PAGE):
        page = ids[start : start + chain.PAGE]
        for column in (events.c.commit_id, event_commits.c.id):
            transaction.execute(delete(column.table).where(among(column, page)))
    transaction.execute(delete(event_chain).where(event_chain.c.base < chapter.last))
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    transaction.execute(
        insert(event_archives).values(
            base=chapter.base,
            last=chapter.last,
            file=chapter.file,
            sha256=chapter.sha256,
            link_before=chapter.link_before,
            link_after=chapter.link_after,
            format=chapter.format,
            archived_at=now,
        )
    )
    record(
        transaction,
        [Event(kind=EventKind.EVENTS_ARCHIVED, actor=ENGINE, data=chapter.told(key))],
        now,
    )
