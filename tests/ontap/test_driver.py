"""What is special about volumes on a filer: listings, settings, states, foreign objects."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendError,
    Conflict,
    IdentityMismatch,
    InvalidInput,
    NewerSnapshots,
    NoSpace,
    Unsupported,
)
from tests.conformance.calls import Claim, new_snapshot, new_volume
from tests.ontap.conftest import driver_on, leftovers
from tests.ontap.double import Double, Fault
from workers.backends.base.facts import Absent, VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.ontap.driver import OntapDriver
from workers.backends.ontap.stamps import read_stamp

MIB = 2**20
SIZE = 20 * MIB


def made(driver: OntapDriver, name: str = "vm1", **wanted: Any) -> VolumeRef:
    volume = VolumeRef(new_volume().id, name, settings=wanted)
    driver.create(volume, SIZE, {}, Claim())
    return volume


def present(driver: OntapDriver, volume: VolumeRef) -> VolumeFacts:
    return there(driver.inspect(volume), volume)


# -- listing ------------------------------------------------------------------------------


def test_a_thousand_volumes_are_a_handful_of_requests(double: Double, driver: OntapDriver) -> None:
    for number in range(1000):
        double.filer.plant(f"v{number}", path=f"/v{number}")
    double.forget()
    listing = driver.list_volumes()
    next(listing)
    # Page by page, and where the SVM serves NFS.
    assert len(double.requests) == 2
    assert sum(1 for _ in listing) == 999
    assert len(double.requests) <= 4
    double.forget()
    assert len(list(driver.list_volumes())) == 1000
    assert len(double.requests) == 3
    assert {one.query["max_records"] for one in double.requests} == {"500"}


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (lambda driver, volume: driver.inspect(volume), 1),
        (lambda driver, volume: driver.create(new_volume("new"), SIZE, {}, Claim()), 11),
        (lambda driver, volume: driver.grow(volume, 2 * SIZE, Claim()), 4),
        (lambda driver, volume: driver.rename(volume, "new", Claim()), 4),
        (lambda driver, volume: driver.list_snapshots(volume), 2),
        (lambda driver, volume: driver.create_snapshot(new_snapshot(volume), Claim()), 5),
        (lambda driver, volume: driver.remove(volume, Claim()), 5),
        (lambda driver, volume: driver.read_identity(), 1),
    ],
)
def test_calls_take_few_requests(double: Double, driver: OntapDriver, call: Any, most: int) -> None:
    driver.write_identity("x")
    volume = made(driver)
    double.forget()
    call(driver, volume)
    assert len(double.requests) <= most, [(one.method, one.path) for one in double.requests]


def test_what_is_the_filers_own_or_closed_by_others_is_hidden(
    double: Double, driver: OntapDriver
) -> None:
    double.filer.plant("theirs")
    double.filer.plant("closed", state="offline")
    double.filer.plant("elsewhere", svm="other_svm")
    ours = made(driver, "ours")
    driver.restrict(ours, Claim())
    assert sorted(one.name for one in driver.list_volumes()) == ["ours", "theirs"]


def test_a_foreign_name_that_we_would_write_otherwise_is_not_taken_for_another(
    double: Double, driver: OntapDriver
) -> None:
    double.filer.plant("a__41")
    made(driver, "aA")
    assert sorted(one.name for one in driver.list_volumes()) == ["=a__41", "aA"]


def test_two_volumes_that_bear_one_id_are_a_conflict(double: Double, driver: OntapDriver) -> None:
    volume = made(driver)
    double.filer.plant("copied", comment=double.filer.named("vm1")["comment"])
    for ask in (
        lambda: driver.inspect(volume),
        lambda: driver.remove(volume, Claim()),
        lambda: driver.discard(volume, Claim()),
    ):
        with pytest.raises(Conflict, match="several volumes"):
            ask()


def test_a_stamp_that_was_taken_off_makes_it_foreign(double: Double, driver: OntapDriver) -> None:
    volume = made(driver)
    double.filer.named("vm1")["comment"] = "mine now"
    assert driver.inspect(volume) == Absent()
    driver.remove(volume, Claim())
    driver.discard(volume, Claim())
    assert [(one.id, one.name) for one in driver.list_volumes()] == [(None, "vm1")]
    with pytest.raises(AlreadyExists):
        made(driver)


def test_what_stands_where_a_volume_is_built_is_not_touched(
    double: Double, driver: OntapDriver
) -> None:
    volume = new_volume("vm1")
    double.filer.plant(f"orchestrator_new_{volume.id}")
    with pytest.raises(Conflict, match="stands where"):
        driver.create(volume, SIZE, {}, Claim())
    driver.discard(volume, Claim())
    assert leftovers(double) == [f"orchestrator_new_{volume.id}"]


# -- making -------------------------------------------------------------------------------


def test_sizes_are_at_least_what_the_filer_makes(driver: OntapDriver) -> None:
    assert driver.create(new_volume("small"), MIB, {}, Claim()).size_bytes == SIZE
    assert driver.create(new_volume("odd"), SIZE + 1, {}, Claim()).size_bytes == SIZE + 4096


def test_a_volume_goes_where_there_is_the_most_room(double: Double, driver: OntapDriver) -> None:
    def aggregate(of: VolumeRef) -> str:
        return str(present(driver, of).settings["aggregate"])

    assert aggregate(made(driver, "a")) == "aggr2"
    double.filer.aggregates[1]["space"]["block_storage"]["available"] = 2**41 + 2**30
    assert aggregate(made(driver, "b")) == "aggr1"
    assert aggregate(made(driver, "c", aggregate="aggr2")) == "aggr2"
    bound = driver_on(double, aggregates=("aggr2",))
    assert aggregate(made(bound, "d")) == "aggr2"
    for wrong in ("aggr0_node1", "aggr1", "aggr_of_others", "none"):
        with pytest.raises(InvalidInput, match="aggregate"):
            made(bound, "e", aggregate=wrong)
    assert bound.capacity().free_bytes == 2**41 + 2 * MIB
    assert driver.capacity().total_bytes == 2 * 2**42
    with pytest.raises(NoSpace):
        made(driver_on(double, aggregates=("none",)), "e")


def test_no_room_ends_the_job_and_leaves_nothing(double: Double, driver: OntapDriver) -> None:
    double.filer.jobs.failing = {1: (917828, "There is not enough space in the aggregate.")}
    volume = new_volume()
    with pytest.raises(NoSpace) as full:
        driver.create(volume, SIZE, {}, Claim())
    assert not full.value.retryable
    driver.discard(volume, Claim())
    assert leftovers(double) == []


def test_a_name_taken_at_the_last_moment_is_not_overwritten(
    double: Double, driver: OntapDriver
) -> None:
    def take(request: Any) -> None:
        double.filer.plant("vm1")

    volume = new_volume("vm1")
    double.faults = [Fault("call before", method="PATCH", hook=take)]
    with pytest.raises(Exception, match="did not answer"):
        driver.create(volume, SIZE, {}, Claim())
    with pytest.raises(AlreadyExists):
        driver.create(volume, SIZE, {}, Claim())
    driver.discard(volume, Claim())
    assert [(one.id, one.name) for one in driver.list_volumes()] == [(None, "vm1")]
    assert leftovers(double) == []


def test_a_split_tells_how_far_it_is(double: Double) -> None:
    driver = driver_on(double, patience=0.05)
    source, clone = made(driver, "source"), new_volume("clone")
    double.filer.jobs.split_seconds = 1000.0
    call = Claim()
    for _ in range(2):
        with pytest.raises(Exception, match=r"still at it|copying the blocks"):
            driver.clone(clone, source, SIZE, {}, call)
    assert call.reported
    assert driver.inspect(clone) == Absent()
    driver.discard(clone, Claim())
    assert leftovers(double) == []
    driver.remove(source, Claim())


def test_a_clone_stays_on_the_aggregate_of_its_source(driver: OntapDriver) -> None:
    source = made(driver, "source", aggregate="aggr1")
    elsewhere = VolumeRef(new_volume().id, "clone", settings={"aggregate": "aggr2"})
    with pytest.raises(InvalidInput, match="aggregate of its source, aggr1"):
        driver.clone(elsewhere, source, SIZE, {}, Claim())


# -- settings and states --------------------------------------------------------------------

WANTED: dict[str, Any] = {
    "autosize_enabled": True,
    "autosize_max_bytes": 100 * MIB,
    "snapshot_reserve_percent": 11,
    "compression": True,
    "inline_compression": False,
    "junction_path": "/a/b",
}


def test_settings_are_told_back_from_the_beginning_on(driver: OntapDriver) -> None:
    volume = made(driver, **WANTED)
    facts = present(driver, volume)
    assert {key: facts.settings[key] for key in WANTED} == WANTED
    assert facts.address == "192.0.2.10"
    assert facts.snapshot_reserve_used_percent == 0
    copy = VolumeRef(new_volume().id, "copy", settings={**WANTED, "junction_path": "/c"})
    clone = driver.clone(copy, volume, SIZE, {}, Claim())
    assert {key: clone.settings[key] for key in WANTED} == {**WANTED, "junction_path": "/c"}


def test_only_what_is_asked_is_configured(double: Double, driver: OntapDriver) -> None:
    volume = made(driver)
    plain = dict(present(driver, volume).settings)
    assert present(driver, volume).address is None
    for key, value in [*WANTED.items(), ("inline_compression", True), ("compression", False)]:
        plain[key] = value
        assert driver.configure(volume, {key: value}, Claim()).settings == plain
    del plain["junction_path"]
    assert driver.configure(volume, {"junction_path": ""}, Claim()).settings == plain
    for unsupported in ({"aggregate": "aggr1"}, {"caching_policy": "none"}):
        with pytest.raises(Unsupported):
            driver.configure(volume, unsupported, Claim())
    with pytest.raises(InvalidInput):
        driver.configure(volume, {"junction_path": "a/"}, Claim())
    assert present(driver_on(double, filer_address="nas.example.com"), volume).address is None
    driver.configure(volume, {"junction_path": "/x"}, Claim())
    assert present(driver_on(double, filer_address="nas.example.com"), volume).address == (
        "nas.example.com"
    )


def test_a_restricted_volume_comes_back_where_it_was(double: Double, driver: OntapDriver) -> None:
    volume = made(driver, junction_path="/some where")
    double.filer.write(double.filer.bearing(volume.id), b"kept")
    for _ in range(2):
        driver.restrict(volume, Claim())
    record = double.filer.bearing(volume.id)
    assert (record["state"], "path" in record["nas"]) == ("restricted", False)
    assert present(driver, volume).id == volume.id
    for _ in range(2):
        driver.unrestrict(volume, Claim())
    assert present(driver, volume).settings["junction_path"] == "/some where"
    assert record["_contents"] == b"kept"
    assert "path=" not in record["comment"]


def test_locks_of_clients_are_told(double: Double, driver: OntapDriver) -> None:
    volume, other = made(driver), made(driver, "other")
    for number, (one, host) in enumerate(
        [(volume, "10.0.0.7"), (volume, "10.0.0.7"), (volume, "10.0.0.8"), (other, "10.0.0.9")]
    ):
        record = double.filer.bearing(one.id)
        double.filer.locks.append(
            {
                "uuid": str(number),
                "client_address": host,
                "type": "byte_range",
                "path": "/x",
                "svm": {"name": "svm1"},
                "volume": {"uuid": record["uuid"]},
            }
        )
    locks = driver.client_locks(volume)
    assert [(one.host, one.kind, one.path) for one in locks] == [
        ("10.0.0.7", "byte_range", "/x"),
        ("10.0.0.8", "byte_range", "/x"),
    ]


# -- snapshots ------------------------------------------------------------------------------


def test_a_rollback_does_not_lose_what_others_have_taken(
    double: Double, driver: OntapDriver
) -> None:
    volume = made(driver)
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    record = double.filer.bearing(volume.id)
    double.filer._new_snapshot(record, "hourly.2026-11-21_2305", "")
    theirs = double.filer._new_snapshot(record, "before-upgrade", "by hand")
    theirs["create_time"] = "2999-01-01T00:00:00+00:00"
    with pytest.raises(NewerSnapshots, match="before-upgrade"):
        driver.rollback(volume, snapshot, Claim())
    assert len(record["_snapshots"]) == 3
    with pytest.raises(Conflict, match="before-upgrade"):
        driver.remove(volume, Claim())
    record["_snapshots"].remove(theirs)
    assert driver.rollback(volume, snapshot, Claim()).id == volume.id
    driver.delete_snapshot(snapshot, Claim())
    driver.remove(volume, Claim())


def test_a_rollback_that_nobody_lived_to_write_down_is_told(
    double: Double, driver: OntapDriver
) -> None:
    volume = made(driver)
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    call = Claim()
    double.faults = [
        Fault("drop after", method="PATCH", path="volumes"),
    ]
    with pytest.raises(Exception, match="did not answer"):
        driver.rollback(volume, snapshot, call)
    assert present(driver, volume).restored_by is None
    changes = itertools.count(1)

    def second(fault: Any) -> None:
        next(changes)

    double.faults = [Fault("call after", method="PATCH", path="volumes", hook=second)]
    with pytest.raises(Exception, match="did not answer"):
        driver.rollback(volume, snapshot, call.again())
    assert "restored_by" not in double.filer.bearing(volume.id)["comment"]
    assert present(driver, volume).restored_by == call.token


def _asked_to_roll_back(
    double: Double, driver: OntapDriver, *faults: Fault
) -> tuple[VolumeRef, SnapshotRef, Claim]:
    """A volume with "before" in a snapshot, "after!" in it, and a rollback that broke off."""
    volume = made(driver)
    record = double.filer.bearing(volume.id)
    double.filer.write(record, b"before")
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    double.filer.write(record, b"after!")
    call = Claim()
    double.forget()
    double.faults = list(faults)
    with pytest.raises(Exception, match="did not answer"):
        driver.rollback(volume, snapshot, call)
    return volume, snapshot, call


def _delete_by_hand(double: Double, volume: VolumeRef) -> None:
    kept = double.filer.bearing(volume.id)["_snapshots"]
    kept[:] = [one for one in kept if not one["name"].startswith("orchestrator_rollback_")]


def test_a_proof_that_somebody_deleted_proves_nothing(double: Double, driver: OntapDriver) -> None:
    asked = _requests_until_restore(double)
    volume, snapshot, call = _asked_to_roll_back(double, driver, Fault("drop before", number=asked))
    record = double.filer.bearing(volume.id)
    _delete_by_hand(double, volume)
    assert present(driver, volume).restored_by is None
    for _ in range(2):
        with pytest.raises(BackendError, match="cannot be known"):
            driver.rollback(volume, snapshot, call.again())
    assert record["_contents"] == b"after!"
    assert [one.id for one in driver.list_snapshots(volume)] == [snapshot.id]
    # Whoever has looked says so with a job of its own.
    driver.rollback(volume, snapshot, Claim())
    assert record["_contents"] == b"before"


def _requests_until_restore(double: Double) -> int:
    """The number of the request that rolls back, found on another volume."""
    driver = driver_on(double)
    volume = made(driver, "other")
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    double.forget()
    driver.rollback(volume, snapshot, Claim())
    return next(
        number
        for number, one in enumerate(double.requests, 1)
        if "restore_to.snapshot.uuid" in one.query
    )


@pytest.mark.parametrize("written", [True, False])
def test_a_rollback_whose_answer_was_lost_is_never_done_over_what_came_later(
    double: Double, driver: OntapDriver, written: bool
) -> None:
    asked = _requests_until_restore(double)
    volume, snapshot, call = _asked_to_roll_back(double, driver, Fault("drop after", number=asked))
    record = double.filer.bearing(volume.id)
    if written:
        double.filer.write(record, b"newest")
        with pytest.raises(BackendError, match="cannot be known"):
            driver.rollback(volume, snapshot, call.again())
        assert present(driver, volume).restored_by is None
        assert record["_contents"] == b"newest"
    else:
        # It holds just what the snapshot does.
        assert present(driver, volume).restored_by == call.token
        driver.rollback(volume, snapshot, call.again())
        assert record["_contents"] == b"before"


def test_what_a_rollback_that_did_not_happen_had_prepared_is_taken_back(
    double: Double, driver: OntapDriver
) -> None:
    asked = _requests_until_restore(double)
    volume, snapshot, call = _asked_to_roll_back(double, driver, Fault("drop before", number=asked))
    record = double.filer.bearing(volume.id)
    driver.withdraw(volume, Claim())
    assert "restoring=" in record["comment"], "it is another job's"
    driver.withdraw(volume, call.again())
    assert "restoring" not in record["comment"]
    assert [one["name"] for one in record["_snapshots"]] == [snapshot.name]
    assert record["_contents"] == b"after!"


def test_the_filers_own_job_tells_that_it_was_done(double: Double, driver: OntapDriver) -> None:
    _requests_until_restore(double)
    last = max(number for number, one in enumerate(double.requests, 1) if one.method == "PATCH")
    volume, snapshot, call = _asked_to_roll_back(double, driver, Fault("drop before", number=last))
    record = double.filer.bearing(volume.id)
    assert "restoring_by=" in record["comment"]
    double.filer.write(record, b"newest")
    assert present(driver, volume).restored_by == call.token
    driver.rollback(volume, snapshot, call.again())
    assert record["_contents"] == b"newest"
    # The filer forgets its jobs, and then it is not known any more.
    double.forget()
    double.faults = [Fault("drop before", number=last)]
    other = Claim()
    with pytest.raises(Exception, match="did not answer"):
        driver.rollback(volume, snapshot, other)
    double.filer.write(record, b"newest")
    double.filer.jobs._jobs.clear()
    assert present(driver, volume).restored_by == call.token
    with pytest.raises(BackendError, match="cannot be known"):
        driver.rollback(volume, snapshot, other.again())
    assert record["_contents"] == b"newest"


def test_snapshots_have_places_that_stay(double: Double, driver: OntapDriver) -> None:
    volume = made(driver)
    record = double.filer.bearing(volume.id)
    for name, taken in (
        ("second", "2026-11-01T10:00:00+01:00"),
        ("third", "2026-11-01T10:00:00+01:00"),
        ("first", "2026-11-01T08:59:59+0000"),
        ("fourth", "2026-11-01T09:00:01.000+0000"),
    ):
        double.filer._new_snapshot(record, name, "")["create_time"] = taken
    found = driver.list_snapshots(volume)
    assert [one.name for one in found] == ["first", "second", "third", "fourth"]
    places = {one.name: one.order for one in found}
    assert sorted(places.values()) == list(dict.fromkeys(places.values()))
    record["_snapshots"].pop()
    record["_snapshots"].pop()
    assert {one.name: one.order for one in driver.list_snapshots(volume)} == {
        name: places[name] for name in ("second", "third")
    }


# -- the marker -----------------------------------------------------------------------------


def test_there_is_one_marker(double: Double, driver: OntapDriver) -> None:
    driver.write_identity("one")
    policies = double.filer.policies
    policies.create({"name": "orchestrator_marker_two", "svm": {"name": "svm1"}})
    with pytest.raises(IdentityMismatch, match="several identities"):
        driver.read_identity()
    driver.write_identity("three", replace=True)
    assert driver.read_identity() == "three"
    assert [one.name for one in driver.list_policies()] == ["default"]


def test_what_is_adopted_keeps_its_comment_and_its_snapshots(
    double: Double, driver: OntapDriver
) -> None:
    record = double.filer.plant("old", comment="Ask the Däne first.", path="/old")
    for name in ("before_upgrade", "hourly.2026-11-21_1005"):
        double.filer._new_snapshot(record, name, "")
    volume = new_volume("old")
    facts = driver.adopt(volume, Claim())
    assert (facts.id, facts.settings["junction_path"]) == (volume.id, "/old")
    stamp = read_stamp(record["comment"])
    assert stamp is not None and stamp.was == "Ask the Däne first."
    [kept] = [found for found in driver.list_snapshots(volume) if found.id is not None]
    assert kept.name == "before_upgrade"
    driver.rollback(volume, SnapshotRef(kept.id or "", kept.name, volume), Claim())
