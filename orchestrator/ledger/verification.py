"""Verification from the beginning: the archives in their order, then what the database has.

Who owns the database could cut off its oldest events and write a row that says they are in an
archive. So each archive must be vouched for by an event of the chain that comes after it: that
it was written, or that it was deleted.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import select

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.states import EventKind
from orchestrator.ledger import chain
from orchestrator.ledger.archive import chapters
from orchestrator.ledger.chain import Broken, Verified
from orchestrator.ledger.chapters import VOUCHING, Chapter, Document, Reading, is_signed
from orchestrator.store.tables import events
from orchestrator.store.transaction import Transaction


@dataclass
class _Walk:
    """How far a verification has come, and what it has to find yet."""

    place: chain.Place = chain.START
    events: int = 0
    #: What was read of files, and what was not.
    read: list[Chapter] = field(default_factory=list)
    skipped: list[Chapter] = field(default_factory=list)
    #: Events in the files that vouch for archives.
    vouching: list[Document] = field(default_factory=list)

    def told(self, broken: Broken | None = None) -> Verified:
        return Verified(self.place.number, self.place.link.hex(), self.events, broken)


def verify(
    transaction: Transaction,
    key: bytes,
    directory: Path | None,
    *,
    after: int = 0,
    link: str | None = None,
) -> Iterator[Verified]:
    """Compare the whole record with its chain; as `chain.verify`.

    The archives are read in ``directory``; without one, they are left out. What was left out,
    and what the retention has deleted, `unread` tells.
    """
    known = chapters(transaction)
    if after and after >= (known[-1].last if known else 0):
        yield from chain.verify(transaction, key, after=after, link=link)
        return
    walk = _Walk()
    for chapter in known:
        if chapter.last > after:
            broken = _chapter(walk, chapter, directory, key, after, link)
        else:
            walk.place = chapter.end
            broken = _begin(chapter.link_after, after, link) if chapter.last == after else None
        yield walk.told(broken)
        if broken is not None:
            return
    verified = walk.told()
    for verified in chain.verify_behind(transaction, key, walk.place):
        yield replace(verified, events=verified.events + walk.events)
    if verified.broken is None:
        broken = _unvouched(key, walk, _vouching(transaction))
        yield replace(verified, events=verified.events + walk.events, broken=broken)


def unread(transaction: Transaction, directory: Path | None, after: int = 0) -> list[str]:
    """What a verification does not look at, in sentences."""
    told = []
    known = [one for one in chapters(transaction) if one.last > after]
    if gone := [one for one in known if one.deleted]:
        told.append(f"events {gone[0].base + 1} to {gone[-1].last}: deleted, as the retention says")
    there = [one for one in known if not one.deleted]
    if there and directory is None:
        told.append(f"events {there[0].base + 1} to {there[-1].last}: they are in archives")
    return told


def _chapter(
    walk: _Walk,
    chapter: Chapter,
    directory: Path | None,
    key: bytes,
    after: int,
    link: str | None,
) -> Broken | None:
    """Go on by one archive."""
    why = chain.why_not_next(walk.place.format, chapter.format)
    if (chapter.base, chapter.link_before) != walk.place[:2]:
        why = "what is recorded of it does not continue what is before it"
    if why is not None:
        return Broken(walk.place.number + 1, f"the archive {chapter.file}: {why}")
    begins = chapter.base < after
    if begins and (chapter.deleted or directory is None):
        why = "was deleted" if chapter.deleted else "is left out"
        raise InvalidInput(
            f"event {after} is in the archive {chapter.file}, which {why}: begin with "
            f"{chapter.last} or later",
            field="after",
        )
    if chapter.deleted or directory is None:
        walk.skipped.append(chapter)
    else:
        reading = Reading(directory / chapter.file, chapter, key, walk.place)
        if (broken := reading.compare(after)) is not None:
            return broken
        if begins and (broken := _begin(reading.links.get(after), after, link)) is not None:
            return broken
        walk.read.append(chapter)
        walk.vouching += reading.vouching
        walk.events += chapter.last - max(chapter.base, after)
    walk.place = chapter.end
    return None


def _begin(there: bytes | None, after: int, link: str | None) -> Broken | None:
    """Compare the link at which an earlier verification ended."""
    if there is None and link is None:
        raise InvalidInput(
            f"no link ends with event {after}: begin with a number that 'audit head' or an earlier "
            "verification has told",
            field="after",
        )
    if there is None:
        return Broken(after, "no link ends there: it was cut off")
    if link is not None and not hmac.compare_digest(link, there.hex()):
        return Broken(after, "the chain had another link there")
    return None


def _vouching(transaction: Transaction) -> list[Document]:
    """The events in the database that vouch for archives; they are verified, or newer than the
    newest link."""
    query = select(events.c.kind, events.c.data).where(events.c.kind.in_(VOUCHING))
    return [{"kind": row.kind, "data": row.data} for row in transaction.execute(query)]


def _unvouched(key: bytes, walk: _Walk, found: Sequence[Document]) -> Broken | None:
    """The first archive that nothing vouches for which was written with the key.

    Of those that were not read the last one counts, where what was read begins.
    """
    everything = [
        one for one in (*walk.vouching, *found) if is_signed(key, one["kind"], one["data"] or {})
    ]
    written = [one["data"] for one in everything if one["kind"] == EventKind.EVENTS_ARCHIVED]
    deleted = [
        (one["data"]["events"]["last"], one["data"]["events"]["link"])
        for one in everything
        if one["kind"] == EventKind.ARCHIVES_DELETED and "events" in one["data"]
    ]
    for chapter in (*walk.skipped[-1:], *walk.read):
        if chapter.deleted:
            vouched = (chapter.last, chapter.link_after.hex()) in deleted
        else:
            vouched = chapter.told(key) in written
        if not vouched:
            what = "was deleted" if chapter.deleted else "was written so"
            why = f"no event of the chain tells that the archive {chapter.file} {what}"
            return Broken(chapter.base + 1, why)
    return None
