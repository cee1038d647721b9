"""What really is on a backend, seen without the engine; and what a person does there by hand."""

from __future__ import annotations

import json
import shutil
import sqlite3
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import Driver
from workers.backends.base.facts import PolicyFacts, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.backends.file import layout
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import erase, place

#: How much of a volume the tests write and read: marks are padded to this.
MARK_BYTES = 16
_STRAY_ID = "f" * 32


@dataclass(frozen=True)
class Stray:
    """Something that a person put there."""

    name: str
    contents: bytes


class Storage(ABC):
    """One backend's storage, with the things of a person on it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.strays: list[Stray] = []
        #: Export policies that a person has made: their rules by name.
        self.stray_policies: dict[str, list[str]] = {}

    def volumes(self) -> dict[str, VolumeFacts]:
        """Everything that bears a stamp of ours, by id."""
        return {facts.id: facts for facts in self.driver.list_volumes() if facts.id is not None}

    def snapshots(self, volume: VolumeRef) -> dict[str, tuple[str | None, int, bytes]]:
        """By name: id, size and mark; oldest first."""
        return {
            facts.name: (facts.id, facts.size_bytes, self.snapshot_mark(volume, facts.id or ""))
            for facts in self.driver.list_snapshots(volume)
        }

    def attached(self, volume: VolumeRef) -> bool:
        return bool(self.driver.devices(volume))

    @property
    def has_policies(self) -> bool:
        return isinstance(self.driver, CanExportByPolicy)

    def policies(self) -> list[PolicyFacts]:
        """Every export policy that can be had there, ours or not."""
        driver: object = self.driver
        return list(driver.list_policies()) if isinstance(driver, CanExportByPolicy) else []

    def put_policy(self, name: str, rules: list[str]) -> None:
        """Make by hand an export policy that is not ours."""
        raise NotImplementedError

    def meddle(self, policy: str, rules: list[str]) -> None:
        """Change by hand the rules of an export policy of ours."""
        raise NotImplementedError

    @abstractmethod
    def mark(self, volume: VolumeRef, text: bytes) -> None:
        """Write at the beginning of a volume, as its user does."""

    @abstractmethod
    def marked(self, volume: VolumeRef) -> bytes:
        """What stands at its beginning, without zeroes."""

    @abstractmethod
    def snapshot_mark(self, volume: VolumeRef, snapshot_id: str) -> bytes:
        """What a snapshot has kept of it."""

    @abstractmethod
    def lose(self, volume: VolumeRef) -> None:
        """Delete by hand a volume of ours with its snapshots."""

    @abstractmethod
    def put(self, stray: Stray) -> None:
        """Do by hand what makes the storage show a volume of this name that is not ours."""

    @abstractmethod
    def untouched(self, stray: Stray) -> bool:
        """Whether it is there as it was put."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What was being built and never published, or should have been taken away."""

    @abstractmethod
    def erase(self) -> None:
        """Take away what a test's directory does not hold."""


class MemoryStorage(Storage):
    """The rows in RAM."""

    def __init__(self, backend: str, installation: str, capacity: int) -> None:
        super().__init__(MemoryDriver(backend, MemoryOptions(capacity=capacity), installation))
        self._backend, self._installation = backend, installation

    def mark(self, volume: VolumeRef, text: bytes) -> None:
        assert isinstance(self.driver, MemoryDriver)
        self.driver.write(volume.id, text.ljust(MARK_BYTES, b"\0"))

    def marked(self, volume: VolumeRef) -> bytes:
        assert isinstance(self.driver, MemoryDriver)
        return self.driver.read(volume.id, MARK_BYTES).rstrip(b"\0")

    def snapshot_mark(self, volume: VolumeRef, snapshot_id: str) -> bytes:
        rows = self._sql("SELECT contents FROM snapshots WHERE id = ?", snapshot_id)
        return bytes(rows[0][0][:MARK_BYTES]).rstrip(b"\0")

    def lose(self, volume: VolumeRef) -> None:
        self._sql("DELETE FROM snapshots WHERE volume = ?", volume.id)
        self._sql("DELETE FROM volumes WHERE id = ?", volume.id)

    def put(self, stray: Stray) -> None:
        self._sql(
            "INSERT INTO volumes (name, size, contents) VALUES (?, 4096, ?)",
            stray.name,
            stray.contents,
        )
        self.strays.append(stray)

    def untouched(self, stray: Stray) -> bool:
        rows = self._sql("SELECT id, contents FROM volumes WHERE name = ?", stray.name)
        return rows == [(None, stray.contents)]

    def put_policy(self, name: str, rules: list[str]) -> None:
        self._sql(
            "INSERT INTO policies (name, rules, published) VALUES (?, ?, 1)",
            name,
            json.dumps(rules),
        )
        self.stray_policies[name] = rules

    def meddle(self, policy: str, rules: list[str]) -> None:
        self._sql("UPDATE policies SET rules = ? WHERE name = ?", json.dumps(rules), policy)

    def leftovers(self) -> list[str]:
        there = "(SELECT id FROM volumes WHERE id IS NOT NULL)"
        return [
            f"{what} {row[0]}{of}"
            for what, of, statement in (
                ("snapshot", " of no volume", f"id FROM snapshots WHERE volume NOT IN {there}"),
                ("export", " of no volume", f"volume FROM exports WHERE volume NOT IN {there}"),
                ("unpublished policy", "", "name FROM policies WHERE NOT published"),
            )
            for row in self._sql(f"SELECT {statement}")
        ]

    def erase(self) -> None:
        erase(self._backend, self._installation)

    def _sql(self, statement: str, *values: Any) -> list[Any]:
        connection = sqlite3.connect(place(self._backend, self._installation), timeout=30)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


class FileStorage(Storage):
    """The files in a directory."""

    def __init__(self, backend: str, installation: str, path: Path) -> None:
        super().__init__(FileDriver(backend, FileOptions(path=path), installation))
        self._path = path

    def mark(self, volume: VolumeRef, text: bytes) -> None:
        with self._image("volumes", volume.id).open("r+b") as image:
            image.write(text.ljust(MARK_BYTES, b"\0"))

    def marked(self, volume: VolumeRef) -> bytes:
        return self._beginning(self._image("volumes", volume.id))

    def snapshot_mark(self, volume: VolumeRef, snapshot_id: str) -> bytes:
        return self._beginning(self._image("snapshots", snapshot_id))

    def lose(self, volume: VolumeRef) -> None:
        self._image("volumes", volume.id).unlink()
        self._path.joinpath(*layout.STAMPS, f"{volume.id}.json").unlink(missing_ok=True)
        shutil.rmtree(self._path.joinpath(*layout.SNAPSHOTS, volume.id))

    def put(self, stray: Stray) -> None:
        path = self._stray(stray)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(stray.contents)
        self.strays.append(stray)

    def untouched(self, stray: Stray) -> bool:
        try:
            return self._stray(stray).read_bytes() == stray.contents
        except FileNotFoundError:
            return False

    def leftovers(self) -> list[str]:
        own = self._path.joinpath(*layout.TEMPORARY)
        stamps = self._path.joinpath(*layout.STAMPS)
        ids = {path.stem.rpartition("~")[2] for path in self._path.glob("**/*~*.img")}
        return [
            *(f"unpublished {path.name}" for path in own.iterdir()),
            *(f"stamp of nothing {path.name}" for path in stamps.iterdir() if path.stem not in ids),
            *(
                f"snapshot {path.name} of no volume"
                for path in self._path.joinpath(*layout.SNAPSHOTS).glob("*/*.img")
                if path.parent.name not in ids
            ),
        ]

    def erase(self) -> None:
        """The directory goes with the test's own."""

    def _stray(self, stray: Stray) -> Path:
        place_ = layout.volume_place(stray.name, _STRAY_ID)
        return self._path.joinpath(*place_.directory, place_.file)

    def _image(self, top: str, object_id: str) -> Path:
        [found] = (self._path / top).glob(f"**/*~{object_id}.img")
        return found

    @staticmethod
    def _beginning(path: Path) -> bytes:
        with path.open("rb") as image:
            return image.read(MARK_BYTES).rstrip(b"\0")
