"""Images outside of backends: files and URLs that volumes are imported from, and exports.

A file is reached from a descriptor of the configured directory, step by step, and no step
follows a symbolic link: nothing outside of that directory is ever read or written.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult

import httpx

from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    ForbiddenPlace,
    ImageUnreachable,
    ImageUnusable,
    NoSpace,
)
from orchestrator.domain.places import UNFINISHED, Below, unusual_port
from orchestrator.jobs.claim import Step
from orchestrator.settings import TransferSettings
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents
from workers.backends.base.files import open_directory, open_file, rename_without_replacing
from workers.backends.base.streams import pour, read_parts
from workers.execution.formats import HEAD, TAIL, named_by_head, named_by_tail

#: How much of an answer is taken at once: zeroes are found in pieces of this size.
_PIECE = 2**20
Parts = Iterator[tuple[int, bytes]]


@contextmanager
def opened(
    written: str, transfer: TransferSettings, call: Call, *, sha256: str | None, any_format: bool
) -> Iterator[Contents]:
    """What an image holds. Raises `ForbiddenPlace`, `ImageUnreachable`, `ImageUnusable`.

    ``sha256``: what its digest must be, known once all is read; ``any_format``: do not mind
    what it looks like.
    """
    place = transfer.places.image(written)
    reading = (
        _from_url(written, place, transfer.silence_seconds, call, verified=sha256 is not None)
        if isinstance(place, SplitResult)
        else _from_file(written, place, any_format=any_format)
    )
    with reading as contents:
        parts = contents.parts
        if isinstance(place, SplitResult) and not any_format:
            parts = _only_raw(written, parts)
        if sha256 is not None:
            parts = _digested(written, parts, contents.size_bytes, sha256)
        yield Contents(contents.size_bytes, parts)


@contextmanager
def _from_file(written: str, place: Below, *, any_format: bool) -> Iterator[Contents]:
    with _below(written, place) as directory:
        with _told_of(written):
            file = open_file(directory, place.parts[-1], os.O_RDONLY)
        if file is None:
            raise ImageUnusable(f"{written} is no regular file", field="params.image")
        try:
            before = os.fstat(file)
            if not any_format:
                _refuse_format(written, _named(written, file, before.st_size))
            yield Contents(before.st_size, _unchanged(written, file, before))
        finally:
            os.close(file)


def _unchanged(written: str, file: int, before: os.stat_result) -> Parts:
    """The data of a file that nobody may write to meanwhile."""
    with _told_of(written):
        yield from read_parts(file, before.st_size)
        after = os.fstat(file)
    if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
        raise ImageUnusable(f"{written} was written to while it was read", field="params.image")


@contextmanager
def _from_url(
    written: str, place: SplitResult, silence: float, call: Call, *, verified: bool
) -> Iterator[Contents]:
    # Neither proxies nor passwords of the worker's own surroundings are used.
    with httpx.Client(timeout=silence, trust_env=False, follow_redirects=False) as client:
        try:
            asked = client.build_request("GET", written, headers={"Accept-Encoding": "identity"})
            same = (asked.url.host, asked.url.port) == (place.hostname, unusual_port(place))
        except httpx.InvalidURL:
            same = False
        if not same:
            raise ForbiddenPlace(f"{written} can be read in more than one way, or in none")
        with _answering(written):
            answer = client.send(asked, stream=True)
        try:
            _refuse_answer(written, answer)
            length = answer.headers.get("content-length")
            if length is None and not verified and "transfer-encoding" not in answer.headers:
                raise ImageUnusable(
                    f"{written}: the server does not tell how long it is, so that it cannot be "
                    "known whether all of it arrives: say what its sha256 is",
                    field="params.sha256",
                )
            yield Contents(int(length) if length else None, _pieces(written, answer, call))
        finally:
            answer.close()


def _refuse_answer(written: str, answer: httpx.Response) -> None:
    status = answer.status_code
    if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS:
        raise ImageUnreachable(f"{written}: the server answered with {status}")
    if answer.has_redirect_location:
        raise ImageUnusable(
            f"{written} is elsewhere, at {_without_query(answer.headers['location'])}: name that",
            field="params.image",
        )
    encoding = answer.headers.get("content-encoding", "identity")
    if status != httpx.codes.OK or encoding != "identity":
        what = f"answered with {status}" if encoding == "identity" else f"sends it as {encoding}"
        raise ImageUnusable(f"{written}: the server {what}", field="params.image")


def _without_query(location: str) -> str:
    """An address without what may be a secret."""
    return location.partition("?")[0].partition("#")[0].rpartition("@")[2][:200]


def _pieces(written: str, answer: httpx.Response, call: Call) -> Parts:
    offset, held = 0, bytearray()
    with _answering(written):
        for arrived in answer.iter_raw():
            call.checkpoint()  # however slowly it comes
            held += arrived
            if len(held) >= _PIECE:
                yield offset, bytes(held)
                offset += len(held)
                held.clear()
    if held:
        yield offset, bytes(held)


@contextmanager
def _answering(written: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise ImageUnreachable(f"{written} cannot be read: {why}") from error


def _named(written: str, file: int, size: int) -> str | None:
    """What a file is, if it is not raw: found out before anything is made of it."""
    with _told_of(written):
        head, tail = os.pread(file, HEAD, 0), os.pread(file, TAIL, max(0, size - TAIL))
    return named_by_head(head) or named_by_tail(tail)


def _only_raw(written: str, parts: Parts) -> Parts:
    """Parts without gaps, of which the first is long enough and the end is seen at the end."""
    tail = b""
    for offset, data in parts:
        if offset == 0:
            _refuse_format(written, named_by_head(data[:HEAD]))
        tail = (tail + data[-TAIL:])[-TAIL:]
        yield offset, data
    _refuse_format(written, named_by_tail(tail) if tail else named_by_head(b""))


def _refuse_format(written: str, what: str | None) -> None:
    if what is not None:
        raise ImageUnusable(
            f"{written} is not a raw image: it is {what}. Convert or unpack it first, or say "
            "format=raw to take its bytes as they are",
            field="params.image",
        )


def _digested(written: str, parts: Parts, size: int | None, sha256: str) -> Parts:
    digest, done = hashlib.sha256(), 0
    for offset, data in parts:
        _feed_zeroes(digest, offset - done)
        digest.update(data)
        done = offset + len(data)
        yield offset, data
    _feed_zeroes(digest, (size or done) - done)
    if digest.hexdigest() != sha256:
        raise ImageUnusable(
            f"the SHA-256 of {written} is {digest.hexdigest()}, not what was asked for",
            field="params.sha256",
        )


def _feed_zeroes(digest: hashlib._Hash, length: int) -> None:
    zeroes = bytes(min(length, _PIECE))
    for done in range(0, length, _PIECE):
        digest.update(zeroes[: length - done])


class Export:
    """The file that an export makes: built under the job's own name, then published.

    What it publishes is known again by its inode, which the journal has: a file that somebody
    else made under that name is neither taken for ours nor removed.
    """

    def __init__(self, written: str, directory: int, name: str, owner: str, call: Call) -> None:
        """``owner``: the installation, so that two of them can share a directory."""
        self._written, self._directory, self._name, self._call = written, directory, name, call
        self._mine = f"{UNFINISHED}{owner}-{call.job_id}-"
        self._staged = f"{self._mine}{call.fence}.part"

    def published(self, steps: Sequence[Step]) -> int | None:
        """The size of the file if an earlier attempt has published it; it is durable then."""
        with _told_of(self._written):
            try:
                there = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            except FileNotFoundError:
                return None
            for step in steps:
                if step.name.startswith("publish ") and step.detail == _mark(there):
                    # That attempt may have failed in just this.
                    os.fsync(self._directory)
                    return there.st_size
            return None

    def refuse_taken(self) -> None:
        """Raise `AlreadyExists` if there is such a file: nothing is ever overwritten."""
        with _told_of(self._written), suppress(FileNotFoundError):
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            raise AlreadyExists(
                f"{self._written} is there already: choose another name, or move it away",
                field="params.target",
            )

    def clear(self) -> None:
        """Remove what earlier claims were building: what they publish late then fails.

        What a later claim builds stays: then this one is late.
        """
        with _told_of(self._written):
            names = os.listdir(self._directory)  # noqa: PTH208 - a Path would follow links
        for name in names:
            fence = name.removeprefix(self._mine).removesuffix(".part")
            if name.startswith(self._mine) and fence.isdecimal() and int(fence) <= self._call.fence:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)

    def _drop_staged(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._staged, dir_fd=self._directory)

    def build(self, contents: Contents) -> dict[str, int]:
        """Write it under a temporary name; what the journal keeps of it before it is published."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _told_of(self._written):
            file = os.open(self._staged, flags, 0o600, dir_fd=self._directory)
            try:
                size = contents.size_bytes
                assert size is not None  # noqa: S101 - volumes and snapshots tell
                os.ftruncate(file, size)
                pour(contents, file, size, self._call)
                os.fsync(file)
                return _mark(os.fstat(file))
            except BaseException:
                self._drop_staged()
                raise
            finally:
                os.close(file)

    def publish(self) -> None:
        """Give it its name, durably."""
        with _told_of(self._written):
            try:
                rename_without_replacing(self._directory, self._staged, self._directory, self._name)
            except FileExistsError:
                self._drop_staged()
                self.refuse_taken()
                raise
            except FileNotFoundError:
                raise Conflict("a later claim has taken over: this one is too late") from None
            os.fsync(self._directory)

    def take_back(self, steps: Sequence[Step]) -> None:
        """Leave nothing of it."""
        with _told_of(self._written):
            self.clear()
            if self.published(steps) is not None:
                self._call.checkpoint()
                os.unlink(self._name, dir_fd=self._directory)
                os.fsync(self._directory)


def _mark(file: os.stat_result) -> dict[str, int]:
    return {"inode": file.st_ino, "size_bytes": file.st_size, "written_ns": file.st_mtime_ns}


@contextmanager
def exported(written: str, transfer: TransferSettings, owner: str, call: Call) -> Iterator[Export]:
    """The file that an export makes. Raises `ForbiddenPlace`, `ImageUnusable`."""
    place = transfer.places.target(written)
    with _below(written, place) as directory:
        yield Export(written, directory, place.parts[-1], owner, call)


@contextmanager
def _below(written: str, place: Below) -> Iterator[int]:
    """A descriptor of the directory that the file is in."""
    with _told_of(written):
        # The configured directory may be reached through links: it is the administrator's.
        directory = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in place.parts[:-1]:
            with _told_of(written):
                below = open_directory(directory, part)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _told_of(written: str) -> Iterator[None]:
    """Raise what the system says of a file as errors of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageUnusable(f"{written}: there is none on this host") from error
    except PermissionError as error:
        raise ImageUnusable(f"{written}: the worker may not use it") from error
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise ImageUnusable(f"{written}: a part of it is a link or no directory") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(f"there is no room for {written}") from error
        raise ImageUnreachable(f"{written}: {error.strerror}") from error
