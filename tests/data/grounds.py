"""The storages of the matrix: file systems, providers of different manners, a double of a filer.

Each is looked at from outside of the product: by the paths of images, by the records of the filer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conformance.systems import PROVIDERS
from tests.data.patterns import MIB, SIZE, written
from tests.ontap.double import PASSWORD, USER, Double
from tests.rigs.rooms import release
from workers.backends.file import loops
from workers.backends.ontap.names import NEW
from workers.backends.ontap.stamps import read_stamp

#: How large the file systems are; XFS takes no less than 300 MiB.
_MIB = 320


def run(*command: str) -> str:
    """What a command of an administrator says; `AssertionError` if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Ground(ABC):
    """One kind of storage; cells follow each other on it, each in a directory of its own."""

    name: ClassVar[str]
    driver: ClassVar[str]
    #: What it has for the matrix: ``images`` that an administrator can reach, ``attach``,
    #: ``snapshots``, ``mount`` (a file system of its own), ``owners`` (permissions count),
    #: ``attributes`` (chattr), ``scripts`` (a provider's), ``room`` (it can be filled), ``stamps``
    #: (an image tells whose it is), ``openers`` (of images that are files of the driver's own),
    #: ``metadata``, ``requests`` (to a filer).
    has: ClassVar[frozenset[str]] = frozenset()
    #: How large its volumes are.
    size: ClassVar[int] = SIZE

    def __init__(self, room: Path) -> None:
        self.room = room
        #: Where the present cell has its storage.
        self.path = room

    def open(self) -> None:  # noqa: B027 - most need nothing
        """Begin; skips the test with the reason where this storage cannot be had here."""

    def close(self) -> None:  # noqa: B027
        """End."""

    @abstractmethod
    def clear(self, number: int) -> None:
        """Empty storage for the next cell."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The backend's, as in the configuration."""

    @abstractmethod
    def contents(self) -> dict[str, bytes]:
        """What every volume that bears a stamp of ours really holds, by id."""

    @abstractmethod
    def snapshots(self, volume_id: str) -> dict[str, bytes]:
        """What the snapshots of a volume hold, by id."""

    def write(self, volume_id: str, data: bytes) -> None:
        """Write into a volume that hosts do not attach."""
        raise NotImplementedError

    def image(self, volume_id: str) -> Path | None:
        """The image of a volume; None if there is none."""
        return None

    def snapshot_image(self, volume_id: str, snapshot_id: str) -> Path | None:
        """The image of a snapshot; None if there is none."""
        return None

    def drop_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Delete a snapshot by hand."""
        path = self.snapshot_image(volume_id, snapshot_id)
        assert path is not None
        path.unlink()

    def leftovers(self) -> list[str]:
        """What was begun and is neither published nor taken away."""
        return []

    def recycled(self) -> list[bytes]:
        """What lies in space that was given back and may be given to others."""
        return []


class Files(Ground):
    """The `file` driver on the file system of the temporary directory."""

    driver = "file"
    has = frozenset({"images", "attach", "snapshots", "stamps", "openers", "owners", "metadata"})

    def clear(self, number: int) -> None:
        release(self.path)
        if self.path != self.room:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path = self.room / f"store-{number}"
        self.path.mkdir()

    def settings(self) -> dict[str, Any]:
        return {"driver": self.driver, "path": str(self.path)}

    def contents(self) -> dict[str, bytes]:
        return {
            path.stem.rpartition("~")[2]: path.read_bytes()
            for path in self.path.glob("volumes/**/*~*.img")
        }

    def snapshots(self, volume_id: str) -> dict[str, bytes]:
        return {
            path.stem.rpartition("~")[2]: path.read_bytes()
            for path in self.path.glob(f"snapshots/{volume_id}/**/*~*.img")
        }

    def image(self, volume_id: str) -> Path | None:
        return next(self.path.glob(f"volumes/**/*~{volume_id}.img"), None)

    def snapshot_image(self, volume_id: str, snapshot_id: str) -> Path | None:
        return next(self.path.glob(f"snapshots/{volume_id}/**/*~{snapshot_id}.img"), None)

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.path / ".orchestrator" / "tmp").iterdir()]


class MountedFiles(Files):
    """The same on a file system of its own."""

    has = Files.has | {"mount"}

    def open(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a file system needs root")
        self.mount = self.room = self.path = self.room / "mnt"
        self.mount.mkdir()
        self.mount_it()

    @abstractmethod
    def mount_it(self) -> None:
        """Mount it; after `unmount`, the same again."""

    def unmount(self) -> None:
        run("umount", str(self.mount))

    def close(self) -> None:
        release(self.path)
        if subprocess.run(["umount", str(self.mount)], capture_output=True).returncode:
            run("umount", "--lazy", str(self.mount))


class DiskFiles(MountedFiles):
    """On a file system in an image."""

    has = MountedFiles.has | {"attributes", "room", "remount", "unmount"}
    make: ClassVar[tuple[str, ...]]
    package: ClassVar[str]

    def mount_it(self) -> None:
        disk = self.room.parent / f"{self.name}.disk"
        if not disk.exists():
            if shutil.which(self.make[0]) is None:
                pytest.skip(f"{self.make[0]} is not installed: apt install {self.package}")
            if not loops.available():
                pytest.skip("loop devices need root, and a kernel that has them")
            with disk.open("wb") as file:
                file.truncate(_MIB * 2**20)
            run(*self.make, str(disk))
        try:
            run("mount", "-o", "loop", str(disk), str(self.mount))
        except AssertionError as error:
            pytest.skip(f"this file system cannot be mounted here: {error}")


class Ext4Files(DiskFiles):
    name = "file on ext4"
    make = ("mkfs.ext4", "-q", "-F")
    package = "e2fsprogs"


class XfsFiles(DiskFiles):
    name = "file on XFS"
    make = ("mkfs.xfs", "-q", "-f", "-m", "reflink=1")
    package = "xfsprogs"
    has = DiskFiles.has | {"reflink"}


class PlainFiles(MountedFiles):
    """On a file system that has neither extended attributes nor holes.

    There nothing in an image tells whose it is: another file of its size, put in its very place,
    is taken for it.
    """

    name = "file on ramfs"
    has = (MountedFiles.has | {"remount"}) - {"stamps"}

    def mount_it(self) -> None:
        try:
            run("mount", "-t", "ramfs", "none", str(self.mount))
        except AssertionError as error:
            pytest.skip(f"ramfs cannot be mounted here: {error}")


class Provider(Ground):
    """The `extstorage` driver with the example provider, or one of other manners."""

    name = "extstorage"
    driver = "extstorage"
    has = frozenset({"images", "attach", "scripts", "honest"})
    #: Scripts that are otherwise than the example's.
    manners: ClassVar[dict[str, str]] = {}
    access: ClassVar[str] = "kernelspace"

    def open(self) -> None:
        if not loops.available():
            pytest.skip("loop devices need root, and a kernel that has them")

    def clear(self, number: int) -> None:
        release(self.path)
        if self.path != self.room:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path = self.room / f"store-{number}"
        self.scripts = self.path / "providers" / "sparse"
        shutil.copytree(PROVIDERS / "sparse", self.scripts)
        self.images = self.path / "images"
        self.images.mkdir()
        for script, body in self.manners.items():
            (self.scripts / script).write_text(body)
            (self.scripts / script).chmod(0o755)

    def settings(self) -> dict[str, Any]:
        return {
            "driver": self.driver,
            "provider": "sparse",
            "search_path": [str(self.scripts.parent)],
            "path": str(self.path / "driver"),
            "parameters": {"path": str(self.images)},
            "access": self.access,
            "timeouts": dict.fromkeys(("create", "attach", "detach", "remove", "grow"), 1.0)
            | dict.fromkeys(("setinfo", "snapshot", "verify", "open", "close"), 1.0),
        }

    def contents(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.images.glob("*.img")}

    def snapshots(self, volume_id: str) -> dict[str, bytes]:
        return {}

    def image(self, volume_id: str) -> Path | None:
        path = self.images / f"{volume_id}.img"
        return path if path.exists() else None

    def leftovers(self) -> list[str]:
        return [path.name for path in self.images.glob("*.new")]


class GuessingProvider(Provider):
    """One that prints where a device would be, whether there is one or not."""

    name = "extstorage, prints a path that is not there"
    manners: ClassVar = {
        "attach": """#!/bin/sh
. ./common.sh
if [ ! -e "$image" ]; then echo /dev/mapper/no-such-volume; exit 0; fi
device=$(device_of "$image")
[ -n "$device" ] || device=$(losetup --find --show "$image")
echo "$device"
"""
    }


class UriProvider(Provider):
    """One whose volumes hypervisors open by an address; no device is made."""

    name = "extstorage, addresses only"
    has = Provider.has - {"attach"}
    access = "userspace"
    manners: ClassVar = {
        "attach": """#!/bin/sh
. ./common.sh
[ -e "$image" ] || fail "there is no $image"
echo
echo "kvm:file:$image"
""",
        "detach": "#!/bin/sh\nexit 0\n",
    }

    def write(self, volume_id: str, data: bytes) -> None:
        path = self.image(volume_id)
        assert path is not None
        with path.open("r+b") as file:
            for start, end in written():
                file.seek(start)
                file.write(data[start:end])


class ContentProvider(Provider):
    """One whose scripts end with success, whatever has become of what they should do."""

    name = "extstorage, always exits 0"
    has = Provider.has - {"honest"}
    manners: ClassVar = {
        script: f"#!/bin/sh\n./{script}.example || true\n"
        for script in ("create", "remove", "detach", "grow", "setinfo", "snapshot")
    }

    def clear(self, number: int) -> None:
        super().clear(number)
        for script in self.manners:
            shutil.copy2(PROVIDERS / "sparse" / script, self.scripts / f"{script}.example")


class ReusingProvider(Provider):
    """One that gives a new volume the space of a removed one, as it was left."""

    name = "extstorage, reuses space"
    manners: ClassVar = {
        "remove": """#!/bin/sh
. ./common.sh
[ -e "$image" ] || exit 0
device=$(device_of "$image")
[ -z "$device" ] || fail "$image is attached as $device: detach it first"
mv "$image" "$EXTP_PATH/free"
rm -f "$image.info"
""",
        "create": """#!/bin/sh
. ./common.sh
[ ! -e "$image" ] || fail "$image is there already"
[ ! -e "$EXTP_PATH/free" ] || mv "$EXTP_PATH/free" "$image.new"
truncate -s "${VOL_SIZE}M" "$image.new"
mv "$image.new" "$image"
""",
    }

    def clear(self, number: int) -> None:
        super().clear(number)
        # Of a tenant that has long gone.
        (self.images / "free").write_bytes(b"a secret of another tenant".ljust(4096, b".") * 512)

    def recycled(self) -> list[bytes]:
        path = self.images / "free"
        return [path.read_bytes()] if path.exists() else []


class Filer(Ground):
    """The `ontap` driver with the double of a filer."""

    name = "ontap"
    driver = "ontap"
    has = frozenset({"snapshots", "requests"})
    size = 32 * MIB

    def open(self) -> None:
        self.double = Double().start()

    def close(self) -> None:
        self.double.stop()

    def clear(self, number: int) -> None:
        self.double.filer = type(self.double.filer)()
        self.double.faults = []
        self.double.forget()

    def settings(self) -> dict[str, Any]:
        return {
            "driver": self.driver,
            "hostname": "127.0.0.1",
            "port": self.double.port,
            "scheme": "http",
            "username": USER,
            "password": PASSWORD,
            "vserver": "svm1",
            "poll": 0.01,
            "timeout": 1.0,
        }

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in self.double.filer.volumes.values():
            stamp = read_stamp(record["comment"])
            if stamp is not None and not record["name"].startswith(NEW):
                yield stamp.id, record

    def contents(self) -> dict[str, bytes]:
        return {id_: bytes(record["_contents"]) for id_, record in self._records()}

    def snapshots(self, volume_id: str) -> dict[str, bytes]:
        return {
            stamp.id: bytes(one["_contents"])
            for id_, record in self._records()
            for one in record["_snapshots"]
            if id_ == volume_id and (stamp := read_stamp(one["comment"])) is not None
        }

    def write(self, volume_id: str, data: bytes) -> None:
        self.double.filer.write(self.double.filer.bearing(volume_id), data)

    def drop_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        record = self.double.filer.bearing(volume_id)
        record["_snapshots"] = [
            one for one in record["_snapshots"] if f"id={snapshot_id}" not in one["comment"]
        ]


GROUNDS: dict[str, type[Ground]] = {
    ground.name: ground
    for ground in (
        Ext4Files,
        XfsFiles,
        PlainFiles,
        Provider,
        GuessingProvider,
        UriProvider,
        ContentProvider,
        ReusingProvider,
        Filer,
    )
}
