"""What every driver promises, checked against the real system behind each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    BackendUnavailable,
    Conflict,
    IdentityMismatch,
    ImageUnreachable,
    InUse,
    InvalidInput,
    InvalidName,
    InvalidSize,
    NotFound,
    Unsupported,
)
from orchestrator.domain.installed import DRIVERS
from tests.conformance.calls import (
    Claim,
    LeaseLost,
    new_snapshot,
    new_volume,
    overtaken,
    stopped,
)
from tests.conformance.conftest import Needs
from tests.conformance.systems import INSTALLATION, AbleDriver, System
from workers.backends.base.abilities import CanHoldLease
from workers.backends.base.facts import Absent, Contents, Removed, VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef

MIB = 2**20
#: The smallest volume that every system makes just so: ONTAP's are no smaller.
SIZE = 20 * MIB
#: More than a driver copies between two checkpoints.
LARGE = 20 * MIB
#: More checkpoints than any call on ``LARGE`` has.
MANY = 40


def made(
    driver: AbleDriver,
    name: str = "vm1",
    size: int = SIZE,
    metadata: Mapping[str, str] | None = None,
    call: Claim | None = None,
) -> VolumeRef:
    volume = new_volume(name)
    driver.create(volume, size, metadata or {}, call or Claim())
    return volume


def snapped(driver: AbleDriver, volume: VolumeRef, name: str = "s1") -> SnapshotRef:
    snapshot = new_snapshot(volume, name)
    driver.create_snapshot(snapshot, Claim())
    return snapshot


def present(driver: AbleDriver, volume: VolumeRef) -> VolumeFacts:
    return there(driver.inspect(volume), volume)


def missing(driver: AbleDriver) -> type[Exception]:
    """What a call ends with on what is not there: it is not, or that cannot be proved."""
    return NotFound if "absence" in driver.capabilities() else BackendError


def assert_absent(driver: AbleDriver, volume: VolumeRef) -> None:
    """It is not there, or cannot be seen where the storage cannot prove that."""
    if "absence" in driver.capabilities():
        assert driver.inspect(volume) == Absent()
    else:
        with pytest.raises(BackendError):
            driver.inspect(volume)


def assert_metadata(driver: AbleDriver, facts: VolumeFacts, metadata: Mapping[str, str]) -> None:
    """This is the metadata, as far as the storage can tell."""
    if "metadata" not in driver.cannot_tell:
        assert facts.metadata == metadata


def assert_named(driver: AbleDriver, *names: str) -> None:
    """These volumes are there and no other, as far as the storage can tell."""
    if "volumes" not in driver.cannot_tell:
        assert sorted(facts.name for facts in driver.list_volumes()) == sorted(names)


def assert_only(driver: AbleDriver, volume: VolumeRef) -> None:
    """This volume is there and no other, as far as the storage can tell."""
    if "volumes" not in driver.cannot_tell:
        assert [facts.id for facts in driver.list_volumes()] == [volume.id]
    assert present(driver, volume).id == volume.id


# -- the system as a whole ----------------------------------------------------------------


def test_nothing_is_offered_that_was_not_announced(system: System, driver: AbleDriver) -> None:
    assert driver.declared() == DRIVERS[system.kind].capabilities
    assert driver.capabilities() <= driver.declared()


def test_the_marker_is_written_once_and_replaced_only_when_asked(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs.told("identity")
    fresh = system.unmarked()
    assert fresh.read_identity() is None
    fresh.write_identity("one")
    fresh.write_identity("one")
    with pytest.raises(Conflict):
        fresh.write_identity("two")
    assert fresh.read_identity() == "one"
    fresh.write_identity("two", replace=True)
    assert fresh.read_identity() == "two"
    assert driver.read_identity() == "conformance-marker"


def test_who_writes_to_the_storage_is_written_on_it_and_replaced_by_none_who_did_not_look(
    driver: AbleDriver,
) -> None:
    if not isinstance(driver, CanHoldLease):
        pytest.skip(f"the storage of {type(driver).__name__} has no room for a lease")
    driver.write_lease(b"one", None)
    driver.write_lease(b"two", b"one")
    driver.write_lease(b"two", b"one")
    assert driver.read_lease() == b"two"
    for expected in (None, b"one"):
        with pytest.raises(IdentityMismatch):
            driver.write_lease(b"three", expected)
    assert driver.read_lease() == b"two"


def test_storage_that_is_not_there_is_unavailable_and_not_empty(system: System) -> None:
    absent = system.absent()
    if absent is None:
        pytest.skip("this storage is always there")
    asked: dict[str, Callable[[], object]] = {
        "marker": absent.read_identity,
        "room": absent.capacity,
        "volume": lambda: absent.inspect(new_volume()),
        "new volume": lambda: absent.create(new_volume(), MIB, {}, Claim()),
        "volumes": lambda: list(absent.list_volumes()),
        "identity": lambda: absent.write_identity("x"),
    }
    for what, ask in asked.items():
        if what not in absent.cannot_tell:
            with pytest.raises(BackendUnavailable):
                ask()


def test_capacity_and_grain_are_told(system: System, driver: AbleDriver) -> None:
    capacity = driver.capacity()
    assert capacity.grain_bytes >= 1
    if "capacity" in driver.cannot_tell or not system.has_a_size:
        assert (capacity.free_bytes, capacity.total_bytes) == (None, None)
        return
    assert capacity.free_bytes is not None
    assert capacity.total_bytes is not None
    assert 0 <= capacity.free_bytes <= capacity.total_bytes


# -- making and looking -------------------------------------------------------------------


def test_a_volume_is_what_was_asked_and_reads_as_zeroes(system: System, driver: AbleDriver) -> None:
    volume = new_volume("vm1")
    facts = driver.create(volume, SIZE, {"owner": "billing"}, Claim())
    assert (facts.id, facts.name, facts.size_bytes) == (volume.id, "vm1", SIZE)
    assert_metadata(driver, facts, {"owner": "billing"})
    assert facts.restored_by is None
    assert present(driver, volume) == facts
    if "volumes" not in driver.cannot_tell:
        assert list(driver.list_volumes()) == [facts]
    assert system.read(volume, SIZE) == bytes(SIZE)
    assert system.leftovers() == []


def test_sizes_are_rounded_up_to_the_grain_and_told(driver: AbleDriver) -> None:
    grain = driver.capacity().grain_bytes
    volume = new_volume()
    assert driver.create(volume, SIZE + 1, {}, Claim()).size_bytes == SIZE + grain
    assert present(driver, volume).size_bytes == SIZE + grain
    assert driver.create(volume, SIZE + 1, {}, Claim()).size_bytes == SIZE + grain
    small = driver.create(new_volume("small"), 1, {}, Claim()).size_bytes
    assert small % grain == 0
    assert grain <= small <= SIZE


def test_what_exists_as_asked_is_done_and_anything_else_a_conflict(
    system: System, driver: AbleDriver
) -> None:
    volume = made(driver, metadata={"owner": "a"})
    system.write(volume, b"kept")
    again = driver.create(volume, SIZE, {"owner": "a"}, Claim())
    assert again.size_bytes == SIZE
    with pytest.raises(Conflict):
        driver.create(volume, 2 * SIZE, {"owner": "a"}, Claim())
    if "metadata" not in driver.cannot_tell:
        with pytest.raises(Conflict):
            driver.create(volume, SIZE, {"owner": "b"}, Claim())
    if "volumes" not in driver.cannot_tell:
        with pytest.raises(Conflict):
            driver.create(new_volume(volume.name), SIZE, {}, Claim())
    assert_only(driver, volume)
    assert system.read(volume, 4) == b"kept"


def test_what_is_not_there_is_none_or_not_found(driver: AbleDriver) -> None:
    nobody = new_volume("nobody")
    assert_absent(driver, nobody)
    assert driver.list_snapshots(nobody) == []
    assert driver.devices(nobody) == []
    driver.remove(nobody, Claim())
    driver.discard(nobody, Claim())
    capabilities = driver.capabilities()
    calls: dict[str, Callable[[], object]] = {
        "grow": lambda: driver.grow(nobody, MIB, Claim()),
        "metadata": lambda: driver.set_metadata(nobody, {}, Claim()),
        "rename": lambda: driver.rename(nobody, "other", Claim()),
        "clone": lambda: driver.clone(new_volume("c"), nobody, MIB, {}, Claim()),
        "snapshot": lambda: driver.create_snapshot(new_snapshot(nobody), Claim()),
        "rollback": lambda: driver.rollback(nobody, new_snapshot(nobody), Claim()),
        "wipe": lambda: driver.wipe(nobody, Claim()),
        "attach": lambda: driver.attach(nobody, Claim()),
    }
    for capability, call in calls.items():
        if capability in capabilities:
            with pytest.raises(missing(driver)):
                call()
    assert_named(driver)


def test_a_volume_is_found_by_id_whatever_name_it_is_asked_for_by(
    driver: AbleDriver, needs: Needs
) -> None:
    needs.told("volumes")
    volume = made(driver, "vm1")
    assert present(driver, VolumeRef(volume.id, "something-else")).name == "vm1"


# -- names --------------------------------------------------------------------------------

NAMES = [
    "x" * 255,
    "y/" * 127 + "z",
    "/" * 255,
    ":" * 255,
    ".hidden",
    "...",
    "a",
    "A",
    "a/b",
    "a/b/snapshots",
    "a%2Fb".replace("%", "+"),
    "2F",
    "a.img",
    "a:b",
    "a::b",
    "a+b-c_d",
    "a/",
    "/a",
    "volumes",
    "snapshots",
    "con",
    ".orchestrator/tmp/x",
]


def test_every_allowed_name_is_a_volume_of_its_own(system: System, driver: AbleDriver) -> None:
    fitting = [name for name in NAMES if system.takes(name)]
    for name in set(NAMES) - set(fitting):
        assert len(name) > 50
        with pytest.raises(InvalidName):
            made(driver, name)
    volumes = {name: made(driver, name) for name in fitting}
    for name, volume in volumes.items():
        system.write(volume, name.encode())
    assert_named(driver, *fitting)
    for name, volume in volumes.items():
        assert present(driver, volume).name == name
        assert system.read(volume, len(name)) == name.encode()
    if "snapshot" in driver.capabilities():
        for place, volume in enumerate(volumes.values()):
            # Every name on some volumes, and one on each: all on all would say no more.
            names = fitting if place % 8 == 0 else [volume.name]
            for name in names:
                snapped(driver, volume, name)
            assert [facts.name for facts in driver.list_snapshots(volume)] == names
            for facts in driver.list_snapshots(volume):
                assert facts.id is not None
                driver.delete_snapshot(SnapshotRef(facts.id, facts.name, volume), Claim())
    for volume in volumes.values():
        driver.remove(volume, Claim())
    assert_named(driver)


@pytest.mark.parametrize(
    "name",
    ["", "-x", "a b", "vöm", "a\0b", "a\nb", "..", "a/../b", "./a", "x" * 256, "a%2Fb", "a~b"],
)
def test_names_are_refused_again_by_the_driver(driver: AbleDriver, name: str) -> None:
    volume = new_volume(name)
    with pytest.raises(InvalidName):
        driver.create(volume, MIB, {}, Claim())
    good = made(driver, "good")
    if "rename" in driver.capabilities():
        with pytest.raises(InvalidName):
            driver.rename(good, name, Claim())
    if "snapshot" in driver.capabilities():
        with pytest.raises(InvalidName):
            driver.create_snapshot(new_snapshot(good, name), Claim())
    assert_named(driver, "good")


@pytest.mark.parametrize("written", ["", "../../x", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "/"])
def test_ids_are_hexadecimal_digits_only(driver: AbleDriver, written: str) -> None:
    volume = VolumeRef(written, "vm1")
    with pytest.raises(InvalidInput):
        driver.create(volume, MIB, {}, Claim())
    with pytest.raises(InvalidInput):
        driver.discard(volume, Claim())
    assert_named(driver)


# -- what is not ours ---------------------------------------------------------------------


def test_foreign_objects_are_told_and_never_touched(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs.told("volumes")
    ours = made(driver, "ours")
    foreign = system.plant_foreign("theirs")
    before = {facts.name: facts for facts in driver.list_volumes()}
    assert before[foreign].id is None
    assert before["ours"].id == ours.id
    stranger = new_volume("theirs")
    assert_absent(driver, stranger)
    driver.remove(stranger, Claim())
    driver.discard(stranger, Claim())
    driver.remove(ours, Claim())
    assert {facts.name: facts for facts in driver.list_volumes()} == {foreign: before[foreign]}


# -- changing -----------------------------------------------------------------------------


def test_grow_keeps_the_contents_and_never_shrinks(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("grow")
    volume = made(driver, size=SIZE)
    system.write(volume, b"data")
    assert driver.grow(volume, 3 * SIZE, Claim()).size_bytes == 3 * SIZE
    assert driver.grow(volume, 3 * SIZE, Claim()).size_bytes == 3 * SIZE
    assert driver.grow(volume, 2 * SIZE, Claim()).size_bytes == 3 * SIZE
    grain = driver.capacity().grain_bytes
    assert driver.grow(volume, 3 * SIZE + 1, Claim()).size_bytes == 3 * SIZE + grain
    assert present(driver, volume).size_bytes == 3 * SIZE + grain
    assert system.read(volume, 4) == b"data"
    assert system.read(volume, 2 * MIB, SIZE) == bytes(2 * MIB)


def test_metadata_is_replaced_however_large_it_is(driver: AbleDriver, needs: Needs) -> None:
    needs("metadata")
    needs.told("metadata")
    volume = made(driver, metadata={"old": "x"})
    large = {f"key-{number}": "é" * 1024 for number in range(64)}
    for metadata in ({"new": "y"}, large, {"new": "z"}, {}):
        assert driver.set_metadata(volume, metadata, Claim()).metadata == metadata
        assert present(driver, volume).metadata == metadata
        assert driver.set_metadata(volume, metadata, Claim()).metadata == metadata
    rich = made(driver, "rich", metadata=large)
    assert present(driver, rich).metadata == large
    driver.remove(rich, Claim())


def test_rename_keeps_everything_and_overwrites_nothing(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("rename")
    volume, other = made(driver, "old", metadata={"owner": "a"}), made(driver, "taken")
    system.write(volume, b"data")
    if "snapshot" in driver.capabilities():
        snapped(driver, volume)
    with pytest.raises(Conflict):
        driver.rename(volume, "taken", Claim())
    assert_named(driver, "old", "taken")
    long = "n/" * (120 if system.takes("n/" * 120) else 40)
    for name in ("new", long, "new"):
        renamed = driver.rename(volume, name, Claim())
        assert (renamed.id, renamed.name) == (volume.id, name)
        assert driver.rename(volume, name, Claim()) == renamed
        assert driver.rename(VolumeRef(volume.id, name), name, Claim()) == renamed
        assert present(driver, VolumeRef(volume.id, name)) == renamed
        assert_metadata(driver, renamed, {"owner": "a"})
        assert_named(driver, name, "taken")
        assert system.read(volume, 4) == b"data"
    if "snapshot" in driver.capabilities():
        assert [facts.name for facts in driver.list_snapshots(volume)] == ["s1"]
    made(driver, "old")
    driver.remove(other, Claim())


def test_a_clone_is_independent_of_its_source(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("clone")
    large = 2 * SIZE
    source = made(driver, "source", large)
    system.write(source, b"begin")
    system.write(source, b"end", large - 3)
    clone, call = new_volume("clone"), Claim()
    facts = driver.clone(clone, source, large + 1, {"k": "v"}, call)
    assert facts.size_bytes == large + driver.capacity().grain_bytes
    assert_metadata(driver, facts, {"k": "v"})
    assert present(driver, clone).size_bytes == facts.size_bytes
    assert system.read(clone, 5) == b"begin"
    assert system.read(clone, 6, large - 3) == b"end\0\0\0"
    assert all(0 <= done <= total for done, total in call.reported)
    system.write(source, b"other")
    assert driver.clone(clone, source, large + 1, {"k": "v"}, Claim()).id == clone.id
    assert system.read(clone, 5) == b"begin"
    with pytest.raises(Conflict):
        driver.clone(clone, source, 4 * SIZE, {"k": "v"}, Claim())
    with pytest.raises(InvalidSize):
        driver.clone(new_volume("small"), source, SIZE, {}, Claim())
    driver.remove(source, Claim())
    assert system.read(clone, 5) == b"begin"
    assert_named(driver, "clone")
    assert system.leftovers() == []


def test_snapshots_keep_the_contents_in_order(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("snapshot", "clone")
    volume = made(driver)
    kept = []
    for name in ("zz", "aa", "mm"):
        system.write(volume, name.encode())
        kept.append(snapped(driver, volume, name))
    driver.create_snapshot(kept[0], Claim())
    with pytest.raises(Conflict):
        driver.create_snapshot(new_snapshot(volume, "aa"), Claim())
    found = driver.list_snapshots(volume)
    assert [(facts.id, facts.name) for facts in found] == [
        (snapshot.id, snapshot.name) for snapshot in kept
    ]
    assert {facts.size_bytes for facts in found} == {SIZE}
    clone = new_volume("from-snapshot")
    driver.clone(clone, kept[1], SIZE, {}, Claim())
    assert system.read(clone, 2) == b"aa"
    with pytest.raises(InUse):
        driver.remove(volume, Claim())
    assert system.read(volume, 2) == b"mm"
    for snapshot in kept:
        driver.delete_snapshot(snapshot, Claim())
        driver.delete_snapshot(snapshot, Claim())
    assert driver.list_snapshots(volume) == []
    driver.remove(volume, Claim())
    assert system.read(clone, 2) == b"aa"


def test_snapshots_of_two_volumes_may_share_a_name(driver: AbleDriver, needs: Needs) -> None:
    needs("snapshot")
    one, two = made(driver, "a"), made(driver, "a/b")
    first, second = snapped(driver, one), snapped(driver, two)
    driver.delete_snapshot(first, Claim())
    assert [facts.id for facts in driver.list_snapshots(two)] == [second.id]


def test_rollback_puts_contents_and_size_back_once_for_each_job(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("snapshot", "rollback", "grow")
    volume = made(driver, metadata={"owner": "a"})
    system.write(volume, b"before")
    snapshot = snapped(driver, volume)
    system.write(volume, b"after!")
    driver.grow(volume, 2 * SIZE, Claim())
    call = Claim()
    facts = driver.rollback(volume, snapshot, call)
    assert (facts.size_bytes, facts.restored_by) == (SIZE, call.token)
    assert_metadata(driver, facts, {"owner": "a"})
    assert present(driver, volume) == facts
    assert system.read(volume, 6) == b"before"
    system.write(volume, b"newest")
    assert driver.rollback(volume, snapshot, call.again()).restored_by == call.token
    assert system.read(volume, 6) == b"newest"
    other = Claim()
    assert driver.rollback(volume, snapshot, other).restored_by == other.token
    assert system.read(volume, 6) == b"before"
    driver.set_metadata(volume, {"owner": "b"}, Claim())
    assert present(driver, volume).restored_by == other.token
    with pytest.raises(NotFound):
        driver.rollback(volume, new_snapshot(volume, "none"), Claim())
    assert system.leftovers() == []


def test_wipe_leaves_nothing_but_zeroes(system: System, driver: AbleDriver, needs: Needs) -> None:
    needs("wipe")
    volume = made(driver, size=LARGE)
    for offset in (0, LARGE // 2, LARGE - 6):
        system.write(volume, b"secret", offset)
    call = Claim()
    assert driver.wipe(volume, call).size_bytes == LARGE
    assert system.read(volume, LARGE) == bytes(LARGE)
    assert call.reported[-1] == (LARGE, LARGE)
    assert call.checkpoints >= 1
    driver.wipe(volume, Claim())


def test_a_range_that_is_wiped_is_zeroes_and_nothing_else_is(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("wipe")
    volume = made(driver, size=MIB)
    system.write(volume, b"x" * MIB)
    call = Claim()
    driver.wipe(volume, call, offset=4096, length=8192)
    wanted = b"x" * 4096 + bytes(8192) + b"x" * (MIB - 12288)
    assert system.read(volume, MIB) == wanted
    assert call.reported[-1] == (8192, 8192)
    driver.wipe(volume, Claim(), offset=MIB - 4096)
    assert system.read(volume, MIB) == wanted[: MIB - 4096] + bytes(4096)


def test_trim_gives_blocks_of_zeroes_back_and_changes_no_contents(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("trim")
    volume = made(driver, size=LARGE)
    # Data, zeroes, data that neither begins nor ends with a block, zeroes.
    held = b"x" * MIB + bytes(MIB) + b"yy".center(MIB, b"\0") + bytes(LARGE - 3 * MIB)
    system.write(volume, held)
    before = present(driver, volume)
    call = Claim()
    try:
        after = driver.trim(volume, call)
    except Unsupported as unable:
        assert system.read(volume, LARGE) == held
        pytest.skip(unable.detail)
    assert system.read(volume, LARGE) == held
    assert after.size_bytes == LARGE
    assert after.used_bytes < before.used_bytes
    assert after.used_bytes <= 3 * MIB
    assert present(driver, volume).used_bytes == after.used_bytes
    assert call.checkpoints >= 1
    assert driver.trim(volume, Claim()).used_bytes == after.used_bytes


def test_what_is_used_or_was_changed_by_a_later_claim_is_not_trimmed(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("trim", "attach")
    volume, late = made(driver, size=LARGE), Claim()
    system.write(volume, bytes(LARGE))
    used = present(driver, volume).used_bytes
    driver.attach(volume, Claim())
    with pytest.raises(InUse):
        driver.trim(volume, Claim())
    driver.detach(volume, Claim())
    with pytest.raises(Conflict):
        driver.trim(volume, late)
    assert present(driver, volume).used_bytes == used


# -- contents that come and go ------------------------------------------------------------


def test_contents_are_what_was_written_at_one_moment(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("export")
    volume = made(driver, size=LARGE)
    system.write(volume, b"begin")
    system.write(volume, b"end", LARGE - 3)
    with driver.contents(volume, Claim()) as contents:
        assert contents.size_bytes == LARGE
        assert _together(contents) == b"begin" + bytes(LARGE - 8) + b"end"
    with pytest.raises(missing(driver)), driver.contents(new_volume(), Claim()):
        pass


def test_the_contents_of_a_snapshot_are_those_of_then(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("export", "snapshot")
    volume = made(driver, size=MIB)
    system.write(volume, b"then")
    snapshot = new_snapshot(volume, "s")
    driver.create_snapshot(snapshot, Claim())
    system.write(volume, b"now!")
    with driver.contents(snapshot, Claim()) as contents:
        assert _together(contents) == b"then" + bytes(MIB - 4)


def test_a_volume_is_made_of_contents_with_zeroes_around_them(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("import")
    volume, call = new_volume("loaded"), Claim()
    parts = [(0, b"begin"), (MIB, b"middle"), (2 * MIB, bytes(4096))]
    facts = driver.load(volume, 4 * MIB, {"a": "b"}, Contents(3 * MIB, iter(parts)), call)
    assert (facts.id, facts.name, facts.size_bytes) == (volume.id, "loaded", 4 * MIB)
    wanted = b"begin" + bytes(MIB - 5) + b"middle" + bytes(3 * MIB - 6)
    assert system.read(volume, 4 * MIB) == wanted
    done, total = call.reported[-1]
    assert done == total
    assert call.checkpoints >= len(parts)
    again = driver.load(volume, 4 * MIB, {"a": "b"}, Contents(3 * MIB, iter(parts)), call.again())
    assert again.size_bytes == 4 * MIB
    assert system.read(volume, 4 * MIB) == wanted


@pytest.mark.parametrize("size", [None, 2 * MIB])
def test_contents_that_do_not_fit_or_break_off_leave_no_volume(
    system: System, driver: AbleDriver, needs: Needs, size: int | None
) -> None:
    needs("import")

    def breaking_off() -> Iterator[tuple[int, bytes]]:
        yield 0, b"begin"
        raise ImageUnreachable

    volume, call = new_volume(), Claim()
    too_much = iter([(0, b"begin"), (MIB, b"too much")])
    with pytest.raises(InvalidSize):
        driver.load(volume, MIB, {}, Contents(size, too_much), call)
    with pytest.raises(ImageUnreachable):
        driver.load(volume, MIB, {}, Contents(None, breaking_off()), call.again())
    driver.discard(volume, call.again())
    assert_absent(driver, volume)
    assert system.leftovers() == []


def _together(contents: Contents) -> bytes:
    whole = bytearray(contents.size_bytes or 0)
    for offset, data in contents.parts:
        whole[offset : offset + len(data)] = data
    return bytes(whole)


# -- removing -----------------------------------------------------------------------------


@pytest.mark.parametrize("wipe", [False, True])
def test_remove_takes_this_volume_and_no_newer_one_of_its_name(
    system: System, driver: AbleDriver, needs: Needs, wipe: bool
) -> None:
    if wipe:
        needs("wipe")
    old = made(driver, "vm1")
    system.write(old, b"old")
    call = Claim()
    removed = driver.remove(old, call, wipe=wipe)
    assert removed == Removed(found=True, wiped_bytes=SIZE if wipe else 0)
    assert_absent(driver, old)
    driver.remove(old, call.again(), wipe=wipe)
    new = made(driver, "vm1")
    system.write(new, b"new")
    if wipe and "absence" not in driver.capabilities():
        # What cannot be seen cannot be wiped: that is not told as done.
        with pytest.raises(BackendError):
            driver.remove(old, Claim(), wipe=True)
    else:
        driver.remove(old, Claim(), wipe=wipe)
    driver.discard(old, Claim())
    assert_only(driver, new)
    assert system.read(new, 3) == b"new"


def test_discard_takes_away_what_has_this_id_published_or_not(
    driver: AbleDriver, needs: Needs
) -> None:
    call = Claim()
    volume, other = made(driver, "vm1", call=call), made(driver, "vm2")
    driver.discard(volume, call.again())
    driver.discard(volume, call.again())
    assert_only(driver, other)
    needs("snapshot")
    keep, drop = snapped(driver, other, "keep"), snapped(driver, other, "drop")
    driver.discard(drop, Claim())
    driver.discard(drop, Claim())
    assert [facts.id for facts in driver.list_snapshots(other)] == [keep.id]


# -- attempts that stop in the middle -------------------------------------------------------


def attempts(
    system: System, source: VolumeRef, snapshot: SnapshotRef
) -> dict[str, tuple[Any, ...]]:
    """The calls that make something, by method: what is made, and the other arguments."""
    return {
        "create": (new_volume("new"), LARGE, {}),
        "clone": (new_volume("new"), source, LARGE, {}),
        "create_snapshot": (new_snapshot(source, "new"),),
    }


@pytest.mark.parametrize("method", ["create", "clone", "create_snapshot"])
def test_a_canceled_call_publishes_nothing(
    system: System, driver: AbleDriver, needs: Needs, method: str
) -> None:
    needs("snapshot", "clone")
    source = made(driver, "source", LARGE)
    system.write(source, b"x" * LARGE)
    snapshot = snapped(driver, source)
    for at in range(1, MANY):
        arguments = attempts(system, source, snapshot)[method]
        try:
            getattr(driver, method)(*arguments, stopped(at))
        except LeaseLost:
            assert_named(driver, "source")
            assert [facts.id for facts in driver.list_snapshots(source)] == [snapshot.id]
            driver.discard(arguments[0], Claim())
            assert system.leftovers() == []
            continue
        assert at > 1, "a call that makes something has a checkpoint before it does"
        return
    raise AssertionError("more checkpoints than expected")


def test_every_change_can_be_stopped_before_it_is_made(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("grow", "metadata", "rename", "snapshot", "rollback")
    volume = made(driver, metadata={"k": "v"})
    system.write(volume, b"before")
    snapshot = snapped(driver, volume)
    system.write(volume, b"after!")
    before = present(driver, volume)
    changes: list[Callable[[Claim], object]] = [
        lambda call: driver.grow(volume, 2 * SIZE, call),
        lambda call: driver.set_metadata(volume, {}, call),
        lambda call: driver.rename(volume, "other", call),
        lambda call: driver.rollback(volume, snapshot, call),
        lambda call: driver.delete_snapshot(snapshot, call),
    ]
    wipes = "wipe" in driver.capabilities()
    if wipes:
        changes.append(lambda call: driver.wipe(volume, call))
    if "attach" in driver.capabilities():
        changes.append(lambda call: driver.attach(volume, call))
    for change in changes:
        with pytest.raises(LeaseLost):
            change(stopped(1))
        assert present(driver, volume) == before
        assert system.read(volume, 6) == b"after!"
        assert [facts.id for facts in driver.list_snapshots(volume)] == [snapshot.id]
        assert driver.devices(volume) == []
        assert system.leftovers() == []
    driver.delete_snapshot(snapshot, Claim())
    for wipe in {False, wipes}:
        with pytest.raises(LeaseLost):
            driver.remove(volume, stopped(1), wipe=wipe)
        assert present(driver, volume) == before


@pytest.mark.parametrize("method", ["create", "clone", "create_snapshot"])
@pytest.mark.parametrize("then", ["repeat", "discard"])
def test_what_a_dead_worker_left_is_taken_up_or_away(
    system: System, driver: AbleDriver, needs: Needs, method: str, then: str
) -> None:
    needs("snapshot", "clone")
    source = made(driver, "source", LARGE)
    system.write(source, b"x" * LARGE)
    snapshot = snapped(driver, source)
    arguments = attempts(system, source, snapshot)[method]
    target = arguments[0]
    probe = Claim()
    getattr(driver, method)(*attempts(system, source, snapshot)[method], probe)
    for facts in list(driver.list_volumes()):
        if facts.name == "new":
            driver.remove(VolumeRef(str(facts.id), "new"), Claim())
    for kept in driver.list_snapshots(source):
        if kept.name == "new":
            driver.delete_snapshot(SnapshotRef(str(kept.id), "new", source), Claim())
    claim = Claim()
    die_in_call(system, driver, method, arguments, claim, at=probe.checkpoints)
    assert_named(driver, "source")
    if then == "repeat":
        getattr(driver, method)(*arguments, claim.again())
        seen = driver.list_snapshots(source) if method == "create_snapshot" else ()
        ids = {facts.id for facts in (*driver.list_volumes(), *seen)}
        assert target.id in ids
    else:
        driver.discard(target, claim.again())
        assert_named(driver, "source")
        assert [facts.id for facts in driver.list_snapshots(source)] == [snapshot.id]
    assert system.leftovers() == []


def die_in_call(
    system: System,
    driver: AbleDriver,
    method: str,
    arguments: tuple[Any, ...],
    claim: Claim,
    at: int,
) -> None:
    call = {
        "method": method,
        "arguments": [
            asdict(one) if isinstance(one, VolumeRef | SnapshotRef) else one for one in arguments
        ],
        "job_id": claim.job_id,
        "fence": claim.fence,
    }
    worker = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.conformance.attempt",
            system.kind,
            driver.backend,
            INSTALLATION,
            system.written_options(),
            json.dumps(call),
            str(at),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == -signal.SIGKILL, worker.stderr


# -- late callers -------------------------------------------------------------------------

#: What a call that came too late may end with.
LATE = (Conflict, LeaseLost, BackendBusy)


def overtake(
    late: Callable[[Claim], object], timely: Callable[[Claim], object], job: int | None = None
) -> Callable[[int], tuple[Claim, int]]:
    """Holds ``late`` up at its n-th checkpoint while ``timely`` is done by a later claim."""

    def run(at: int) -> tuple[Claim, int]:
        job_id = Claim().job_id if job is None else job
        refused: list[BackendBusy] = []
        done: list[Claim] = []

        def successor() -> None:
            claim = Claim(job_id=job_id)
            try:
                timely(claim)
                done.append(claim)
            except BackendBusy as error:
                # The late call is inside the backend's own lock: tried again later.
                refused.append(error)

        first = overtaken(at, successor, job_id=job_id)
        with suppress(*LATE):
            late(first)
        if refused:
            timely(Claim(job_id=job_id))
        return first, len(done)

    return run


@pytest.mark.parametrize("method", ["create", "clone", "create_snapshot"])
def test_a_late_maker_disturbs_neither_its_successor_nor_what_came_after(
    system: System, driver: AbleDriver, needs: Needs, method: str
) -> None:
    needs("snapshot", "clone", "metadata")
    source = made(driver, "source", LARGE)
    system.write(source, b"x" * LARGE)
    for at in range(1, MANY):
        arguments = attempts(system, source, new_snapshot(source))[method]
        target = arguments[0]

        def make(call: Claim, arguments: tuple[Any, ...] = arguments) -> None:
            getattr(driver, method)(*arguments, call)

        def make_and_use(call: Claim, target: Any = target, make: Any = make) -> None:
            make(call)
            if isinstance(target, VolumeRef):
                driver.set_metadata(target, {"later": "job"}, Claim())
                system.write(target, b"written later")

        first, _ = overtake(make, make_and_use)(at)
        if isinstance(target, VolumeRef):
            if first.checkpoints >= at:
                assert_metadata(driver, present(driver, target), {"later": "job"})
                assert system.read(target, 13) == b"written later"
            assert_named(driver, "new", "source")
            driver.remove(target, Claim())
        else:
            assert [facts.id for facts in driver.list_snapshots(source)] == [target.id]
            driver.delete_snapshot(target, Claim())
        assert system.leftovers() == []
        if first.checkpoints < at:
            return
    raise AssertionError("more checkpoints than expected")


@pytest.mark.parametrize("method", ["create", "clone"])
def test_a_late_maker_does_not_bring_back_what_was_discarded(
    system: System, driver: AbleDriver, needs: Needs, method: str
) -> None:
    needs("snapshot", "clone")
    source = made(driver, "source", LARGE)
    for at in range(1, MANY):
        arguments = attempts(system, source, new_snapshot(source))[method]
        target = arguments[0]

        def make(call: Claim, arguments: tuple[Any, ...] = arguments) -> None:
            getattr(driver, method)(*arguments, call)

        def discard(call: Claim, target: VolumeRef = target) -> None:
            driver.discard(target, call)

        first, _ = overtake(make, discard)(at)
        if first.checkpoints < at:
            return
        assert_named(driver, "source")
        assert system.leftovers() == []
    raise AssertionError("more checkpoints than expected")


def test_a_late_rollback_leaves_what_was_written_after_its_successor(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("snapshot", "rollback")
    volume = made(driver, size=LARGE)
    system.write(volume, b"x" * LARGE)
    snapshot = snapped(driver, volume)
    for at in range(1, MANY):

        def roll_back(call: Claim) -> None:
            driver.rollback(volume, snapshot, call)

        def roll_back_and_write(call: Claim) -> None:
            driver.rollback(volume, snapshot, call)
            system.write(volume, b"written later")

        first, _ = overtake(roll_back, roll_back_and_write)(at)
        assert present(driver, volume).restored_by == first.token
        assert system.leftovers() == []
        if first.checkpoints < at:
            return
        assert system.read(volume, 13) == b"written later"
    raise AssertionError("more checkpoints than expected")


def test_a_late_wipe_leaves_what_was_written_after_its_successor(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("wipe")
    volume = made(driver, size=LARGE)
    for at in range(1, MANY):
        system.write(volume, b"x" * LARGE)

        def wipe_and_write(call: Claim) -> None:
            driver.wipe(volume, call)
            system.write(volume, b"written later", LARGE - 13)

        first, _ = overtake(lambda call: driver.wipe(volume, call), wipe_and_write)(at)
        if first.checkpoints < at:
            return
        assert system.read(volume, 13, LARGE - 13) == b"written later"
    raise AssertionError("more checkpoints than expected")


def test_late_changes_do_not_undo_later_ones(driver: AbleDriver, needs: Needs) -> None:
    needs("grow", "metadata", "rename")
    volume = made(driver)
    early = [Claim() for _ in range(4)]
    driver.grow(volume, 4 * SIZE, Claim())
    driver.set_metadata(volume, {"later": "job"}, Claim())
    for call, late in zip(
        early,
        (
            lambda call: driver.grow(volume, 2 * SIZE, call),
            lambda call: driver.set_metadata(volume, {"earlier": "job"}, call),
            lambda call: driver.rename(volume, "earlier", call),
            lambda call: driver.remove(volume, call),
        ),
        strict=True,
    ):
        with suppress(Conflict):
            late(call)
    facts = present(driver, volume)
    assert (facts.size_bytes, facts.name) == (4 * SIZE, "vm1")
    assert_metadata(driver, facts, {"later": "job"})


def test_who_was_fenced_off_changes_nothing(driver: AbleDriver, needs: Needs) -> None:
    needs("grow", "metadata", "rename", "snapshot")
    volume = made(driver)
    kept = new_snapshot(volume)
    driver.create_snapshot(kept, Claim())
    late = Claim()
    before = present(driver, volume)
    for changed in (volume, kept):
        driver.fence_off(changed, Claim())
        driver.fence_off(changed, Claim())
    for change in (
        lambda: driver.grow(volume, 4 * SIZE, late),
        lambda: driver.set_metadata(volume, {"earlier": "job"}, late),
        lambda: driver.rename(volume, "earlier", late),
        lambda: driver.rollback(volume, kept, late),
        lambda: driver.delete_snapshot(kept, late),
        lambda: driver.remove(volume, late),
    ):
        with pytest.raises(Conflict):
            change()
    assert present(driver, volume) == before
    assert [found.id for found in driver.list_snapshots(volume)] == [kept.id]


def test_fencing_off_what_is_not_there_is_no_error(driver: AbleDriver, needs: Needs) -> None:
    needs("snapshot")
    gone = made(driver)
    driver.remove(gone, Claim())
    for changed in (gone, new_snapshot(gone), new_snapshot(made(driver, "other"))):
        driver.fence_off(changed, Claim())
    assert_named(driver, "other")


def test_a_late_grow_never_shrinks(driver: AbleDriver, needs: Needs) -> None:
    needs("grow")
    volume = made(driver)
    for at in range(1, MANY):
        larger = (at + 1) * 2 * SIZE
        first, _ = overtake(
            lambda call, size=larger - MIB: driver.grow(volume, size, call),  # type: ignore[misc]
            lambda call, size=larger: driver.grow(volume, size, call),  # type: ignore[misc]
        )(at)
        if first.checkpoints < at:
            return
        assert present(driver, volume).size_bytes == larger
    raise AssertionError("more checkpoints than expected")


def test_a_late_remove_spares_a_newer_volume_of_the_name(
    system: System, driver: AbleDriver
) -> None:
    for at in range(1, MANY):
        old = made(driver, "vm1")
        new = new_volume("vm1")

        def remove_and_make(call: Claim, old: VolumeRef = old, new: VolumeRef = new) -> None:
            driver.remove(old, call)
            driver.create(new, SIZE, {}, Claim())
            system.write(new, b"new")

        def remove(call: Claim, old: VolumeRef = old) -> None:
            driver.remove(old, call)

        first, _ = overtake(remove, remove_and_make)(at)
        if first.checkpoints < at:
            return
        assert_only(driver, new)
        assert system.read(new, 3) == b"new"
        driver.remove(new, Claim())
    raise AssertionError("more checkpoints than expected")


# -- using --------------------------------------------------------------------------------


def test_attach_tells_the_device_it_has_and_detach_takes_it_away(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("attach")
    volume = made(driver)
    assert driver.devices(volume) == []
    device = driver.attach(volume, Claim())
    assert device.path is not None or device.uris
    assert not device.read_only
    assert driver.attach(volume, Claim()) == device
    assert driver.devices(volume) == [device]
    driver.detach(volume, Claim())
    assert driver.devices(volume) == []
    driver.detach(volume, Claim())
    driver.detach(new_volume("nobody"), Claim())


def test_a_volume_is_attached_for_reading_only_or_for_writing(
    driver: AbleDriver, needs: Needs
) -> None:
    needs("attach", "attach_read_only")
    volume = made(driver)
    driver.attach(volume, Claim())
    with pytest.raises(Conflict):
        driver.attach(volume, Claim(), read_only=True)
    driver.detach(volume, Claim())
    watched = driver.attach(volume, Claim(), read_only=True)
    assert watched.read_only
    assert driver.devices(volume) == [watched]
    with pytest.raises(Conflict):
        driver.attach(volume, Claim())
    driver.detach(volume, Claim())


def test_an_attached_volume_is_neither_removed_nor_wiped_nor_rolled_back(
    system: System, driver: AbleDriver, needs: Needs
) -> None:
    needs("attach", "wipe")
    volume = made(driver)
    system.write(volume, b"data")
    snapshot = snapped(driver, volume) if "snapshot" in driver.capabilities() else None
    driver.attach(volume, Claim())
    with pytest.raises(InUse):
        driver.wipe(volume, Claim())
    if snapshot is not None:
        with pytest.raises(InUse):
            driver.rollback(volume, snapshot, Claim())
        driver.delete_snapshot(snapshot, Claim())
    for removal in (
        lambda: driver.remove(volume, Claim()),
        lambda: driver.remove(volume, Claim(), wipe=True),
        lambda: driver.discard(volume, Claim()),
    ):
        with pytest.raises(InUse):
            removal()
    assert system.read(volume, 4) == b"data"
    assert system.leftovers() == []
    driver.detach(volume, Claim())
    driver.remove(volume, Claim())


def test_an_attached_volume_can_grow(driver: AbleDriver, needs: Needs) -> None:
    needs("attach", "grow")
    volume = made(driver)
    device = driver.attach(volume, Claim())
    assert driver.grow(volume, 3 * SIZE, Claim()).size_bytes == 3 * SIZE
    assert driver.attach(volume, Claim()) == device
    driver.detach(volume, Claim())


def test_a_late_attach_does_not_bring_a_device_back(driver: AbleDriver, needs: Needs) -> None:
    needs("attach")
    volume, late = made(driver), Claim()
    driver.attach(volume, Claim())
    driver.detach(volume, Claim())
    with pytest.raises(Conflict):
        driver.attach(volume, late)
    assert driver.devices(volume) == []
