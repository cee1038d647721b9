"""What attempts of the `file` driver leave when they are cut short, and what the next one makes
of it: nothing is lost, nothing is reported that is not on the disk."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.domain.errors import Conflict
from tests.conformance.calls import Claim, new_snapshot, new_volume
from tests.conformance.images import MIB, made, run, user_of
from tests.conformance.systems import Files, PlainFiles, XfsFiles
from workers.backends.base.facts import Absent, VolumeFacts, there
from workers.backends.base.references import VolumeRef
from workers.backends.file import stamps

# -- two names of one image ---------------------------------------------------------------------


def cut_rename(files: Files, volume: VolumeRef, new_name: str) -> Path:
    """What is there when a rename on a file system without RENAME_NOREPLACE is cut short."""
    old = files.image(volume)
    files.driver.rename(volume, new_name, Claim())
    new = files.image(volume)
    old.parent.mkdir(exist_ok=True)
    old.hardlink_to(new)
    return old


@pytest.mark.parametrize("asked", ["old", "new"])
@pytest.mark.parametrize("wanted", ["old", "new", "third"])
def test_a_rename_that_was_cut_short_is_repeated_or_undone(
    files: Files, asked: str, wanted: str
) -> None:
    volume = made(files, "old")
    files.write(volume, b"data")
    cut_rename(files, volume, "new")
    assert [facts.id for facts in files.driver.list_volumes()] == [volume.id]
    ref = VolumeRef(volume.id, asked)
    assert there(files.driver.inspect(ref), ref).id == volume.id
    facts = files.driver.rename(ref, wanted, Claim())
    assert (facts.id, facts.name) == (volume.id, wanted)
    assert [facts.name for facts in files.driver.list_volumes()] == [wanted]
    assert files.image(volume).stat().st_nlink == 1
    assert files.read(volume, 4) == b"data"


@pytest.mark.parametrize("asked", ["old", "new", "third"])
def test_both_names_of_a_rename_that_was_cut_short_go(files: Files, asked: str) -> None:
    volume = made(files, "old")
    cut_rename(files, volume, "new")
    assert files.driver.remove(VolumeRef(volume.id, asked), Claim()).found
    assert files.driver.inspect(volume) == Absent()
    assert not list(files.path.glob("volumes/*/*"))


def test_a_volume_between_two_names_is_changed_as_any_other(files: Files) -> None:
    volume = made(files, "old")
    snapshot = new_snapshot(volume)
    files.driver.create_snapshot(snapshot, Claim())
    cut_rename(files, volume, "new")
    assert files.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB
    files.driver.wipe(volume, Claim())
    files.driver.rollback(volume, snapshot, Claim())
    assert [facts.id for facts in files.driver.list_volumes()] == [volume.id]
    assert files.image(volume).stat().st_nlink == 1


def test_an_image_with_a_name_of_somebody_else_s_is_not_changed_in_place(files: Files) -> None:
    driver, volume = files.driver, made(files)
    files.write(volume, b"data")
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    other = files.path.parent / "backup.img"
    other.hardlink_to(files.image(volume))
    before = driver.inspect(volume)
    for change in (
        lambda: driver.grow(volume, 2 * MIB, Claim()),
        lambda: driver.wipe(volume, Claim()),
        lambda: driver.rollback(volume, snapshot, Claim()),
    ):
        with pytest.raises(Conflict, match="hard links"):
            change()
        assert driver.inspect(volume) == before
    driver.delete_snapshot(snapshot, Claim())
    with pytest.raises(Conflict, match="hard links"):
        driver.remove(volume, Claim(), wipe=True)
    assert other.read_bytes()[:4] == b"data"
    assert driver.remove(volume, Claim()).found
    assert other.read_bytes()[:4] == b"data"


# -- copies -------------------------------------------------------------------------------------


def test_a_copy_under_another_name_stays_when_a_removal_is_tried_again(files: Files) -> None:
    volume = made(files)
    files.write(volume, b"data")
    image = files.image(volume)
    copy = image.with_name(f"kept~{volume.id}.img")
    subprocess.run(["cp", "-a", image, copy], check=True)
    call = Claim()
    assert files.driver.remove(volume, call).found
    assert not files.driver.remove(volume, call.again()).found
    assert copy.read_bytes()[:4] == b"data"
    assert [facts.id for facts in files.driver.list_volumes()] == [None]
    files.driver.discard(volume, Claim())
    assert copy.exists()


def test_a_copy_that_is_put_back_in_its_place_is_the_volume(files: Files) -> None:
    volume = made(files)
    files.write(volume, b"data")
    image = files.image(volume)
    kept = files.path.parent / "kept.img"
    subprocess.run(["cp", "-a", image, kept], check=True)
    image.unlink()
    subprocess.run(["cp", "-a", kept, image], check=True)
    assert isinstance(files.driver.inspect(volume), VolumeFacts)
    assert files.driver.grow(volume, 2 * MIB, Claim()).size_bytes == 2 * MIB
    assert files.read(volume, 4) == b"data"


# -- on the disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_create_that_could_not_be_synced_is_not_reported(files: Files, number: int) -> None:
    if isinstance(files, PlainFiles):
        pytest.skip("its stamps are synced, too, so that the numbers differ")
    volume = new_volume()
    call = Claim()
    done, _ = run(files, call, "create", volume, MIB, {}, fsync=f"error=EIO:when={number}")
    assert done.returncode != 0
    assert "BackendError" in done.stderr
    assert "the disk failed" in done.stderr
    # Nor is it by a second attempt, unless that can.
    done, _ = run(files, call.again(), "create", volume, MIB, {}, fsync="error=EIO:when=1+")
    assert done.returncode != 0
    assert "the disk failed" in done.stderr
    done, log = run(files, call.again(), "create", volume, MIB, {})
    assert done.returncode == 0, done.stderr
    image = files.image(volume)
    assert synced(log) >= {image.parent}
    # Before it got its name, if it did so only now.
    built = files.path / ".orchestrator" / "tmp" / f"{volume.id}.{call.fence + 2}.img"
    assert synced(log) & {image, built}
    files.driver.discard(volume, Claim())
    assert files.leftovers() == []


def synced(log: str) -> set[Path]:
    done = re.findall(r"f(?:data)?sync\(\d+<([^>]*)>\) += 0", log)
    return {Path(path) for path in done}


def test_a_second_attempt_syncs_what_the_first_one_did(files: Files) -> None:
    volume, call = made(files), Claim()
    image, volumes = files.image(volume), files.path / "volumes"
    done, log = run(files, call, "create", volume, MIB, {})
    assert done.returncode == 0, done.stderr
    assert synced(log) >= {image, image.parent, volumes}
    files.driver.rename(volume, "new", call.again())
    new = files.image(volume)
    done, log = run(files, call.again(), "rename", volume, "new")
    assert done.returncode == 0, done.stderr
    assert synced(log) >= {new, new.parent, image.parent, volumes}
    files.driver.remove(volume, call.again())
    done, log = run(files, call.again(), "remove", VolumeRef(volume.id, "new"))
    assert done.returncode == 0, done.stderr
    assert synced(log) >= {new.parent, volumes}


def test_zeroes_that_could_not_be_written_are_not_believed_later(files: Files) -> None:
    volume, call = made(files), Claim()
    files.write(volume, b"x" * MIB)
    done, log = run(files, call, "wipe", volume, fdatasync="error=EIO:when=1")
    assert done.returncode != 0
    assert "the disk failed" in done.stderr
    # What the kernel still shows of them is forgotten.
    assert "POSIX_FADV_DONTNEED" in log
    files.driver.wipe(volume, call.again())


# -- what is wiped ------------------------------------------------------------------------------


def test_what_is_told_as_wiped_is_not_elsewhere_still(files: Files) -> None:
    volume = made(files, size=2 * MIB)
    files.write(volume, b"x" * MIB)
    clone = new_volume("clone")
    files.driver.clone(clone, volume, 2 * MIB, {}, Claim())
    shared = isinstance(files, XfsFiles)
    os.sync()
    removed = files.driver.remove(volume, Claim(), wipe=True)
    assert removed.wiped_bytes == (MIB if shared else 2 * MIB)
    assert files.driver.remove(clone, Claim(), wipe=True).wiped_bytes == 2 * MIB


def test_what_an_attempt_left_is_wiped_with_the_volume(files: Files) -> None:
    volume = made(files)
    left = files.path / ".orchestrator" / "tmp" / f"{volume.id}.1.img"
    left.write_bytes(b"x" * MIB)
    with user_of(left, mode="<") as watcher:
        seen = Path(f"/proc/{watcher.pid}/fd/3")
        files.driver.remove(volume, Claim(), wipe=True)
        assert seen.read_bytes() == bytes(MIB)
    assert files.leftovers() == []


# -- snapshots without a volume -------------------------------------------------------------------


def test_snapshots_whose_volume_is_gone_are_told(files: Files) -> None:
    driver = files.driver
    kept, gone = made(files, "kept"), made(files, "gone")
    for volume in (kept, gone):
        for name in ("s1", "s2"):
            driver.create_snapshot(new_snapshot(volume, name), Claim())
    assert list(driver.list_strays()) == []
    wanted = driver.list_snapshots(gone)
    files.image(gone).unlink()
    strays = list(driver.list_strays())
    assert {volume_id for volume_id, _ in strays} == {gone.id}
    assert sorted((facts for _, facts in strays), key=lambda facts: facts.order) == wanted


def test_a_volume_under_another_name_keeps_its_snapshots(files: Files) -> None:
    volume = made(files, "old")
    files.driver.create_snapshot(new_snapshot(volume), Claim())
    image = files.image(volume)
    image.rename(image.with_name(f"by-hand~{volume.id}.img"))
    assert list(files.driver.list_strays()) == []
    if not isinstance(files, PlainFiles):
        assert os.getxattr(files.image(volume), stamps.ATTRIBUTE)
