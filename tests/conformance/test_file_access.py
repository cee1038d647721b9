"""What the `file` driver may not look at, and what others may change, is never guessed about."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import AccessDenied, BackendError, InUse
from tests.conformance.calls import Claim, new_snapshot, new_volume
from tests.conformance.images import (
    MIB,
    NOBODY,
    as_nobody,
    attachable,
    made,
    needs_program,
    needs_root,
)
from tests.conformance.systems import INSTALLATION, Files, PlainFiles, XfsFiles
from workers.backends.base.facts import Absent, NotOurs, VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import stamps
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions
from workers.backends.file.tree import Tree

#: The user that libvirt runs guests as on Debian.
HYPERVISOR = 64055


class OpenFiles(Files):
    """In a directory that every user of the host can reach, owned by one who is not root."""

    def prepare(self, room: Path) -> Path:
        needs_root()
        self.open_room = tempfile.TemporaryDirectory(prefix="orchestrator-", dir="/tmp")
        path = Path(self.open_room.name)
        path.chmod(0o755)
        return path

    def give_to_nobody(self) -> None:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", self.path], check=True)

    def stop(self) -> None:
        super().stop()
        self.open_room.cleanup()


@pytest.fixture
def open_files(tmp_path: Path) -> Iterator[OpenFiles]:
    system = OpenFiles()
    system.start(tmp_path, "files")
    yield system
    system.stop()


def changes(driver: FileDriver, volume: VolumeRef) -> dict[str, Callable[[], object]]:
    return {
        "grow": lambda: driver.grow(volume, 2 * MIB, Claim()),
        "set_metadata": lambda: driver.set_metadata(volume, {"k": "v"}, Claim()),
        "rename": lambda: driver.rename(volume, "other", Claim()),
        "wipe": lambda: driver.wipe(volume, Claim()),
        "remove": lambda: driver.remove(volume, Claim()),
        "discard": lambda: driver.discard(volume, Claim()),
        "fence_off": lambda: driver.fence_off(volume, Claim()),
        "attach": lambda: driver.attach(volume, Claim()),
    }


def looks(driver: FileDriver, volume: VolumeRef) -> dict[str, Callable[[], object]]:
    return {
        "inspect": lambda: driver.inspect(volume),
        "inspect by another name": lambda: driver.inspect(VolumeRef(volume.id, "old")),
        "list": lambda: list(driver.list_volumes()),
        "devices": lambda: driver.devices(volume),
        "create": lambda: driver.create(volume, MIB, {}, Claim()),
    }


def test_an_image_that_a_hypervisor_took_is_neither_lost_nor_foreign(
    open_files: OpenFiles,
) -> None:
    volume, driver = made(open_files), open_files.driver
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    open_files.give_to_nobody()
    image = open_files.image(volume)
    os.chown(image, HYPERVISOR, HYPERVISOR)
    content = image.read_bytes()
    for what, ask in {**looks(driver, volume), **changes(driver, volume)}.items():
        told: Any = as_nobody(ask)
        assert told[0] is AccessDenied, (what, told)
        assert str(image) in told[1], what
        assert "give the worker's user access" in told[1]
    assert image.read_bytes() == content

    # Root may look at it, and it is fine.
    os.chown(open_files.path, 0, 0)
    subprocess.run(["chown", "-R", "0:0", open_files.path / ".orchestrator"], check=True)
    for path in (open_files.path / "volumes", image.parent, open_files.path / "snapshots"):
        os.chown(path, 0, 0)
    assert isinstance(driver.inspect(volume), VolumeFacts)
    assert driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB


def test_a_snapshot_that_may_not_be_read_is_not_lost(open_files: OpenFiles) -> None:
    volume, driver = made(open_files), open_files.driver
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    open_files.give_to_nobody()
    [image] = open_files.path.glob("snapshots/*/*.img")
    os.chown(image, HYPERVISOR, HYPERVISOR)
    for ask in (
        lambda: driver.list_snapshots(volume),
        lambda: driver.delete_snapshot(snapshot, Claim()),
        lambda: driver.rollback(volume, snapshot, Claim()),
        lambda: driver.create_snapshot(new_snapshot(volume, "s2"), Claim()),
        lambda: driver.delete_snapshot(SnapshotRef(snapshot.id, "other", volume), Claim()),
    ):
        told: Any = as_nobody(ask)
        assert told[0] is AccessDenied, told
        assert str(image) in told[1]
    assert image.exists()


@pytest.mark.parametrize("part", ["volumes", "lane", ".orchestrator", ".orchestrator/stamps"])
def test_a_directory_that_may_not_be_looked_at_is_not_empty(
    open_files: OpenFiles, part: str
) -> None:
    volume, driver = made(open_files), open_files.driver
    # Its stamp is a file of its own, so that each of the directories is needed.
    driver.set_metadata(volume, {f"key-{n}": "é" * 1024 for n in range(64)}, Claim())
    place = open_files.image(volume).parent if part == "lane" else open_files.path / part
    open_files.give_to_nobody()
    place.chmod(0)
    for what, ask in looks(driver, volume).items():
        told: Any = as_nobody(ask)
        assert told[0] is AccessDenied, (what, told)
        assert str(place) in told[1], what


@pytest.mark.parametrize("attribute", ["i", "a"])
def test_an_immutable_image_is_left_as_it_is_and_told_so(files: Files, attribute: str) -> None:
    needs_root()
    needs_program("chattr")
    if isinstance(files, PlainFiles):
        pytest.skip("this file system has no such attributes")
    volume = made(files)
    image, before = files.image(volume), files.driver.inspect(volume)
    subprocess.run(["chattr", f"+{attribute}", image], check=True)
    try:
        for what, change in changes(files.driver, volume).items():
            with pytest.raises(BackendError, match=r"Operation not permitted.*chattr -i") as told:
                change()
            assert str(image) in told.value.detail, what
            assert files.driver.inspect(volume) == before
    finally:
        subprocess.run(["chattr", f"-{attribute}", image], check=True)
    assert files.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB


def test_a_file_system_that_became_read_only_is_told(tmp_path: Path) -> None:
    system = XfsFiles()
    system.start(tmp_path, "xfs")
    try:
        volume = made(system)
        before = system.driver.inspect(volume)
        subprocess.run(["mount", "-o", "remount,ro", system.mount], check=True)
        for what, change in changes(system.driver, volume).items():
            with pytest.raises(BackendError, match="read-only") as told:
                change()
            assert told.value.code == "backend_error", what
            assert system.driver.inspect(volume) == before
        subprocess.run(["mount", "-o", "remount,rw", system.mount], check=True)
        assert system.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB
    finally:
        system.stop()


@pytest.mark.parametrize("written", [b"", b"{}", b'{"format":2,"id":"x"}', b"\xff"])
def test_a_stamp_that_cannot_be_read_makes_nobody_s_image(files: Files, written: bytes) -> None:
    volume = made(files)
    image = files.image(volume)
    if isinstance(files, PlainFiles):
        [stamp] = files.path.glob(".orchestrator/stamps/*")
        stamp.write_bytes(written)
    else:
        os.setxattr(image, stamps.ATTRIBUTE, written)
    for ask in (*looks(files.driver, volume).values(), *changes(files.driver, volume).values()):
        with pytest.raises(BackendError, match="cannot be read"):
            ask()
    assert image.exists()


def test_a_stamp_whose_file_is_missing_is_not_none(files: Files) -> None:
    if isinstance(files, PlainFiles):
        pytest.skip("without attributes nothing tells that there was one")
    volume = made(files)
    files.driver.set_metadata(volume, {f"key-{n}": "é" * 1024 for n in range(64)}, Claim())
    image = files.image(volume)
    subprocess.run(["cp", "-a", image, image.with_name(f"vm2~{'0' * 32}.img")], check=True)
    copy = VolumeRef("0" * 32, "vm2")
    assert isinstance(files.driver.inspect(copy), NotOurs | Absent)
    image.with_name(f"vm2~{'0' * 32}.img").unlink()
    [stamp] = files.path.glob(".orchestrator/stamps/*")
    kept = stamp.rename(files.path / "kept")
    for ask in (*looks(files.driver, volume).values(), *changes(files.driver, volume).values()):
        with pytest.raises(BackendError, match="restore"):
            ask()
    kept.rename(stamp)
    assert isinstance(files.driver.inspect(volume), VolumeFacts)


def test_a_volume_that_is_removed_while_it_is_looked_at_is_gone(files: Files) -> None:
    volume = made(files)
    files.driver.set_metadata(volume, {f"key-{n}": "é" * 1024 for n in range(64)}, Claim())
    looking = os.open(files.image(volume), os.O_PATH)
    try:
        files.driver.remove(volume, Claim())
        with (
            Tree("files", files.path, INSTALLATION) as tree,
            pytest.raises(FileNotFoundError),
        ):
            stamps.read_stamp(tree, looking, volume.id, "it")
    finally:
        os.close(looking)


def test_a_mount_that_hides_attributes_makes_no_volume_foreign(files: Files) -> None:
    if not isinstance(files, PlainFiles):
        pytest.skip("this file system has attributes")
    volume = made(files)
    # As of a backend that was set up where there were some, and is mounted otherwise now.
    marker = files.path / ".orchestrator" / "identity.json"
    marker.write_text(marker.read_text().replace('"attributes": false', '"attributes": true'))
    assert isinstance(files.driver.inspect(volume), VolumeFacts)
    [stamp] = files.path.glob(".orchestrator/stamps/*")
    stamp.unlink()
    for ask in looks(files.driver, volume).values():
        with pytest.raises(BackendError, match="extended attributes"):
            ask()


@pytest.mark.parametrize("part", ["volumes", "snapshots", ".orchestrator/tmp"])
def test_a_missing_part_of_the_directory_is_not_an_empty_backend(files: Files, part: str) -> None:
    volume = made(files)
    (files.path / part).rename(files.path / "elsewhere")
    asks: list[Callable[[], object]] = [lambda: files.driver.create(new_volume(), MIB, {}, Claim())]
    if part == "volumes":
        asks += [
            lambda: files.driver.inspect(volume),
            lambda: list(files.driver.list_volumes()),
            lambda: files.driver.remove(volume, Claim()),
        ]
    if part == "snapshots":
        asks = [
            lambda: files.driver.list_snapshots(volume),
            lambda: files.driver.remove(volume, Claim()),
            lambda: list(files.driver.list_strays()),
        ]
    for ask in asks:
        with pytest.raises(BackendError, match="missing"):
            ask()


def test_who_may_not_look_at_loop_devices_still_sees_that_an_image_is_used(
    open_files: OpenFiles,
) -> None:
    volume, driver = made(open_files), open_files.driver
    attachable(open_files).attach(volume, Claim())
    open_files.give_to_nobody()
    for change in ("remove", "wipe"):
        told: Any = as_nobody(changes(driver, volume)[change])
        assert told[0] is InUse, told
    listed: Any = as_nobody(lambda: list(driver.list_volumes()))
    [facts] = listed
    assert facts.attached is True


def test_a_worker_that_is_not_root_works_in_a_directory_of_its_own(open_files: OpenFiles) -> None:
    driver, volume, clone = open_files.driver, new_volume(), new_volume("clone")
    snapshot = new_snapshot(volume)
    open_files.give_to_nobody()

    def work() -> bool:
        driver.create(volume, MIB, {"k": "v"}, Claim())
        driver.create_snapshot(snapshot, Claim())
        driver.clone(clone, snapshot, MIB, {}, Claim())
        driver.grow(volume, 2 * MIB, Claim())
        driver.rollback(volume, snapshot, Claim())
        driver.rename(volume, "new", Claim())
        driver.delete_snapshot(snapshot, Claim())
        driver.remove(clone, Claim(), wipe=True)
        return driver.remove(volume, Claim()).found

    assert as_nobody(work) is True


# -- whom the directory can be trusted to ------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
@pytest.mark.parametrize("part", [".", "volumes", "lane", ".orchestrator", "image", "marker"])
def test_what_others_may_write_to_is_not_used(open_files: OpenFiles, part: str, mode: int) -> None:
    volume, driver = made(open_files), open_files.driver
    place = {
        "lane": open_files.image(volume).parent,
        "image": open_files.image(volume),
        "marker": open_files.path / ".orchestrator" / "identity.json",
    }.get(part, open_files.path / part)
    before = place.stat().st_mode
    place.chmod(mode)
    asks: dict[str, Callable[[], object]] = {
        "marker": driver.read_identity,
        "image": lambda: driver.grow(volume, 2 * MIB, Claim()),
    }
    ask = asks.get(part, lambda: driver.inspect(volume))
    with pytest.raises(BackendError, match="others may write to") as told:
        ask()
    assert place.name in told.value.detail
    if part == "image":  # which is told of it
        owner = there(driver.inspect(volume), volume).owner
        assert owner is not None
        assert owner.endswith(f"{mode:04o}")
        for change in changes(driver, volume).values():
            with pytest.raises(BackendError, match="others may write to"):
                change()
        with pytest.raises(BackendError, match="others may write to"):
            driver.create_snapshot(new_snapshot(volume), Claim())
    place.chmod(before)
    ask()


@pytest.mark.parametrize("part", [".", "volumes", ".orchestrator"])
def test_a_directory_of_somebody_else_is_not_used(open_files: OpenFiles, part: str) -> None:
    volume, driver = made(open_files), open_files.driver
    os.chown(open_files.path / part, HYPERVISOR, HYPERVISOR)
    with pytest.raises(BackendError, match="belongs to user 64055"):
        driver.inspect(volume)


def test_the_way_to_the_directory_is_looked_at_too(open_files: OpenFiles) -> None:
    driver = open_files.driver
    above = open_files.path.parent
    above.chmod(0o777)
    with pytest.raises(BackendError, match="others may write to") as told:
        driver.read_identity()
    assert str(above) in told.value.detail
    above.chmod(0o1777)  # as /tmp: nobody may rename what is another's
    assert driver.read_identity() == "conformance-marker"
    above.chmod(0o755)
    os.chown(above, HYPERVISOR, 0)
    with pytest.raises(BackendError, match="belongs to user"):
        driver.read_identity()
    os.chown(above, 0, 0)

    # A link leads elsewhere for whoever may exchange it.
    linked = above / "open"
    linked.mkdir()
    linked.chmod(0o777)
    (linked / "way").symlink_to(open_files.path)
    other = FileDriver("files", FileOptions(path=linked / "way"), INSTALLATION)
    with pytest.raises(BackendError, match="others may write to"):
        other.read_identity()
    linked.chmod(0o755)
    assert other.read_identity() == "conformance-marker"
