"""The chain: a keyed hash over all numbered events, which shows whether one was changed.

Each commit gets a link: a digest of each of its events, and an HMAC over these and the link
before. Whoever owns the database but not the key can change events, digests and links, and
cannot make them fit again. What the key cannot show is that the newest events were cut off:
for that, keep a head (`head`) elsewhere, and verify with it.

A link has a format. Digests of the first format do not cover the objects that an event lists;
the HMAC of every later one covers the format itself, so that no link can be declared to be of
another. Formats never decrease along the chain.

The scheduler writes links behind the numbering, at a limited pace, so that no writer waits.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from json.encoder import encode_basestring as _quoted
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, func, select, type_coerce

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import Settings
from orchestrator.store.bulk import among, insert_rows
from orchestrator.store.columns import JsonAsWritten, as_written
from orchestrator.store.tables import event_archives, event_chain, event_commits, events
from orchestrator.store.transaction import Transaction
from orchestrator.trust import require_trusted_data, why_untrusted

#: Bytes of the digest of one event.
DIGEST = 16
#: What is wrong with an event that is there and has no link.
_PUT_IN = "it was put in"
#: What stands before the first link.
GENESIS = bytes(32)
#: The first format; the one of new links.
FIRST, FORMAT = 1, 2
#: Commits and events that are read at a time, one commit at least.
PAGE = 500
_MOST_EVENTS = 20_000
#: The advisory lock of whoever writes links.
_CHAIN_LOCK = 0x636861696E

#: What of an event is hashed, in this order; the first format has no objects.
HASHED = (
    "seq", "at", "kind", "backend", "volume", "volume_id", "snapshot", "policy", "job_id",
    "actor", "reason", "data", "objects",
)  # fmt: skip
_AS_WRITTEN = [
    type_coerce(events.c[name], JsonAsWritten).label(name)
    if name in ("data", "objects")
    else events.c[name]
    for name in HASHED
]
#: The same as text: JSON need not be read where the same text was read before.
_TO_BE_HASHED = [
    cast(events.c[name], Text).label(name) if name in ("data", "objects") else events.c[name]
    for name in HASHED
]
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
#: Texts of JSON that are remembered, and how long they may be.
_REMEMBERED, _SHORT = 4096, 1000


_NEWEST = select(event_chain).order_by(event_chain.c.base.desc()).limit(1)


class Place(NamedTuple):
    """Where a commit ends: the number of its last event, its link, and the format of that."""

    number: int
    link: bytes
    format: int


#: Where the chain begins.
START = Place(0, GENESIS, FIRST)


class _Commit(NamedTuple):
    """What of a commit its link covers."""

    id: int
    base: int
    events: int


@dataclass(frozen=True)
class Broken:
    """The first place where the record does not fit the chain."""

    #: The number of the event, or of the first one of a commit that is not right as a whole.
    number: int
    why: str


@dataclass(frozen=True)
class Verified:
    """How far the record was read, and whether it fits."""

    #: The number of the last event that was found right, and the link there.
    number: int
    link: str
    events: int
    broken: Broken | None = None


def key_of(settings: Settings, *, make: bool = False) -> bytes:
    """The installation's key: as configured, or the one kept in its data directory.

    With ``make`` one is made where there is none. Raises `InvalidInput`.
    """
    if settings.audit.key is not None:
        return settings.audit.key.get_secret_value().encode()
    require_trusted_data(settings.data)
    path = settings.data.absolute() / "audit.key"
    try:
        if make and not path.exists():
            _write_once(path, secrets.token_hex(32))
        if path.exists() and (why := why_untrusted(path) or _why_known(path)):
            raise InvalidInput(f"the key of the audit chain is no secret: {why}", field="audit.key")
        return path.read_text(encoding="ascii").strip().encode()
    except OSError as error:
        raise InvalidInput(
            f"the key of the audit chain cannot be read: {path}: {error.strerror}; set [audit] "
            "key, or run this where the scheduler runs",
            field="audit.key",
        ) from None


def _why_known(path: Path) -> str | None:
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"others may read {path} (mode {mode:04o}): 'chmod 600 {path}'" if mode & 0o007 else None


def _write_once(path: Path, secret: str) -> None:
    """Give the file this content, unless somebody else has given it one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=".audit.key.", encoding="ascii") as new:
        new.write(f"{secret}\n")
        new.flush()
        os.fsync(new.fileno())
        with suppress(FileExistsError):
            os.link(new.name, path)


class ForeignChainError(Exception):
    """The newest link was not made with the key that is here."""

    def __init__(self) -> None:
        super().__init__(
            "the newest events were chained with another key than the one that is here, or their "
            "links were altered: no more are chained. Put the key back that was used before: the "
            "file audit.key, or [audit] key; 'orchestrator doctor' says whether it fits"
        )


def require_own(transaction: Transaction, key: bytes) -> None:
    """Raise `ForeignChainError` unless the newest link was made with this key."""
    newest = transaction.execute(_NEWEST).first()
    if newest is None:
        return
    before = _place_at(transaction, newest.base) if newest.base else START
    if before is None or newest.format not in range(before.format, FORMAT + 1):
        raise ForeignChainError
    commit = _Commit(newest.commit_id, newest.base, newest.events)
    made = link_of(key, before.link, commit, newest.digests, newest.format)
    if not hmac.compare_digest(made, newest.link):
        raise ForeignChainError


def unchained_since(transaction: Transaction) -> datetime | None:
    """When the oldest event happened that is numbered and has no link yet; None: all have one."""
    number = (_last(transaction) or START).number
    first = select(event_commits.c.id).where(event_commits.c.base >= number)
    oldest = first.order_by(event_commits.c.base).limit(1).scalar_subquery()
    found = select(func.min(events.c.at)).where(events.c.commit_id == oldest)
    at: datetime | None = transaction.execute(found).scalar()
    return at


def extend(transaction: Transaction, key: bytes, most: int) -> int:
    """Add links for numbered commits with up to about ``most`` events; how many events it were.

    Only one transaction at a time does this. Raises `ForeignChainError` where somebody else has
    made the newest link.
    """
    if not transaction.try_lock(_CHAIN_LOCK):
        return 0
    number, link, _ = _last(transaction) or START
    done = 0
    while done < most and (commits := _commits_after(transaction, number)):
        if not done:
            require_own(transaction, key)
        rows: list[dict[str, Any]] = []
        for commit, digests in digested(transaction, commits):
            link = link_of(key, link, commit, digests, FORMAT)
            number = commit.base + commit.events
            done += commit.events
            rows.append(
                {
                    "base": commit.base,
                    "commit_id": commit.id,
                    "events": commit.events,
                    "digests": digests,
                    "link": link,
                    "format": FORMAT,
                }
            )
            if done >= most:
                break
        insert_rows(transaction, event_chain, rows)
    return done


def head(transaction: Transaction) -> tuple[int, str] | None:
    """The number of the newest event that has a link, and the link; None: there is none yet."""
    last = _last(transaction)
    return None if last is None else (last.number, last.link.hex())


def has_link(transaction: Transaction, number: int, link: str) -> bool:
    """Whether the chain has this link at event ``number``, or that was archived since."""
    there = _place_at(transaction, number)
    if there is not None:
        return hmac.compare_digest(link, there.link.hex())
    return archived_up_to(transaction).number >= number


def verify(
    transaction: Transaction, key: bytes, *, after: int = 0, link: str | None = None
) -> Iterator[Verified]:
    """Compare what the database has with its chain, from the event behind ``after`` on, or from
    the oldest that was not archived.

    Yields how far it came, from time to time, and last of all the result. ``after`` and
    ``link`` are those of an earlier result, or of a head that was kept elsewhere: then the
    chain must have had that link there.
    """
    place = archived_up_to(transaction)
    if after:
        there = _place_at(transaction, after)
        if there is None and link is not None:
            yield Verified(after, link, 0, Broken(after, "no link ends there: it was cut off"))
            return
        if there is None:
            raise InvalidInput(
                f"no link ends with event {after}: begin with a number that 'audit head' or an "
                "earlier verification has told",
                field="after",
            )
        place = there
        if link is not None and not hmac.compare_digest(link, there.link.hex()):
            yield Verified(after, link, 0, Broken(after, "the chain had another link there"))
            return
    yield from verify_behind(transaction, key, place)


def verify_behind(transaction: Transaction, key: bytes, place: Place) -> Iterator[Verified]:
    """The same from a place of the chain on."""
    checked = 0
    oldest = transaction.execute(select(func.min(event_commits.c.base))).scalar()
    if oldest is not None and oldest < archived_up_to(transaction).number:
        yield Verified(place.number, place.link.hex(), 0, Broken(oldest + 1, _PUT_IN))
        return
    while links := links_after(transaction, place.number):
        commits = {row.id: row for row in numbered(transaction, [one.commit_id for one in links])}
        found = digests_of(transaction, {one.commit_id: one.format for one in links})
        strange = _without_link(transaction, place.number, links)
        for one in links:
            digests = found.get(one.commit_id, ())
            broken = compare(key, place, one, commits.get(one.commit_id), digests)
            if broken is None and strange is not None and strange < one.base + one.events:
                broken = Broken(strange + 1, _PUT_IN)
            if broken is not None:
                yield Verified(place.number, place.link.hex(), checked, broken)
                return
            place = Place(one.base + one.events, one.link, one.format)
            checked += one.events
        yield Verified(place.number, place.link.hex(), checked)
    if not checked:
        yield Verified(place.number, place.link.hex(), checked)


def compare(
    key: bytes,
    before: Place,
    one: Any,
    commit: Any,
    found: Sequence[bytes],
) -> Broken | None:
    """What is wrong with one commit behind a place, if anything is; ``found`` are its digests."""
    number = before.number
    if one.base != number:
        return Broken(number + 1, f"links are missing up to event {one.base}")
    if (why := why_not_next(before.format, one.format)) is not None:
        return Broken(number + 1, why)
    digests = b"".join(found)
    if digests != one.digests:
        for place in range(max(one.events, len(found))):
            of = slice(place * DIGEST, (place + 1) * DIGEST)
            if digests[of] != one.digests[of]:
                gone = place >= len(found)
                why = "it is missing" if gone else "it is not as it was written"
                return Broken(number + place + 1, why)
    if commit is None or (commit.base, commit.events) != (one.base, one.events):
        return Broken(number + 1, "its commit was numbered otherwise")
    if not hmac.compare_digest(link_of(key, before.link, commit, digests, one.format), one.link):
        return Broken(number + 1, "its link does not fit: it was made without the key")
    return None


# -- hashing ------------------------------------------------------------------------------


def why_not_next(before: int, link_format: int) -> str | None:
    """Why no link of this format may follow one of the format ``before``, if that is so."""
    if link_format not in range(FIRST, FORMAT + 1):
        return f"its link has a format that is not known: {link_format}"
    return "its link has an earlier format than the one before" if link_format < before else None


def digest(values: list[Any], link_format: int) -> bytes:
    """Of one event: blake2b over what `HASHED` names as JSON, times as RFC 3339.

    An event that was chained before events had objects has none: with some, it is not as it was.
    """
    if link_format == FIRST and values[-1] is None:
        values = values[:-1]
    return _hashed(_json.encode(values))


def digest_of(event: Sequence[Any], link_format: int) -> bytes:
    """The same of a row of `events_of`."""
    _, seq, at, *rest = event
    return digest([seq, at.isoformat(), *rest], link_format)


def _digest(event: Sequence[Any], link_format: int) -> bytes:
    """The same of a row of `digests_of`, in a third of the time."""
    _, seq, at, *words, job_id, actor, reason, data, objects = event
    fields = [str(seq), _quoted(at.isoformat()), *map(_word, words)]
    fields += ["null" if job_id is None else str(job_id), _word(actor), _word(reason), _said(data)]
    if link_format != FIRST or objects is not None:
        fields.append(_said(objects))
    return _hashed(f"[{','.join(fields)}]")


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def _word(value: str | None) -> str:
    return "null" if value is None else _quoted(value)


def _said(text: str | None) -> str:
    """A column with JSON as digests have it."""
    if text is None:
        return "null"
    return _said_shortly(text) if len(text) <= _SHORT else _json.encode(as_written(text))


@lru_cache(_REMEMBERED)
def _said_shortly(text: str) -> str:
    return _json.encode(as_written(text))


def link_of(key: bytes, before: bytes, commit: Any, digests: bytes, link_format: int) -> bytes:
    """Of one commit (``id``, ``base``, ``events``), whose events have these digests.

    No text of the first format begins as those of later ones: none can be passed off as another.
    """
    place = f"{commit.id} {commit.base} {commit.events} "
    if link_format > FIRST:
        place = f"format {link_format} {place}"
    return hmac.digest(key, before + place.encode() + digests, "sha256")


# -- reading ------------------------------------------------------------------------------


def _last(transaction: Transaction) -> Place | None:
    """The newest number that has a link, and the link."""
    row = transaction.execute(_NEWEST).first()
    if row is not None:
        return Place(row.base + row.events, row.link, row.format)
    # Whoever archives in between has left a later link there.
    place = archived_up_to(transaction)
    return place if place.number else None


def archived_up_to(transaction: Transaction) -> Place:
    """The place up to which events were archived."""
    query = (
        select(event_archives.c.last, event_archives.c.link_after, event_archives.c.format)
        .order_by(event_archives.c.base.desc())
        .limit(1)
    )
    row = transaction.execute(query).first()
    return START if row is None else Place(*row)


def _place_at(transaction: Transaction, number: int) -> Place | None:
    """The place at a number, if a commit ends there and its link is in the database."""
    if (archived := archived_up_to(transaction)).number == number:
        return archived
    query = (
        select(event_chain)
        .where(event_chain.c.base < number)
        .order_by(event_chain.c.base.desc())
        .limit(1)
    )
    row = transaction.execute(query).first()
    if row is None or row.base + row.events != number:
        return None
    return Place(number, row.link, row.format)


def links_after(transaction: Transaction, number: int) -> Sequence[Any]:
    """Some of the links behind a number, in order."""
    query = (
        select(event_chain)
        .where(event_chain.c.base >= number)
        .order_by(event_chain.c.base)
        .limit(PAGE)
    )
    return bounded(transaction.execute(query).all())


def _commits_after(transaction: Transaction, number: int) -> Sequence[Any]:
    query = (
        select(event_commits)
        .where(event_commits.c.base >= number)
        .order_by(event_commits.c.base)
        .limit(PAGE)
    )
    return bounded(transaction.execute(query).all())


def bounded(rows: Sequence[Any]) -> Sequence[Any]:
    """As many of these as have no more events together than may be read at a time."""
    total = 0
    for count, row in enumerate(rows):
        total += row.events
        if total > _MOST_EVENTS and count:
            return rows[:count]
    return rows


def _without_link(transaction: Transaction, number: int, links: Sequence[Any]) -> int | None:
    """The base of the first commit among these, behind ``number``, that has no link."""
    end = links[-1].base + links[-1].events
    there = transaction.execute(
        select(event_commits.c.id, event_commits.c.base)
        .where(event_commits.c.base >= number, event_commits.c.base < end)
        .order_by(event_commits.c.base)
    )
    linked = {one.commit_id for one in links}
    return next((row.base for row in there if row.id not in linked), None)


def numbered(transaction: Transaction, ids: Sequence[int]) -> Sequence[Any]:
    """The commits with these ids."""
    query = select(event_commits).where(among(event_commits.c.id, ids))
    return transaction.execute(query).all()


def events_of(transaction: Transaction, ids: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
    """The events of commits, by the ids of these."""
    query = (
        select(events.c.commit_id, *_AS_WRITTEN)
        .where(among(events.c.commit_id, ids))
        .order_by(events.c.commit_id, events.c.seq)
    )
    found = transaction.execute(query)
    for commit_id, rows in groupby(found, key=lambda row: row.commit_id):
        yield commit_id, list(rows)


def digests_of(transaction: Transaction, formats: Mapping[int, int]) -> dict[int, list[bytes]]:
    """The digests of the events of commits, by the ids of these.

    ``formats``: by these ids, the format that the digests are to have.
    """
    query = (
        select(events.c.commit_id, *_TO_BE_HASHED)
        .where(among(events.c.commit_id, formats))
        .order_by(events.c.commit_id, events.c.seq)
    )
    found: dict[int, list[bytes]] = defaultdict(list)
    for event in transaction.execute(query).all():
        found[event[0]].append(_digest(event, formats[event[0]]))
    return found


def digested(transaction: Transaction, commits: Sequence[Any]) -> Iterator[tuple[Any, bytes]]:
    """Commits in their order, with the digests of their events for new links."""
    found = digests_of(transaction, {commit.id: FORMAT for commit in commits})
    for commit in commits:
        yield commit, b"".join(found.get(commit.id, ()))
