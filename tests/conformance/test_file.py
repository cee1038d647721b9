"""What only the `file` driver can get wrong: its directory, its stamps, its loop devices."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    Conflict,
    IdentityMismatch,
    InUse,
    InvalidSize,
    NoSpace,
    Outage,
)
from tests.conformance.calls import Claim, new_snapshot, new_volume, overtaken
from tests.conformance.images import attachable, made, needs_program
from tests.conformance.systems import INSTALLATION, Files, MountedFiles, PlainFiles, XfsFiles
from workers.backends.base.facts import NotOurs, there
from workers.backends.base.references import VolumeRef
from workers.backends.file import stamps
from workers.backends.file.driver import FileDriver
from workers.backends.file.holding import held
from workers.backends.file.images import found
from workers.backends.file.spec import FileOptions
from workers.backends.file.tree import Tree

MIB = 2**20


# -- the directory ------------------------------------------------------------------------


def test_images_and_directories_are_private_and_sparse(files: Files) -> None:
    volume = made(files, size=2**34)
    image = files.image(volume)
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.stat().st_blocks * 512 < MIB
    assert {path.stat().st_mode & 0o777 for path in files.path.glob("**/*") if path.is_dir()} == {
        0o700
    }


def test_a_directory_without_marker_is_refused_and_not_set_up_silently(tmp_path: Path) -> None:
    driver = FileDriver("fresh", FileOptions(path=tmp_path), INSTALLATION)
    for ask in (
        lambda: list(driver.list_volumes()),
        lambda: driver.inspect(new_volume()),
        lambda: driver.create(new_volume(), MIB, {}, Claim()),
        lambda: driver.remove(new_volume(), Claim()),
    ):
        with pytest.raises(Outage):
            ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("copy", ["cp -a", "rename"])
def test_a_copied_directory_is_not_taken_for_the_original(files: Files, copy: str) -> None:
    other = files.path.with_name("other")
    subprocess.run(["cp", "-a", files.path, other], check=True)
    if copy == "rename":  # the same path, another directory
        files.path.rename(files.path.with_name("original"))
        other.rename(files.path)
        other = files.path
    driver = FileDriver("files", FileOptions(path=other), INSTALLATION)
    with pytest.raises(IdentityMismatch, match="copy of the storage of conformance-marker"):
        driver.read_identity()
    with pytest.raises(IdentityMismatch):
        driver.write_identity("conformance-marker")
    driver.write_identity("another", replace=True)
    assert driver.read_identity() == "another"


def test_a_directory_that_was_moved_is_the_same_storage(files: Files) -> None:
    moved = files.path.rename(files.path.with_name("moved"))
    driver = FileDriver("files", FileOptions(path=moved), INSTALLATION)
    assert driver.read_identity() == "conformance-marker"


def test_a_marker_without_its_directory_counts_and_is_completed(
    files: Files, tmp_path: Path
) -> None:
    marker = files.path / ".orchestrator" / "identity.json"
    marker.write_text('{"format": 1, "identity": "conformance-marker"}')
    assert files.driver.read_identity() == "conformance-marker"
    files.driver.write_identity("conformance-marker")
    subprocess.run(["cp", "-a", files.path, tmp_path / "copy"], check=True)
    with pytest.raises(IdentityMismatch):
        FileDriver("files", FileOptions(path=tmp_path / "copy"), INSTALLATION).read_identity()


def test_a_lease_that_two_write_at_once_is_one_s(files: Files) -> None:
    files.driver.write_lease(b"old", None)

    def take(number: int) -> bool:
        try:
            files.driver.write_lease(b"%d" % number, b"old")
        except IdentityMismatch:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(take, range(8))).count(True) == 1


@pytest.mark.parametrize("part", ["volumes", ".orchestrator/tmp", ".orchestrator", "lane"])
def test_no_link_in_the_tree_is_followed(files: Files, tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside"
    volume = made(files)
    place = files.image(volume).parent if part == "lane" else files.path / part
    shutil.copytree(place, outside, copy_function=shutil.copy)
    shutil.rmtree(place)
    place.symlink_to(outside)
    before = sorted(path.name for path in outside.glob("**/*"))
    for change in (
        lambda: files.driver.create(VolumeRef("0" * 32, "vm1"), MIB, {}, Claim()),
        lambda: files.driver.remove(volume, Claim()),
    ):
        with pytest.raises(BackendError):
            change()
    assert sorted(path.name for path in outside.glob("**/*")) == before


def test_an_image_that_became_a_link_or_a_pipe_is_left_alone(files: Files, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    for name in ("link", "pipe"):
        volume = made(files, name)
        image = files.image(volume)
        image.unlink()
        if name == "link":
            image.symlink_to(secret)
        else:
            os.mkfifo(image)
        assert isinstance(files.driver.inspect(volume), NotOurs)
        for change in (
            lambda volume=volume: files.driver.remove(volume, Claim(), wipe=True),
            lambda volume=volume: files.driver.grow(volume, 2 * MIB, Claim()),
            lambda volume=volume: files.driver.create(volume, MIB, {}, Claim()),
        ):
            with pytest.raises(Conflict):
                change()
    assert secret.read_bytes() == b"not yours"
    assert {facts.id for facts in files.driver.list_volumes()} == {None}


def test_a_full_file_system_ends_a_copy_and_leaves_nothing(tmp_path: Path) -> None:
    class Small(MountedFiles):
        def mount_at(self, room: Path) -> None:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(self.mount)], check=True
            )

    system = Small()
    system.start(tmp_path, "small")
    try:
        source = made(system, "source", 4 * MIB)
        system.write(source, os.urandom(4 * MIB))
        with pytest.raises(NoSpace):
            system.driver.clone(new_volume("clone"), source, 4 * MIB, {}, Claim())
        assert system.leftovers() == []
        assert [facts.id for facts in system.driver.list_volumes()] == [source.id]
    finally:
        system.stop()


def test_a_size_that_no_file_can_have_is_refused(files: Files) -> None:
    if isinstance(files, PlainFiles | XfsFiles):
        pytest.skip("this file system has no such limit")
    with pytest.raises(InvalidSize):
        made(files, size=2**63 - 4096)
    assert files.leftovers() == []


def test_directories_of_long_names_go_with_their_last_image(files: Files) -> None:
    volume = made(files, "x/" * 120)
    driver = files.driver
    snapshot = new_snapshot(volume, "y/" * 120)
    driver.create_snapshot(snapshot, Claim())
    driver.delete_snapshot(snapshot, Claim())
    driver.remove(volume, Claim())
    assert not list(files.path.glob("volumes/*/*"))
    assert not list(files.path.glob("snapshots/*"))
    assert not list(files.path.glob(".orchestrator/stamps/*"))


# -- stamps -------------------------------------------------------------------------------


def test_an_image_without_stamp_is_not_ours_even_at_our_path(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    image.unlink()
    for stamp in files.path.glob(".orchestrator/stamps/*"):
        stamp.unlink()
    image.write_bytes(b"somebody else's")
    assert isinstance(files.driver.inspect(volume), NotOurs)
    assert [facts.id for facts in files.driver.list_volumes()] == [None]
    for change in (
        lambda: files.driver.create(volume, MIB, {}, Claim()),
        lambda: files.driver.remove(volume, Claim()),
        lambda: files.driver.discard(volume, Claim()),
    ):
        with pytest.raises(Conflict):
            change()
    assert image.read_bytes() == b"somebody else's"


def test_a_copy_made_by_hand_is_not_ours(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    subprocess.run(["cp", "-a", image, image.with_name("copy.img")], check=True)
    subprocess.run(["cp", "-a", image, image.with_name(f"vm2~{'0' * 32}.img")], check=True)
    assert sorted((facts.id is None) for facts in files.driver.list_volumes()) == [
        False,
        True,
        True,
    ]
    files.driver.remove(volume, Claim())
    assert len(list(image.parent.iterdir())) == 2


def test_an_image_half_way_through_a_rename_is_found_and_finished(files: Files) -> None:
    volume = made(files, "old")
    image = files.image(volume)
    image.rename(image.with_name(image.name.replace("old~", "between~")))
    for asked in ("old", "new"):
        facts = there(files.driver.inspect(VolumeRef(volume.id, asked)), volume)
        assert facts is not None
        assert facts.name == "between"
    files.driver.rename(volume, "new", Claim())
    assert [(facts.id, facts.name) for facts in files.driver.list_volumes()] == [(volume.id, "new")]


def test_a_stamp_survives_where_attributes_are_too_small_for_it(files: Files) -> None:
    volume = new_volume()
    metadata = {f"key-{number}": "é" * 1024 for number in range(64)}
    files.driver.create(volume, MIB, metadata, Claim())
    assert len(list(files.path.glob(".orchestrator/stamps/*"))) == 1
    snapshot = new_snapshot(volume)
    files.driver.create_snapshot(snapshot, Claim())
    call = Claim()
    files.driver.rollback(volume, snapshot, call)
    facts = there(files.driver.inspect(volume), volume)
    assert facts is not None
    assert (facts.restored_by, facts.metadata) == (call.token, metadata)
    files.driver.delete_snapshot(snapshot, Claim())
    files.driver.remove(volume, Claim())
    assert not list(files.path.glob(".orchestrator/stamps/*"))


def test_attributes_are_used_where_there_are_some(files: Files) -> None:
    image = files.image(made(files))
    beside = list(files.path.glob(".orchestrator/stamps/*"))
    if isinstance(files, PlainFiles):
        assert len(beside) == 1
    else:
        assert b'"identity":"conformance-marker"' in os.getxattr(image, stamps.ATTRIBUTE)
        assert beside == []


def test_fences_of_another_database_do_not_count(files: Files) -> None:
    volume = made(files)
    files.driver.grow(volume, 2 * MIB, Claim(fence=10**9))
    with pytest.raises(Conflict):
        files.driver.grow(volume, 3 * MIB, Claim())
    adopter = FileDriver("files", files.options(), "another-installation")
    assert adopter.grow(volume, 3 * MIB, Claim()).size_bytes == 3 * MIB


def test_a_volume_that_another_process_is_changing_is_busy(files: Files) -> None:
    volume = made(files)
    holder = subprocess.Popen(
        ["flock", str(files.image(volume)), "sh", "-c", "echo held; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BackendBusy):
            files.driver.grow(volume, 2 * MIB, Claim())
        with pytest.raises(BackendBusy):
            files.driver.wipe(volume, Claim())
        holder.communicate("go on\n")
    assert files.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB


def test_what_a_later_claim_builds_makes_an_earlier_one_stop(files: Files) -> None:
    early, volume = Claim(), new_volume()

    def meanwhile() -> None:
        with pytest.raises(Conflict):
            files.driver.create(volume, MIB, {}, early)

    files.driver.create(volume, MIB, {}, overtaken(1, meanwhile))
    assert [facts.id for facts in files.driver.list_volumes()] == [volume.id]


def test_a_rollback_that_was_superseded_is_not_taken_for_done(files: Files) -> None:
    volume = made(files)
    snapshot = new_snapshot(volume)
    files.driver.create_snapshot(snapshot, Claim())
    probe = Claim()
    files.driver.rollback(volume, snapshot, probe)

    def clear_away() -> None:
        for name in files.leftovers():
            (files.path / ".orchestrator" / "tmp" / name).unlink()

    late = overtaken(probe.checkpoints, clear_away)
    with pytest.raises(Conflict, match="taken over"):
        files.driver.rollback(volume, snapshot, late)
    facts = there(files.driver.inspect(volume), volume)
    assert facts is not None
    assert facts.restored_by != late.token


def test_an_image_exchanged_before_it_was_locked_is_looked_for_again(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    with (
        Tree("files", files.path, INSTALLATION) as tree,
        found(tree, volume, os.O_RDWR) as opened,
    ):
        copy = image.with_suffix(".new")
        subprocess.run(["cp", "-a", image, copy], check=True)
        copy.rename(image)
        assert opened is not None
        with held(tree, opened, Claim()) as present:
            assert present is None
    assert files.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB


# -- loop devices ---------------------------------------------------------------------------


def test_a_device_shows_the_image_and_grows_with_it(files: Files) -> None:
    driver = attachable(files)
    volume = made(files)
    device = driver.attach(volume, Claim())
    assert device.path is not None
    assert device.uris == (f"kvm:file:{files.image(volume)}",)
    with Path(device.path).open("r+b") as disk:
        assert disk.seek(0, os.SEEK_END) == MIB
        disk.seek(MIB - 4)
        disk.write(b"last")
        disk.flush()
        os.fsync(disk.fileno())
    assert files.read(volume, 4, MIB - 4) == b"last"
    driver.grow(volume, 3 * MIB, Claim())
    with Path(device.path).open("rb") as disk:
        assert disk.seek(0, os.SEEK_END) == 3 * MIB
    driver.detach(volume, Claim())


def test_a_read_only_device_refuses_writes(files: Files) -> None:
    driver = attachable(files)
    volume = made(files)
    device = driver.attach(volume, Claim(), read_only=True)
    with pytest.raises(OSError), Path(str(device.path)).open("r+b", buffering=0) as disk:
        disk.write(b"x" * 512)
    driver.detach(volume, Claim())


def test_a_device_that_is_held_open_is_in_use_and_goes_on_working(files: Files) -> None:
    driver = attachable(files)
    volume = made(files)
    device = driver.attach(volume, Claim())
    with Path(str(device.path)).open("rb") as user:
        with pytest.raises(InUse):
            driver.detach(volume, Claim())
        assert driver.devices(volume) == [device]
        user.read(4096)
    # The refused detach must not take effect when the last user lets go.
    assert driver.devices(volume) == [device]
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []


def test_a_mounted_device_is_in_use(files: Files, tmp_path: Path) -> None:
    needs_program("mkfs.ext4")
    driver = attachable(files)
    volume = made(files, size=16 * MIB)
    device = driver.attach(volume, Claim())
    subprocess.run(["mkfs.ext4", "-q", str(device.path)], check=True)
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["mount", str(device.path), target], check=True)
    try:
        with pytest.raises(InUse, match="mounted on"):
            driver.detach(volume, Claim())
    finally:
        subprocess.run(["umount", target], check=True)
    driver.detach(volume, Claim())


def test_a_device_made_behind_our_back_is_seen(files: Files) -> None:
    needs_program("losetup")
    driver = attachable(files)
    volume = made(files)
    image = files.image(volume)
    made_by_hand = subprocess.run(
        ["losetup", "--show", "-f", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert [device.path for device in driver.devices(volume)] == [made_by_hand]
    with pytest.raises(InUse):
        driver.remove(volume, Claim())
    assert driver.attach(volume, Claim()).path == made_by_hand
    second = subprocess.run(
        ["losetup", "--show", "-o", "4096", "-f", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    with pytest.raises(Conflict, match="in part") as refusal:
        subprocess.run(["losetup", "-d", made_by_hand], check=True)
        driver.attach(volume, Claim())
    assert second in refusal.value.detail
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []


def test_snapshots_of_a_written_volume_need_shared_blocks(files: Files) -> None:
    driver = attachable(files)
    volume = made(files)
    device = driver.attach(volume, Claim())
    snapshot = new_snapshot(volume)
    if isinstance(files, XfsFiles):
        # Held open: closing a device would write out what is still in memory.
        with Path(str(device.path)).open("r+b", buffering=0) as disk:
            disk.write(b"through the device")
            driver.create_snapshot(snapshot, Claim())
        clone = new_volume("clone")
        driver.clone(clone, snapshot, MIB, {}, Claim())
        assert files.read(clone, 18) == b"through the device"
    else:

        def write(_number: int) -> None:
            with Path(str(device.path)).open("r+b", buffering=0) as disk:
                disk.write(b"through the device")

        write(0)
        with pytest.raises(InUse, match="was written to while it was copied"):
            driver.create_snapshot(snapshot, Claim(at_checkpoint=write))
        assert driver.list_snapshots(volume) == []
        assert files.leftovers() == []
        with (
            pytest.raises(InUse, match="was written to while it was copied"),
            driver.contents(volume, Claim()) as contents,
        ):
            for _ in contents.parts:
                write(0)
        # Attached, and nobody writes: what is copied is what there is at one moment.
        driver.create_snapshot(snapshot, Claim())
        clone = new_volume("clone")
        driver.clone(clone, snapshot, MIB, {}, Claim())
        assert files.read(clone, 18) == b"through the device"
        driver.delete_snapshot(snapshot, Claim())
        driver.detach(volume, Claim())
        driver.attach(volume, Claim(), read_only=True)
        driver.create_snapshot(snapshot, Claim())
    driver.detach(volume, Claim())


def test_a_shared_copy_takes_no_time_and_no_room(tmp_path: Path) -> None:
    system = XfsFiles()
    system.start(tmp_path, "xfs")
    try:
        volume = made(system, size=64 * MIB)
        system.write(volume, os.urandom(64 * MIB))
        os.sync()
        before = system.driver.capacity().free_bytes or 0
        started = time.monotonic()
        system.driver.create_snapshot(new_snapshot(volume), Claim())
        assert time.monotonic() - started < 1
        os.sync()
        assert before - (system.driver.capacity().free_bytes or 0) < 8 * MIB
    finally:
        system.stop()
