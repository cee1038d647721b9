"""The storage systems that the conformance suite runs on.

Each is a driver on a real system, and what a host or a stranger would do to the storage
behind the driver's back. A new driver adds a subclass here and its name to ``SYSTEMS``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.installed import DRIVERS
from tests.ontap.double import PASSWORD, USER, Double
from workers.backends.base.abilities import (
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanConfigure,
    CanDiagnose,
    CanExport,
    CanExportByPolicy,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanListClientLocks,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
)
from workers.backends.base.driver import Driver
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.driver import ExtStorageDriver
from workers.backends.extstorage.spec import ExtStorageOptions
from workers.backends.file import loops
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import erase
from workers.backends.ontap.driver import OntapDriver
from workers.backends.ontap.spec import OntapOptions

INSTALLATION = "conformance"
#: The example provider of Ganeti's External Storage interface.
PROVIDERS = Path(__file__).parents[2] / "examples" / "extstorage"


class AbleDriver(
    Driver,
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanConfigure,
    CanDiagnose,
    CanExport,
    CanExportByPolicy,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanListClientLocks,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
):
    """For the type checker: a driver that can do what its test has asked for with ``needs``."""


class System(ABC):
    """One storage system, empty and marked."""

    #: The driver's name in the configuration.
    kind: ClassVar[str]
    driver: Driver
    #: False: it is as large as it has to be, though others of its kind are not.
    has_a_size: ClassVar[bool] = True

    @abstractmethod
    def start(self, room: Path, backend: str) -> None:
        """Begin; skip the test with the reason where it cannot run."""

    @abstractmethod
    def stop(self) -> None:
        """End, whatever state the test left."""

    @abstractmethod
    def options(self) -> DriverOptions:
        """The options of the driver, for a second process."""

    def written_options(self) -> str:
        """The same as JSON, secrets uncovered."""
        return self.options().model_dump_json()

    @abstractmethod
    def unmarked(self) -> Driver:
        """A driver on storage that bears no marker yet."""

    @abstractmethod
    def absent(self) -> Driver | None:
        """A driver whose storage is not there; None where that cannot be."""

    @abstractmethod
    def write(self, volume: VolumeRef, data: bytes, offset: int = 0) -> None:
        """Write into a volume as its user would."""

    @abstractmethod
    def read(self, volume: VolumeRef, length: int, offset: int = 0) -> bytes:
        """Read from a volume as its user would."""

    @abstractmethod
    def plant_foreign(self, label: str) -> str:
        """Put an object there that is not ours; the name it will be reported under."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Objects that were begun and never published."""

    def takes(self, name: str) -> bool:
        """Whether a volume of this valid name fits, where native names are shorter than ours."""
        return True


class Memory(System):
    kind = "memory"

    def start(self, room: Path, backend: str) -> None:
        self._backends = [backend, f"{backend}-unmarked"]
        self.driver = MemoryDriver(backend, self.options(), INSTALLATION)
        self.driver.write_identity("conformance-marker")

    def stop(self) -> None:
        for backend in self._backends:
            erase(backend, INSTALLATION)

    def options(self) -> MemoryOptions:
        return MemoryOptions(capacity=2**40)

    def unmarked(self) -> Driver:
        return MemoryDriver(self._backends[1], self.options(), INSTALLATION)

    def absent(self) -> Driver | None:
        return None

    def write(self, volume: VolumeRef, data: bytes, offset: int = 0) -> None:
        self.driver.write(volume.id, data, offset)

    def read(self, volume: VolumeRef, length: int, offset: int = 0) -> bytes:
        return self.driver.read(volume.id, length, offset)

    def plant_foreign(self, label: str) -> str:
        with self.driver._store.change() as db:
            db.execute("INSERT INTO volumes (name, size) VALUES (?, 4096)", (label,))
        return label

    def leftovers(self) -> list[str]:
        return []

    driver: MemoryDriver


class Imaged(System):
    """One whose volumes are image files, which can be reached behind the driver's back."""

    @abstractmethod
    def image(self, volume: VolumeRef) -> Path:
        """The image of a volume."""

    def write(self, volume: VolumeRef, data: bytes, offset: int = 0) -> None:
        with self.image(volume).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, volume: VolumeRef, length: int, offset: int = 0) -> bytes:
        with self.image(volume).open("rb") as file:
            file.seek(offset)
            return file.read(length)


class Files(Imaged):
    """On the file system of the temporary directory."""

    kind = "file"
    driver: FileDriver

    def start(self, room: Path, backend: str) -> None:
        self.room = room
        self.path = self.prepare(room) / "volumes of it"
        self.driver = FileDriver(backend, self.options(), INSTALLATION)
        self.driver.write_identity("conformance-marker")

    def prepare(self, room: Path) -> Path:
        return room

    def stop(self) -> None:
        release_loops(self.path)

    def options(self) -> FileOptions:
        return FileOptions(path=self.path)

    def unmarked(self) -> Driver:
        (self.path.parent / "unmarked").mkdir()
        return FileDriver("unmarked", FileOptions(path=self.path.parent / "unmarked"), INSTALLATION)

    def absent(self) -> Driver | None:
        return FileDriver(
            "absent", FileOptions(path=self.path.parent / "not" / "there"), INSTALLATION
        )

    def image(self, volume: VolumeRef) -> Path:
        (path,) = self.path.glob(f"volumes/**/*~{volume.id}.img")
        return path

    def plant_foreign(self, label: str) -> str:
        lane = next(iter((self.path / "volumes").iterdir()), None)
        if lane is None:
            lane = self.path / "volumes" / "00"
            lane.mkdir()
        (lane / f"{label}.img").write_bytes(b"not ours")
        return f"{lane.name}/{label}.img"

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.path / ".orchestrator" / "tmp").iterdir()]


class MountedFiles(Files):
    """On a file system of its own."""

    def prepare(self, room: Path) -> Path:
        if os.geteuid() != 0:
            pytest.skip("mounting a file system needs root")
        self.mount = room / "mnt"
        self.mount.mkdir()
        self.mount_at(room)
        return self.mount

    def mount_at(self, room: Path) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            if self.mount.is_mount():
                try:
                    # Busy: a driver left something open there, which is a fault of its own.
                    _run("umount", str(self.mount))
                except AssertionError:
                    _run("umount", "--lazy", str(self.mount))
                    raise


class XfsFiles(MountedFiles):
    """On XFS, which shares blocks between files."""

    def mount_at(self, room: Path) -> None:
        if shutil.which("mkfs.xfs") is None:
            pytest.skip("mkfs.xfs is not installed: apt install xfsprogs")
        if not Path("/dev/loop-control").exists():
            pytest.skip("this kernel has no loop devices")
        image = room / "xfs.img"
        with image.open("wb") as file:
            file.truncate(2**30)
        _run("mkfs.xfs", "-q", "-m", "reflink=1", str(image))
        try:
            _run("mount", "-o", "loop", str(image), str(self.mount))
        except AssertionError as error:
            pytest.skip(f"XFS cannot be mounted here: {error}")


class PlainFiles(MountedFiles):
    """On ramfs, which has neither extended attributes nor holes, and no size."""

    has_a_size = False

    def mount_at(self, room: Path) -> None:
        try:
            _run("mount", "-t", "ramfs", "none", str(self.mount))
        except AssertionError as error:
            pytest.skip(f"ramfs cannot be mounted here: {error}")


class SparseProvider(Imaged):
    """The example provider of Ganeti's interface: shell scripts, sparse files, loop devices."""

    kind = "extstorage"
    driver: ExtStorageDriver

    def start(self, room: Path, backend: str) -> None:
        if not loops.available():
            pytest.skip("loop devices need root, and a kernel that has them")
        self.images = room / "images"
        self.images.mkdir()
        self.room = room
        self.driver = ExtStorageDriver(backend, self.options(), INSTALLATION)

    def stop(self) -> None:
        release_loops(self.images)

    def options(self) -> ExtStorageOptions:
        return ExtStorageOptions(
            provider="sparse",
            search_path=(PROVIDERS,),
            path=self.room / "driver",
            parameters={"path": str(self.images)},
        )

    def unmarked(self) -> Driver:
        return self.driver

    def absent(self) -> Driver | None:
        options = self.options().model_copy(update={"search_path": (self.room / "not",)})
        return ExtStorageDriver("absent", options, INSTALLATION)

    def image(self, volume: VolumeRef) -> Path:
        return self.images / f"{volume.id}.img"

    def plant_foreign(self, label: str) -> str:
        (self.images / f"{label}.img").write_bytes(b"not ours")
        return label

    def leftovers(self) -> list[str]:
        return [path.name for path in self.images.glob("*.new")]


class Ontap(System):
    """A double of a NetApp filer, which answers over HTTP as one does."""

    kind = "ontap"
    driver: OntapDriver

    def start(self, room: Path, backend: str) -> None:
        self.double = Double().start()
        self.driver = OntapDriver(backend, self.options(), INSTALLATION)
        self.driver.write_identity("conformance-marker")

    def stop(self) -> None:
        self.double.stop()

    def options(self) -> OntapOptions:
        return OntapOptions.model_validate_json(self.written_options())

    def written_options(self) -> str:
        return json.dumps(
            {
                "hostname": "127.0.0.1",
                "port": self.double.port,
                "scheme": "http",
                "username": USER,
                "password": PASSWORD,
                "vserver": "svm1",
                "poll": 0.01,
            }
        )

    def _other(self, **changed: object) -> Driver:
        options = self.options().model_copy(update=changed)
        return OntapDriver("other", options, INSTALLATION)

    def unmarked(self) -> Driver:
        return self._other(vserver="other_svm")

    def absent(self) -> Driver | None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return self._other(port=unused.getsockname()[1])

    def write(self, volume: VolumeRef, data: bytes, offset: int = 0) -> None:
        filer = self.double.filer
        filer.write(filer.bearing(volume.id), data, offset)

    def read(self, volume: VolumeRef, length: int, offset: int = 0) -> bytes:
        record = self.double.filer.bearing(volume.id)
        end = min(offset + length, record["size"])
        return bytes(record["_contents"][offset:end].ljust(end - offset, b"\0"))

    def plant_foreign(self, label: str) -> str:
        self.double.filer.plant(label)
        return label

    def leftovers(self) -> list[str]:
        filer = self.double.filer
        made = [*filer.volumes.values(), *filer.policies.records.values()]
        kept = [one for volume in filer.volumes.values() for one in volume["_snapshots"]]
        mine = ("orchestrator_new_", "orchestrator_rollback_")
        return [str(one["name"]) for one in (*made, *kept) if one["name"].startswith(mine)]

    def takes(self, name: str) -> bool:
        # ONTAP: letters, digits and underscores; what else there is takes four characters.
        plain = sum(letter.isalnum() or letter == "_" for letter in name)
        return plain + 4 * (len(name) - plain) <= 203


SYSTEMS: dict[str, type[System]] = {
    "memory": Memory,
    "file": Files,
    "file-xfs": XfsFiles,
    "file-without-attributes": PlainFiles,
    "extstorage": SparseProvider,
    "ontap": Ontap,
}

#: Those of drivers outside the tree, where they are installed with their own.
for _point in entry_points(group="orchestrator.conformance"):
    SYSTEMS[_point.name] = _point.load()

assert {system.kind for system in SYSTEMS.values()} == set(DRIVERS), "every driver is tested"


def release_loops(path: Path) -> None:
    for block in Path("/sys/block").glob("loop*"):
        try:
            backing = (block / "loop" / "backing_file").read_text()
        except OSError:
            continue  # not in use, or one of others, which come and go
        if backing.startswith(f"{path}/"):
            _run("losetup", "-d", f"/dev/{block.name}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
