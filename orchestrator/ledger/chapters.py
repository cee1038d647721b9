"""Archive files of events, read: commit by commit, with what shows that they are as written.

A line is an event as `event list --json` shows it. The first one of each commit has
``commit``: its id, how many events it has, its link in the chain and the format of that, unless
it is the first one; the first of the file also ``before``, the link before that. With the key, a
file can be verified by itself.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from orchestrator.domain.states import EventKind
from orchestrator.ledger import chain

#: Kinds of events that vouch for archives.
VOUCHING = (EventKind.EVENTS_ARCHIVED, EventKind.ARCHIVES_DELETED)

#: What reading a file that is not as it was written may raise.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error)

Document = dict[str, Any]


@dataclass(frozen=True)
class ArchivedCommit:
    """A commit as it is in a file."""

    id: int
    base: int
    events: int
    link: bytes
    format: int
    documents: list[Document]

    def digests(self) -> bytes:
        """Of each of its events, as the chain has them."""
        return b"".join(_digest(one, self.base, self.format) for one in self.documents)


@dataclass(frozen=True)
class Chapter:
    """What `event_archives` says of a file."""

    base: int
    last: int
    file: str
    sha256: str
    link_before: bytes
    link_after: bytes
    format: int
    deleted: bool

    @property
    def end(self) -> chain.Place:
        """Where its last commit ends."""
        return chain.Place(self.last, self.link_after, self.format)

    def told(self, key: bytes) -> Document:
        """The same as the event tells it that vouches for the file."""
        facts: Document = {
            "first": self.base + 1,
            "last": self.last,
            "file": self.file,
            "sha256": self.sha256,
            "link_before": self.link_before.hex(),
            "link_after": self.link_after.hex(),
            **told_format(self.format),
        }
        return signed(key, EventKind.EVENTS_ARCHIVED, facts)


def signed(key: bytes, kind: str, facts: Document) -> Document:
    """What an event of this kind tells, with what only who has the key can add: the event counts
    also while it has no link yet, and everybody who writes to the database gets one."""
    text = json.dumps([kind, facts], sort_keys=True, separators=(",", ":"))
    return {**facts, "mac": hmac.digest(key, text.encode(), "sha256").hex()}


def is_signed(key: bytes, kind: str, told: Any) -> bool:
    """Whether what such an event tells was written by who has the key."""
    if not isinstance(told, dict):
        return False
    facts = {name: value for name, value in told.items() if name != "mac"}
    mac = str(told.get("mac", "")).encode()
    return hmac.compare_digest(mac, signed(key, kind, facts)["mac"].encode())


def told_format(link_format: int) -> Document:
    """The format of a link, as documents have it: those of the first one were there before it."""
    return {} if link_format == chain.FIRST else {"format": link_format}


def name_of(base: int, last: int) -> str:
    """What the file of the events behind ``base`` up to ``last`` is called."""
    return f"events-{base + 1}-{last}.jsonl.gz"


def last_named(path: Path) -> int:
    """The number of the last event in a file, as `name_of` has named it."""
    return int(path.name.split(".")[0].split("-")[2])


def lines(file: IO[bytes]) -> Iterator[Document]:
    """The documents of an archive file, one after the other."""
    with gzip.open(file, "rt", encoding="utf-8") as text:
        for line in text:
            yield json.loads(line)


def commits(file: IO[bytes]) -> Iterator[ArchivedCommit]:
    """The commits of a file, one after the other."""
    documents: list[Document] = []
    for document in lines(file):
        if "commit" in document and documents:
            yield _commit(documents)
            documents = []
        documents.append(document)
    if documents:
        yield _commit(documents)


class Reading:
    """One file, compared with what is recorded of it and with the chain."""

    def __init__(self, path: Path, chapter: Chapter, key: bytes, before: chain.Place) -> None:
        self._path = path
        self._chapter = chapter
        self._key = key
        self._before = before
        #: The events in it that vouch for archives.
        self.vouching: list[Document] = []
        #: The link at each of the numbers that were asked for, where a commit ends there.
        self.links: dict[int, bytes] = {}

    def compare(self, wanted: int | None = None) -> chain.Broken | None:
        """What is wrong with it, if anything is; the link at ``wanted`` is put into ``links``."""
        chapter, name = self._chapter, self._chapter.file
        first = chapter.base + 1
        try:
            with self._path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != chapter.sha256:
                    return chain.Broken(first, f"the archive {name} is not as it was written")
                file.seek(0)
                return self._compare(commits(file), wanted)
        except FileNotFoundError:
            return chain.Broken(first, f"the archive {name} is missing")
        except _UNREADABLE as error:
            return chain.Broken(first, f"the archive {name} cannot be read: {error}")

    def _compare(self, found: Iterator[ArchivedCommit], wanted: int | None) -> chain.Broken | None:
        number, before, newest = self._before
        for commit in found:
            within = f"in the archive {self._chapter.file}"
            if commit.base != number:
                return chain.Broken(number + 1, f"it is missing {within}")
            if (why := chain.why_not_next(newest, commit.format)) is not None:
                return chain.Broken(number + 1, f"{why}, {within}")
            link = chain.link_of(self._key, before, commit, commit.digests(), commit.format)
            if not hmac.compare_digest(link, commit.link):
                return chain.Broken(number + 1, f"its commit is not as it was written {within}")
            number, before, newest = commit.base + commit.events, link, commit.format
            self.vouching += [one for one in commit.documents if one["kind"] in VOUCHING]
            if number == wanted:
                self.links[number] = link
        if (number, before, newest) != self._chapter.end:
            why = f"the archive {self._chapter.file} ends otherwise than is recorded of it"
            return chain.Broken(number + 1, why)
        return None


def _commit(documents: list[Document]) -> ArchivedCommit:
    head = documents[0]["commit"]
    return ArchivedCommit(
        id=head["id"],
        base=documents[0]["number"] - 1,
        events=head["events"],
        link=bytes.fromhex(head["link"]),
        format=head.get("format", chain.FIRST),
        documents=documents,
    )


def _digest(document: Document, base: int, link_format: int) -> bytes:
    at = datetime.fromisoformat(document["at"]).isoformat()
    values = {"objects": None, **document, "seq": document["number"] - base, "at": at}
    return chain.digest([values[name] for name in chain.HASHED], link_format)
