"""What drivers promise of volumes that others have made and that are taken over."""

from __future__ import annotations

import contextlib
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import Conflict, InUse, NotFound, Problem
from tests.conformance.calls import Claim, LeaseLost, new_snapshot, new_volume, stopped
from tests.conformance.conftest import Needs
from tests.conformance.images import made, run, user_of
from tests.conformance.systems import AbleDriver, Files, PlainFiles, System
from workers.backends.base.references import SnapshotRef, VolumeRef, adopted_id
from workers.backends.file import stamps


@pytest.fixture(autouse=True)
def _can(request: pytest.FixtureRequest) -> None:
    if "driver" in request.fixturenames:
        needs: Needs = request.getfixturevalue("needs")
        needs("adopt")


def test_what_is_adopted_bears_our_stamp(driver: AbleDriver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    facts = driver.adopt(volume, Claim())
    assert (facts.id, facts.name) == (volume.id, volume.name)
    assert driver.inspect(volume) == facts
    assert [found.id for found in driver.list_volumes()] == [volume.id]
    driver.remove(volume, Claim())
    assert list(driver.list_volumes()) == []


def test_adopting_again_changes_nothing(driver: AbleDriver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    claim = Claim()
    first = driver.adopt(volume, claim)
    assert driver.adopt(volume, claim.again()) == first


def test_what_bears_a_stamp_is_not_adopted(driver: AbleDriver) -> None:
    mine = new_volume("mine")
    driver.create(mine, 2**20, {}, Claim())
    before = driver.inspect(mine)
    with pytest.raises(Conflict):
        driver.adopt(new_volume("mine"), Claim())
    assert driver.inspect(mine) == before


def test_what_is_not_there_is_not_adopted(driver: AbleDriver) -> None:
    with pytest.raises(NotFound):
        driver.adopt(new_volume("nothing"), Claim())


def test_a_late_adoption_does_no_harm(driver: AbleDriver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    late, later = Claim(), Claim()
    driver.adopt(volume, later)
    with pytest.raises(Conflict):
        driver.adopt(volume, late)


@pytest.mark.parametrize("stop_at", [None, 1, 2, 3, 5, 7])
def test_every_snapshot_comes_with_its_volume_in_its_order(
    driver: AbleDriver, needs: Needs, stop_at: int | None
) -> None:
    needs("snapshot")
    old = new_volume("vm1")
    driver.create(old, 20 * 2**20, {}, Claim())
    names = ["s3", "s1", "a long one " * 22, "s2", "s5", "s4"]
    names = [name.replace(" ", "-").rstrip("-") for name in names]
    for name in names:
        driver.create_snapshot(new_snapshot(old, name), Claim())
    orders = [facts.order for facts in driver.list_snapshots(old)]
    new = new_volume("vm1")
    if stop_at is not None:
        with_stop = stopped(stop_at)
        with contextlib.suppress(LeaseLost):
            driver.adopt(new, with_stop, instead_of=old.id)
    driver.adopt(new, Claim(), instead_of=old.id)
    kept = driver.list_snapshots(new)
    assert [facts.name for facts in kept] == names
    assert [facts.id for facts in kept] == [adopted_id(new.id, name) for name in names]
    assert [facts.order for facts in kept] == orders
    assert driver.list_snapshots(old) == []
    assert list(driver.list_strays()) == []
    last = new_snapshot(new, "last")
    assert driver.create_snapshot(last, Claim()).order > max(orders) or orders == [0] * 6
    assert [facts.name for facts in driver.list_snapshots(new)] == [*names, "last"]


# -- images in files --------------------------------------------------------------------------


def test_a_second_name_of_a_volume_s_image_is_no_volume(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    name = f"{image.parent.name}/link.img"
    image.with_name("link.img").hardlink_to(image)
    for instead_of in (None, volume.id):
        with pytest.raises(Conflict) as told:
            files.driver.adopt(new_volume(name), Claim(), instead_of=instead_of)
        if not isinstance(files, PlainFiles):
            assert told.value.facts["stamp"] == volume.id
            assert "vm1" in told.value.detail
    assert [facts.id for facts in files.driver.list_volumes()].count(volume.id) == 1


def test_a_copy_that_bears_a_stamp_is_a_volume_once_that_is_taken_away(files: Files) -> None:
    volume = made(files)
    image = files.image(volume)
    copy = image.with_name("copy.img")
    subprocess.run(["cp", "-a", image, copy], check=True)
    adopted = new_volume(f"{image.parent.name}/copy.img")
    if not isinstance(files, PlainFiles):
        for instead_of in (None, volume.id):
            with pytest.raises(Conflict, match="setfattr -x") as told:
                files.driver.adopt(adopted, Claim(), instead_of=instead_of)
            assert told.value.facts["stamp"] == volume.id
        os.removexattr(copy, stamps.ATTRIBUTE)
    assert files.driver.adopt(adopted, Claim()).id == adopted.id
    files.driver.remove(volume, Claim())
    assert [facts.id for facts in files.driver.list_volumes()] == [adopted.id]


def test_an_image_that_was_given_a_name_by_hand_is_taken_back(files: Files) -> None:
    if isinstance(files, PlainFiles):
        pytest.skip("without attributes a file of another name bears no stamp")
    volume = made(files)
    files.driver.create_snapshot(new_snapshot(volume), Claim())
    image = files.image(volume)
    image.rename(image.with_name("by-hand.img"))
    taken = new_volume(f"{image.parent.name}/by-hand.img")
    with pytest.raises(Conflict):
        files.driver.adopt(taken, Claim())
    files.driver.adopt(taken, Claim(), instead_of=volume.id)
    assert [facts.name for facts in files.driver.list_snapshots(taken)] == ["s1"]


def test_a_file_with_several_names_is_not_adopted(files: Files) -> None:
    name = files.plant_foreign("theirs")
    foreign = files.path / "volumes" / name
    foreign.with_name("second.img").hardlink_to(foreign)
    with pytest.raises(Conflict, match="hard links"):
        files.driver.adopt(new_volume(name), Claim())
    foreign.with_name("second.img").unlink()
    files.driver.adopt(new_volume(name), Claim())


def test_a_file_in_use_is_not_adopted(files: Files) -> None:
    name = files.plant_foreign("theirs")
    foreign = files.path / "volumes" / name
    adopted = new_volume(name)
    with user_of(foreign), pytest.raises(InUse):
        files.driver.adopt(adopted, Claim())
    if "attach" in files.driver.capabilities():
        os.truncate(foreign, 4096)
        loop = subprocess.run(
            ["losetup", "--show", "-f", foreign], check=True, capture_output=True, text=True
        ).stdout.strip()
        with pytest.raises(InUse, match=loop):
            files.driver.adopt(adopted, Claim())
        subprocess.run(["losetup", "-d", loop], check=True)
    assert foreign.exists()
    files.driver.adopt(adopted, Claim())


# -- a take-over that fails ---------------------------------------------------------------------

SNAPSHOTS = ["s3", "s1", "s2"]


@pytest.fixture
def old(files: Files) -> VolumeRef:
    """A volume with snapshots that no inventory knows."""
    volume = made(files)
    for name in SNAPSHOTS:
        files.write(volume, name.encode())
        files.driver.create_snapshot(new_snapshot(volume, name), Claim())
    files.write(volume, b"now")
    return volume


def take_over(files: Files, old: VolumeRef) -> None:
    """Adopt it under a new id, as whoever asks once more does; all of it is there then."""
    new = new_volume("vm1")
    files.driver.adopt(new, Claim(), instead_of=old.id)
    kept = files.driver.list_snapshots(new)
    assert [facts.name for facts in kept] == SNAPSHOTS
    assert [snapshot_image(files, new, name).read_bytes()[:2] for name in SNAPSHOTS] == [
        name.encode() for name in SNAPSHOTS
    ]
    assert files.read(new, 3) == b"now"
    assert [facts.id for facts in files.driver.list_volumes()] == [new.id]
    assert list(files.driver.list_strays()) == []
    assert files.leftovers() == []
    files.driver.rollback(new, SnapshotRef(adopted_id(new.id, "s1"), "s1", new), Claim())
    assert files.read(new, 2) == b"s1"


def adopt_again(files: Files, volume: VolumeRef, call: Claim) -> None:
    """As jobs do that are told to take over what no inventory has."""
    try:
        files.driver.adopt(volume, call)
    except Conflict as conflict:
        files.driver.adopt(volume, call, instead_of=str(conflict.facts["stamp"]))


def ids(files: Files, volume: VolumeRef) -> list[str | None]:
    """Of all volumes, and of the snapshots of one."""
    there = [facts.id for facts in files.driver.list_volumes()]
    return there + [facts.id for facts in files.driver.list_snapshots(volume)]


def snapshot_image(files: Files, old: VolumeRef, name: str) -> Path:
    [image] = files.path.glob(f"snapshots/{old.id}/{name}~*.img")
    return image


def immutable(path: Path, *, now: bool) -> None:
    done = subprocess.run(["chattr", "+i" if now else "-i", path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this file system has no immutable files")


@pytest.mark.parametrize(
    "obstacle",
    [
        "a snapshot is in use",
        "a snapshot is immutable",
        "snapshots may not be changed",
        "the volume may not be changed",
        "two snapshots of one name",
    ],
)
def test_what_forbids_a_take_over_is_told_before_anything_is_moved(
    files: Files, old: VolumeRef, obstacle: str
) -> None:
    last = snapshot_image(files, old, "s2")
    new = new_volume("vm1")
    with ExitStack() as kept:
        fixed = None
        if obstacle == "a snapshot is in use":
            kept.enter_context(user_of(last))
        elif obstacle == "two snapshots of one name":
            second = new_snapshot(old, "s4")
            files.driver.create_snapshot(second, Claim())
            other = snapshot_image(files, old, "s4")
            twin = other.rename(other.with_name(other.name.replace("s4~", "s2~")))
            kept.callback(lambda: twin.rename(other))
        else:
            fixed = {
                "a snapshot is immutable": last,
                "snapshots may not be changed": last.parent,
                "the volume may not be changed": files.image(old).parent,
            }[obstacle]
            immutable(fixed, now=True)
            kept.callback(immutable, fixed, now=False)
        before = sorted(files.path.rglob("*~*.img"))
        stamped = ids(files, old)
        with pytest.raises(Problem) as told:
            files.driver.adopt(new, Claim(), instead_of=old.id)
        assert "snapshots_taken" not in told.value.facts
        assert sorted(files.path.rglob("*~*.img")) == before
        assert ids(files, old) == stamped
        assert files.driver.list_snapshots(new) == []
    if obstacle == "two snapshots of one name":
        files.driver.delete_snapshot(second, Claim())
    take_over(files, old)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["the same job", "another job"])
@pytest.mark.parametrize("call", ["fsetxattr", "setxattr", "renameat2", "fsync"])
def test_a_take_over_that_fails_at_any_step_says_how_far_it_came(
    files: Files, call: str, then: str
) -> None:
    """Each of the system calls that change something fails once."""
    for number in range(1, 30):
        name = f"vm{number}"
        volume = made(files, name)
        for one in SNAPSHOTS:
            files.driver.create_snapshot(new_snapshot(volume, one), Claim())
        job, new = Claim(), new_volume(name)
        inject: dict[str, Any] = {call: f"error=EIO:when={number}"}
        done, _ = run(files, job, "adopt", new, options={"instead_of": volume.id}, **inject)
        taken = [facts.name for facts in files.driver.list_snapshots(new)]
        if done.returncode == 0:
            assert (taken, number > 1 or call.endswith("setxattr")) == (SNAPSHOTS, True)
            return
        assert "Input/output error" in done.stderr
        if taken:
            assert "adopt it again" in done.stderr
            assert all(one in done.stderr for one in taken)
        else:
            assert "adopt it again" not in done.stderr
        final = new if then == "the same job" else new_volume(name)
        adopt_again(files, final, job.again())
        assert [facts.name for facts in files.driver.list_snapshots(final)] == SNAPSHOTS
        assert list(files.driver.list_strays()) == []
    raise AssertionError("more steps than expected")
