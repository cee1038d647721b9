"""Files that leave the database for good: compressed, a JSON document a line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from gzip import GzipFile
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any


class NameTakenError(OSError):
    """There is a file of this name with other contents."""


def write_lines(directory: Path, name: str, documents: Iterable[Mapping[str, Any]]) -> str:
    """Write a file whole or not at all, durably, for its owner only; its SHA-256 in hex.

    Nothing is overwritten: raises `NameTakenError` if the file is there with other contents,
    `OSError` if it cannot be written.
    The same documents make the same file, so that writing it again is the same as once.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / name
    with NamedTemporaryFile(dir=directory, prefix=f".{name}.") as new:
        hashed = _Hashed(new)
        # Neither a name nor a time in its head.
        with GzipFile("", "wb", fileobj=hashed, mtime=0) as packed:
            for document in documents:
                line = json.dumps(document, default=_written, separators=(",", ":"))
                packed.write(f"{line}\n".encode())
        new.flush()
        os.fsync(new.fileno())
        try:
            os.link(new.name, path)
        except FileExistsError as error:
            with path.open("rb") as there:
                if hashlib.file_digest(there, "sha256").digest() != hashed.sha256.digest():
                    raise NameTakenError(f"{path} is there with other contents") from error
    _sync(directory)
    return hashed.sha256.hexdigest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        return self._file.write(part)

    def flush(self) -> None:
        self._file.flush()


def _written(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} cannot be written to a file")
