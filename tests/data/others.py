"""What others do to the storage meanwhile, and how they undo it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.data.grounds import DiskFiles, Filer, MountedFiles, Provider, run
from tests.data.patterns import pattern
from tests.data.site import Site, Without
from tests.data.states import State
from tests.ontap.double import Fault

#: libvirt's user on Debian: to whom it gives the images of guests.
_GUEST = 64055


class Others:
    """Others who do nothing."""

    name: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "nobody does anything"
    #: What the ground must have.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: The worker has no right to pass over permissions.
    permissions_count: ClassVar[bool] = False
    #: Nothing of it is left once it was undone.
    passes: ClassVar[bool] = True
    #: An image that is no longer what is recorded: actions that build on its contents must stop.
    differs: ClassVar[bool] = False
    #: Needs somebody in the volume who writes.
    writes: ClassVar[bool] = False
    #: The moments at which it is done; all if empty.
    moments: ClassVar[frozenset[str]] = frozenset()
    #: It is done to the image of the volume's oldest snapshot, not to that of the volume.
    on_snapshot: ClassVar[bool] = False

    def act(self, site: Site, name: str, state: State) -> None:
        """Do it. Raises `Without` where that cannot be."""

    def undo(self, site: Site, name: str) -> None:
        """The cause is gone."""


def _image(site: Site, name: str, *, of_snapshot: bool = False) -> Path:
    volume = site.volume(name)
    if of_snapshot:
        oldest = next(iter(volume.snapshots.values()), None)
        path = None if oldest is None else site.ground.snapshot_image(volume.id, oldest.id)
    else:
        path = site.ground.image(volume.id)
    if path is None:
        raise Without("there is no image at that moment")
    return path


def _held(site: Site, image: Path) -> bytes:
    """What an image holds at this moment, which the job may have changed already."""
    with site.seen_as_truth():
        return image.read_bytes()


class TakeItOver(Others):
    name = "chown"
    summary = "`chown` to a guest's user and `chmod 600`; the worker must heed permissions"
    needs = frozenset({"owners"})
    permissions_count = True

    def act(self, site: Site, name: str, state: State) -> None:
        if self.on_snapshot:
            self.paths = [_image(site, name, of_snapshot=True)]
        else:
            self.paths = [_image(site, name), *site.close_to(name)]
        for path in self.paths:
            os.chown(path, _GUEST, _GUEST)
            path.chmod(0o600)

    def undo(self, site: Site, name: str) -> None:
        for path in self.paths:
            if path.exists():
                os.chown(path, 0, 0)


class CloseTheDirectory(Others):
    name = "directory closed"
    summary = "`chown` and `chmod 700` of the directory that holds the images, for a moment"
    needs = frozenset({"owners"})
    permissions_count = True

    def act(self, site: Site, name: str, state: State) -> None:
        self.path = site.ground.path / "volumes"
        os.chown(self.path, _GUEST, _GUEST)
        self.path.chmod(0o700)

    def undo(self, site: Site, name: str) -> None:
        os.chown(self.path, 0, 0)


class _Chattr(Others):
    needs = frozenset({"attributes"})
    letter: ClassVar[str]

    def act(self, site: Site, name: str, state: State) -> None:
        self.paths = [_image(site, name)]
        for path in self.paths:
            run("chattr", f"+{self.letter}", str(path))

    def undo(self, site: Site, name: str) -> None:
        for path in self.paths:
            if path.exists():
                run("chattr", f"-{self.letter}", str(path))


class Immutable(_Chattr):
    name = "chattr +i"
    summary = "`chattr +i` of the image"
    letter = "i"


class AppendOnly(_Chattr):
    name = "chattr +a"
    summary = "`chattr +a` of the image"
    letter = "a"


class ReadOnly(Others):
    name = "read-only"
    summary = "`mount -o remount,ro`, then `rw`"
    needs = frozenset({"remount"})

    def act(self, site: Site, name: str, state: State) -> None:
        assert isinstance(site.ground, MountedFiles)
        try:
            run("mount", "-o", "remount,ro", str(site.ground.mount))
        except AssertionError:
            raise Without("the kernel refuses it while something is open for writing") from None

    def undo(self, site: Site, name: str) -> None:
        assert isinstance(site.ground, MountedFiles)
        run("mount", "-o", "remount,rw", str(site.ground.mount))


class HardLink(Others):
    name = "hard link"
    summary = "`ln` of the image, to keep what is in it"
    needs = frozenset({"images", "openers"})

    def act(self, site: Site, name: str, state: State) -> None:
        image = _image(site, name, of_snapshot=self.on_snapshot)
        self.path = site.ground.path / "linked by somebody"
        self.path.hardlink_to(image)
        site.model.files[self.path] = _held(site, image)

    def undo(self, site: Site, name: str) -> None:
        self.path.unlink()
        del site.model.files[self.path]


class Copy(Others):
    name = "copy"
    summary = "`cp -a` of the image, under another name beside it"
    needs = frozenset({"images"})

    def act(self, site: Site, name: str, state: State) -> None:
        image = _image(site, name)
        self.path = image.with_name(f"copy-of-{image.name}")
        run("cp", "-a", str(image), str(self.path))
        site.model.files[self.path] = self.path.read_bytes()

    def undo(self, site: Site, name: str) -> None:
        self.path.unlink()
        del site.model.files[self.path]


class Move(Others):
    name = "move away"
    summary = "`mv` of the image out of the backend's directories, then back"
    needs = frozenset({"images"})
    differs = True

    def act(self, site: Site, name: str, state: State) -> None:
        self.image = _image(site, name, of_snapshot=self.on_snapshot)
        self.path = site.ground.path / "moved by somebody"
        held = _held(site, self.image)
        self.image.rename(self.path)
        site.model.files[self.path] = held

    def undo(self, site: Site, name: str) -> None:
        del site.model.files[self.path]
        if self.image.exists():
            raise AssertionError(f"{name} was made anew where it was moved away")
        self.image.parent.mkdir(exist_ok=True)
        self.path.rename(self.image)


class Truncate(Others):
    name = "truncate"
    summary = "`truncate` of the image to half its size, then what was cut off is put back"
    needs = frozenset({"images"})
    differs = True

    def act(self, site: Site, name: str, state: State) -> None:
        self.image = _image(site, name, of_snapshot=self.on_snapshot)
        self.inode = self.image.stat().st_ino
        held = self.image.read_bytes()
        self.length = len(held) // 2
        self.tail = held[self.length :]
        os.truncate(self.image, self.length)

    def undo(self, site: Site, name: str) -> None:
        # Whatever it is called by now.
        for path in site.ground.path.rglob("*"):
            if path.is_file() and path.stat().st_ino == self.inode:
                with path.open("r+b") as file:
                    file.seek(self.length)
                    file.write(self.tail)
                return


class Replace(Others):
    name = "replace"
    summary = "another file in the image's place, which is kept elsewhere, then put back"
    needs = frozenset({"images", "stamps"})
    differs = True

    def act(self, site: Site, name: str, state: State) -> None:
        self.image = _image(site, name, of_snapshot=self.on_snapshot)
        self.path = site.ground.path / "kept by somebody"
        held = _held(site, self.image)
        self.image.rename(self.path)
        theirs = pattern("somebody", 1)
        self.image.write_bytes(theirs)
        site.model.files[self.image] = theirs
        site.model.files[self.path] = held

    def undo(self, site: Site, name: str) -> None:
        del site.model.files[self.image], site.model.files[self.path]
        self.image.unlink()
        self.path.rename(self.image)


class LinkASnapshot(HardLink):
    name = "snapshot: hard link"
    summary = "the same of the oldest snapshot's image"
    needs = HardLink.needs | {"snapshots"}
    on_snapshot = True


class MoveASnapshot(Move):
    name = "snapshot: move away"
    summary = "the same of the oldest snapshot's image"
    needs = Move.needs | {"snapshots"}
    on_snapshot = True


class TruncateASnapshot(Truncate):
    name = "snapshot: truncate"
    summary = "the same of the oldest snapshot's image"
    needs = Truncate.needs | {"snapshots"}
    on_snapshot = True


class ReplaceASnapshot(Replace):
    name = "snapshot: replace"
    summary = "another file in the place of the oldest snapshot's image, then put back"
    needs = Replace.needs | {"snapshots"}
    on_snapshot = True


class TakeASnapshotOver(TakeItOver):
    name = "snapshot: chown"
    summary = "`chown` and `chmod 600` of the oldest snapshot's image alone"
    needs = TakeItOver.needs | {"snapshots"}
    on_snapshot = True


class DeleteASnapshot(Others):
    name = "snapshot deleted"
    summary = "the oldest snapshot is deleted by hand"
    needs = frozenset({"snapshots"})
    passes = False

    def act(self, site: Site, name: str, state: State) -> None:
        volume = site.volume(name)
        if not volume.snapshots:
            raise Without("there is no snapshot at that moment")
        oldest = next(iter(volume.snapshots))
        site.ground.drop_snapshot(volume.id, volume.snapshots[oldest].id)
        site.model.deleted.add(oldest)


class Unmount(Others):
    name = "unmount"
    summary = "`umount` of the backend's file system, then mounted again"
    needs = frozenset({"unmount"})

    def act(self, site: Site, name: str, state: State) -> None:
        assert isinstance(site.ground, MountedFiles)
        if subprocess.run(["umount", str(site.ground.mount)], capture_output=True).returncode:
            raise Without("the kernel refuses it while something is open")

    def undo(self, site: Site, name: str) -> None:
        assert isinstance(site.ground, DiskFiles)
        site.ground.mount_it()


class Fill(Others):
    name = "disk full"
    summary = "the file system has no byte left, then room again"
    needs = frozenset({"room"})

    def act(self, site: Site, name: str, state: State) -> None:
        assert isinstance(site.ground, MountedFiles)
        self.path = site.ground.mount / "filler"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            end = 0
            for step in (64 * 2**20, 2**20, 4096):
                while True:
                    try:
                        os.posix_fallocate(descriptor, end, step)
                    except OSError:
                        break
                    end += step
        finally:
            os.close(descriptor)

    def undo(self, site: Site, name: str) -> None:
        self.path.unlink()


class _Scripts(Others):
    needs = frozenset({"scripts"})
    body: ClassVar[str]

    def act(self, site: Site, name: str, state: State) -> None:
        assert isinstance(site.ground, Provider)
        self.kept = site.ground.path / "scripts"
        shutil.copytree(site.ground.scripts, self.kept)
        for path in site.ground.scripts.iterdir():
            if os.access(path, os.X_OK) and path.is_file() and not path.name.endswith(".example"):
                path.write_text(self.body)

    def undo(self, site: Site, name: str) -> None:
        assert isinstance(site.ground, Provider)
        shutil.rmtree(site.ground.scripts)
        self.kept.rename(site.ground.scripts)


class Hang(_Scripts):
    name = "hang"
    summary = "every script of the provider sleeps, until it is killed"
    body = "#!/bin/sh\nsleep 1000\n"


class FailForAMoment(_Scripts):
    name = "fail for a moment"
    summary = "every script of the provider fails, then works again"
    body = "#!/bin/sh\necho 'the pool is gone' >&2\nexit 3\n"


class _Requests(Others):
    needs = frozenset({"requests"})
    kind: ClassVar[str]
    methods: ClassVar[str] = ".*"

    def act(self, site: Site, name: str, state: State) -> None:
        assert isinstance(site.ground, Filer)
        site.ground.double.faults.append(Fault(self.kind, times=3, method=self.methods))

    def undo(self, site: Site, name: str) -> None:
        assert isinstance(site.ground, Filer)
        site.ground.double.faults = []


class AnswersLost(_Requests):
    name = "answers lost"
    summary = "the filer makes a change, and its answer is lost, three times"
    kind = "drop after"
    methods = "POST|PATCH|DELETE"


class AnswersRefused(_Requests):
    name = "answers 503"
    summary = "the filer answers that it cannot just now, three times"
    kind = "status"


class WriteMeanwhile(Others):
    name = "write"
    summary = "whoever has the volume open overwrites all of it"
    writes = True
    moments = frozenset({"inside", "done"})

    def act(self, site: Site, name: str, state: State) -> None:
        volume = site.volume(name)
        data = pattern(name, 77)
        state.write(site, name, data)
        # Either is whole; a mixture is not.
        site.model.also[name] = volume.contents
        volume.contents = data


OTHERS: dict[str, type[Others]] = {
    others.name: others
    for others in (
        Others,
        TakeItOver,
        CloseTheDirectory,
        Immutable,
        AppendOnly,
        ReadOnly,
        HardLink,
        Copy,
        Move,
        Truncate,
        Replace,
        LinkASnapshot,
        MoveASnapshot,
        TruncateASnapshot,
        ReplaceASnapshot,
        TakeASnapshotOver,
        DeleteASnapshot,
        Unmount,
        Fill,
        Hang,
        FailForAMoment,
        AnswersLost,
        AnswersRefused,
        WriteMeanwhile,
    )
}
