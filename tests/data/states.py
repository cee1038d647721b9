"""The states that a volume is in when something is done to it."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar

from sqlalchemy import delete, update

from orchestrator.store.tables import attachments
from tests.data.grounds import run
from tests.data.site import ELSEWHERE, Site, Without
from workers.execution.work import Work

_PATIENCE = 60.0
# From <linux/loop.h>; the status begins with the file system and the inode of the image.
_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_STATUS_BYTES = 232


class Loop:
    """A loop device while it is the image's that it was made of.

    One that was detached is soon another image's, perhaps that of a test beside this one.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        with self._path.open("rb") as file:
            self._image = _backing(file)

    def write(self, data: bytes) -> None:
        """Write, and on to the disk. Raises `Without` if it is no longer the image's."""
        with self._opened() as file:
            file.write(data)
            os.fsync(file.fileno())

    def detach(self) -> None:
        """Give it back, unless somebody has."""
        with suppress(Without), self._opened() as file:
            fcntl.ioctl(file, _LOOP_CLR_FD)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """It stays whose it is while it is open."""
        with self._path.open("r+b", buffering=0) as file:
            try:
                same = _backing(file) == self._image
            except OSError:
                same = False
            if not same:
                raise Without("the device was taken away by then")
            yield file


def _backing(file: BinaryIO) -> tuple[int, int]:
    status = bytearray(_STATUS_BYTES)
    fcntl.ioctl(file, _LOOP_GET_STATUS64, status)
    return struct.unpack_from("QQ", status)


class State:
    """A state, as a test brings it about and ends it. A plain volume has nobody who uses it."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "nobody uses it"
    needs: ClassVar[frozenset[str]] = frozenset()
    #: Somebody counts on what is in the volume not being changed by others.
    used: ClassVar[bool] = False
    #: Whoever is there may write.
    writes: ClassVar[bool] = False

    def enter(self, site: Site, name: str) -> None:
        """Bring it about."""

    def meanwhile(self, site: Site) -> None:
        """The job was given a first chance."""

    def leave(self, site: Site, name: str) -> None:
        """Whoever uses the volume goes."""

    def write(self, site: Site, name: str, data: bytes) -> None:
        """Whoever uses the volume writes into it."""
        raise Without("nobody there writes")


class AttachedHere(State):
    name = "attached here"
    summary = "the host has it, by a job"
    needs = frozenset({"attach"})
    used = True
    writes = True

    def enter(self, site: Site, name: str) -> None:
        self.device = Loop(site.device(name) or site.attach(name))

    def leave(self, site: Site, name: str) -> None:
        if name in site.model.volumes and site.device(name):
            site.detach(name)

    def write(self, site: Site, name: str, data: bytes) -> None:
        self.device.write(data)


class AttachedElsewhere(State):
    name = "attached elsewhere"
    summary = "another host has it, as is recorded"
    needs = frozenset({"attach"})
    used = True

    def enter(self, site: Site, name: str) -> None:
        device = site.attach(name)
        # What another host has attached is not to be seen on this one.
        run("losetup", "--detach", device)
        self._rows(site, update(attachments).values(host=ELSEWHERE, boot_id="another"), name)

    def leave(self, site: Site, name: str) -> None:
        if name in site.model.volumes:
            self._rows(site, delete(attachments).where(attachments.c.host == ELSEWHERE), name)

    @staticmethod
    def _rows(site: Site, statement, name: str) -> None:
        volume_id = site.volume(name).id
        with site.engine.database.write() as connection:
            connection.execute(statement.where(attachments.c.volume_id == volume_id))


class AttachedByHand(State):
    name = "attached by hand"
    summary = "an administrator has made a loop device of the image, and a process has it open"
    needs = frozenset({"images"})
    used = True
    writes = True

    def enter(self, site: Site, name: str) -> None:
        image = site.ground.image(site.volume(name).id)
        path = run("losetup", "--find", "--show", str(image))
        self.device = Loop(path)
        # Providers attach what is attached already: what tells a use is that it is open.
        script = f'exec 9<"{path}" && echo ready && read line'
        self.child = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == "ready\n"

    def leave(self, site: Site, name: str) -> None:
        self.child.communicate("\n")
        self.device.detach()

    def write(self, site: Site, name: str, data: bytes) -> None:
        self.device.write(data)


class Mounted(State):
    name = "mounted"
    summary = "attached by a job, and the file system in it is mounted"
    needs = frozenset({"attach"})
    used = True

    def enter(self, site: Site, name: str) -> None:
        self.place = site.directory / "mounted"
        self.place.mkdir()
        device = site.device(name) or site.attach(name)
        try:
            run("mount", "-o", "ro", device, str(self.place))
        except AssertionError as error:
            raise Without(f"ext4 cannot be mounted here: {error}") from None

    def leave(self, site: Site, name: str) -> None:
        if (self.place / "letter").read_bytes() != b"somebody needs this" * 50:
            raise AssertionError("what was mounted does not hold what it did")
        run("umount", str(self.place))
        if name in site.model.volumes and site.device(name):
            site.detach(name)


class MountedInANamespace(State):
    name = "mounted in another namespace"
    summary = "an administrator's loop device, mounted where this host's mounts do not show it"
    needs = frozenset({"images"})
    used = True

    def enter(self, site: Site, name: str) -> None:
        image = site.ground.image(site.volume(name).id)
        place = site.directory / "elsewhere"
        place.mkdir()
        # A device of the image that goes with its last user: what mount makes by itself.
        script = f'mount -o ro,loop "{image}" "{place}" && echo ready && read line'
        self.child = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        if self.child.stdout.readline() != "ready\n":
            raise Without(f"it cannot be mounted here: {self.child.communicate()[1]}")

    def leave(self, site: Site, name: str) -> None:
        self.child.communicate("\n")


class OpenByAddress(State):
    name = "open by its address"
    summary = "a process, as a hypervisor would be, has the image file open for writing"
    needs = frozenset({"images", "openers"})
    used = True
    writes = True

    def enter(self, site: Site, name: str) -> None:
        image = site.ground.image(site.volume(name).id)
        self.path = image
        # One of its own: a process does not ask whether it stands in its own way.
        script = f'exec 9<>"{image}" && echo ready && while read line; do '
        script += 'dd if="$line" of=/proc/self/fd/9 bs=1M conv=notrunc,fsync status=none; echo ok;'
        script += " done"
        self.child = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.child.stdout is not None and self.child.stdin is not None
        assert self.child.stdout.readline() == "ready\n"

    def leave(self, site: Site, name: str) -> None:
        with suppress(BrokenPipeError):
            self.child.communicate()

    def write(self, site: Site, name: str, data: bytes) -> None:
        assert self.child.stdout is not None and self.child.stdin is not None
        source = site.directory / "written"
        source.write_bytes(data)
        self.child.stdin.write(f"{source}\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "ok\n"


class BeingExported(State):
    name = "being exported"
    summary = "a job that exports it has begun to read"
    needs = frozenset({"images"})

    def enter(self, site: Site, name: str) -> None:
        self.target = site.exchange / "exported"
        self.contents = site.volume(name).padded
        self.job_id = site.submit(
            {"action": "volume.export", "volume": name, "params": {"target": str(self.target)}}
        )
        there, self.go = threading.Event(), threading.Event()
        go, before = self.go, Work.checkpoint
        job_id = self.job_id

        def checkpoint(work: Work) -> None:
            # It has written down what it is about to do, and reads the first part.
            if work.claim.job_id == job_id and work.intended("export") and not there.is_set():
                there.set()
                go.wait(_PATIENCE)
            before(work)

        self._before = before
        Work.checkpoint = checkpoint  # type: ignore[method-assign,assignment]
        self.other = site.engine.another_worker("worker-2")
        self.thread = threading.Thread(target=self.other.work, daemon=True)
        self.thread.start()
        while not there.wait(0.01):
            if not self.thread.is_alive():
                raise Without("nothing of it is read in parts here")

    def meanwhile(self, site: Site) -> None:
        self.go.set()
        self.thread.join(_PATIENCE)
        Work.checkpoint = self._before  # type: ignore[method-assign]
        site.work()

    def leave(self, site: Site, name: str) -> None:
        if site.job(self.job_id)["state"] == "succeeded":
            site.model.files[self.target] = self.contents


STATES: dict[str, type[State]] = {
    state.name: state
    for state in (
        State,
        AttachedHere,
        AttachedElsewhere,
        AttachedByHand,
        Mounted,
        MountedInANamespace,
        OpenByAddress,
        BeingExported,
    )
}
