"""What a failed job has left and nobody could see: no person is needed until it is known."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from orchestrator.domain.errors import InUse
from orchestrator.jobs.archive import archive
from orchestrator.jobs.intake import set_accepting
from orchestrator.resources.policy.views import list_policies
from orchestrator.settings import Settings
from orchestrator.store import migrate
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, events, jobs, snapshots, volumes
from tests.conformance.systems import release_loops
from tests.engine.conftest import Engine, Worker, act, create, grow
from tests.engine.disks import Disk
from tests.engine.test_audits import Audited
from tests.engine.test_execution import _Call, _claim, _driver, _faults, _intend
from workers.backends.base.references import VolumeRef
from workers.scheduler import Scheduler

pytestmark = pytest.mark.either_database

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and attributes need root")
HERE = {"host": "here"}


class Settled(Audited):
    """An engine, and a scheduler that has it look again."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.scheduler = Scheduler(engine.settings)
        self.beat()

    def look_again(self) -> list[Any]:
        """Let the time of every look come; the jobs that looked."""
        with self.engine.database.write() as connection:
            known = connection.execute(text("SELECT coalesce(max(id), 0) FROM jobs")).scalar_one()
            connection.execute(
                update(volumes)
                .where(volumes.c.look_again_at.is_not(None))
                .values(look_again_at=db_now(-1.0))
            )
        self.beat()
        self.scheduler._look_again()
        self.work()
        with self.engine.database.read() as connection:
            ids = connection.execute(select(jobs.c.id).where(jobs.c.id > known)).scalars()
            looked = [self.engine.job(job_id) for job_id in ids]
        assert {(job["action"], job["submitted_by"]) for job in looked} <= {
            ("volume.verify", "orchestrator"),
            ("policy.verify", "orchestrator"),
        }
        return looked

    def ended(self, request: dict[str, Any]) -> Any:
        [job_id] = self.engine.submit(request).job_ids
        self.work()
        return self.engine.job(job_id)

    def states(self) -> dict[str, str]:
        """The states of the snapshots that there are, by name."""
        with self.engine.database.read() as connection:
            query = select(snapshots.c.name, snapshots.c.state)
            return dict(connection.execute(query.where(snapshots.c.state != "removed")).all())

    def row(self, name: str) -> Any:
        with self.engine.database.read() as connection:
            return connection.execute(
                select(volumes).where(volumes.c.name == name, volumes.c.state != "removed")
            ).first()


@pytest.fixture
def disk(settings: Settings, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, settings.data / "volumes")
    yield made
    made.close()


@pytest.fixture
def settled(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Settled]:
    if "disk" in request.fixturenames:
        request.getfixturevalue("disk")
    engine = Engine(settings, Database(settings.database_url))
    made = Settled(engine)
    yield made
    made.scheduler.close()
    engine.close()
    release_loops(settings.data / "volumes")


# -- what touched nothing -----------------------------------------------------------------


@needs_root
@pytest.mark.parametrize(
    "request_",
    [
        grow("a", "2M", "fast"),
        act("volume.update", "a", "fast", params={"metadata": {"k": "v"}}),
        act("volume.rename", "a", "fast", params={"new_name": "b"}),
        act("volume.wipe", "a", "fast"),
        act("volume.remove", "a", "fast"),
        act("volume.remove", "a", "fast", params={"wipe": True}),
        act("volume.attach", "a", "fast", **HERE),
    ],
    ids=lambda request: request["action"],
)
def test_an_immutable_image_stays_as_it_was(settled: Settled, request_: dict[str, Any]) -> None:
    settled.do(create("a", "1M", "fast"))
    image = settled.image("a")
    attributes = subprocess.run(["chattr", "+i", str(image)], check=False)
    if attributes.returncode != 0:
        pytest.skip("this file system has no immutable files")
    try:
        job = settled.ended(request_)
    finally:
        subprocess.run(["chattr", "-i", str(image)], check=True)
    if job["state"] == "failed":
        assert "not permitted" in job["error"]["detail"]
    else:  # to attach writes nothing that this kernel minds
        settled.do(act("volume.detach", "a", "fast", **HERE))
    volume = settled.engine.volumes("fast")["a"]
    assert (volume["state"], volume["size_bytes"], volume["metadata"]) == ("available", 2**20, {})
    settled.do(request_)


def test_a_first_claim_has_nobody_to_shut_out(settled: Settled) -> None:
    settled.do(create("a"))
    faults = _faults(settled.engine)
    faults.set(operation="grow", kind="fail", times=1)
    faults.set(operation="fence_off", kind="fail", code="access_denied", times=1)
    assert settled.ended(grow("a", "2M"))["state"] == "failed"
    assert settled.engine.volumes()["a"]["state"] == "available"


def test_a_later_claim_has(settled: Settled) -> None:
    settled.do(create("a"))
    faults = _faults(settled.engine)
    faults.set(operation="grow", kind="unavailable", times=1)
    faults.set(operation="grow", kind="fail", times=1)
    faults.set(operation="fence_off", kind="fail", code="access_denied", times=1)
    settled.ended(grow("a", "2M"))
    settled.engine.time_passes()
    settled.work()
    assert settled.row("a").state == "error"
    assert settled.row("a").look_again_at is not None
    settled.look_again()
    assert settled.row("a").state == "available"


# -- what is looked at again --------------------------------------------------------------


@needs_root
def test_a_read_only_moment_leaves_nothing_to_a_person(settled: Settled, disk: Disk) -> None:
    names = ("grown", "used", "freed")
    settled.do(*(create(name, "1M", "fast") for name in names))
    # A file system under a device that can be written to cannot be made read-only by hand.
    settled.do(act("volume.attach", "freed", "fast", params={"read_only": True}, **HERE))
    try:
        disk.remount("ro")
        jobs_ = [
            settled.ended(request)
            for request in (
                grow("grown", "2M", "fast"),
                act("volume.attach", "used", "fast", **HERE),
                act("volume.detach", "freed", "fast", **HERE),
                create("new", "1M", "fast"),
            )
        ]
        assert {job["state"] for job in jobs_} <= {"failed", "succeeded"}
        assert jobs_[0]["state"] == jobs_[3]["state"] == "failed"
        disk.remount("rw")
        settled.engine.worker.serving.look_at_unusable()
        for _ in range(3):
            settled.look_again()
        found = settled.engine.volumes("fast")
        assert {name: one["state"] for name, one in found.items()} == dict.fromkeys(
            names, "available"
        )
        assert found["grown"]["size_bytes"] == 2**20
        assert settled.audit("fast")["findings"] == {}
        # The name of what failed is free.
        settled.do(create("new", "1M", "fast"))
    finally:
        for name in ("used", "freed"):
            settled.ended(act("volume.detach", name, "fast", **HERE))


def lost_sight(settled: Settled, request: dict[str, Any], operation: str, fault: str) -> None:
    """Let a change fail for good, with or without its effect, and not be seen after it."""
    faults = _faults(settled.engine)
    faults.set(operation=operation, kind=fault, times=1)  # type: ignore[arg-type]
    faults.set(operation="inspect", kind="fail", code="access_denied", times=1)
    job = settled.ended({**request, "max_attempts": 1})
    assert job["state"] == "failed", job
    assert settled.row(request["volume"]).state == "error"


@pytest.mark.parametrize("effect", [False, True], ids=["without effect", "with it"])
@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("grow", grow("a", "2M")),
        ("set_metadata", act("volume.update", "a", params={"metadata": {"k": "v"}})),
        ("rename", act("volume.rename", "a", params={"new_name": "b"})),
        ("remove", act("volume.remove", "a")),
        ("delete_snapshot", act("snapshot.delete", "a", snapshot="s")),
        ("rollback", act("volume.rollback", "a", snapshot="s")),
        ("attach", act("volume.attach", "a", **HERE)),
        ("assign_policy", act("policy.assign", "a", policy="web")),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_volume_becomes_what_it_is(
    settled: Settled, operation: str, request_: dict[str, Any], effect: bool
) -> None:
    policy = {"action": "policy.create", "backend": "ram", "policy": "web"}
    settled.do({**policy, "params": {"rules": ["10.0.0.0/8"]}}, create("a"))
    if "snapshot" in request_:
        settled.do(act("snapshot.create", "a", snapshot="s"))
    lost_sight(settled, request_, operation, "lost reply" if effect else "fail")
    [looked] = settled.look_again()
    assert looked["state"] == "succeeded", looked["error"]
    found = settled.engine.volumes()
    if effect and operation == "remove":
        assert found == {}
    else:
        name = "b" if effect and operation == "rename" else "a"
        assert {one: view["state"] for one, view in found.items()} == {name: "available"}
        assert found[name]["size_bytes"] == 2**20 * (2 if effect and operation == "grow" else 1)
        assert bool(found[name]["attachments"]) is (effect and operation == "attach")
        assert found[name].get("detail") is None
    assert settled.audit("ram")["findings"] == {}
    assert settled.look_again() == []


def test_what_was_restricted_stays_restricted(settled: Settled) -> None:
    settled.do(create("a"), act("volume.restrict", "a"))
    lost_sight(settled, act("volume.purge", "a"), "remove", "fail")
    settled.look_again()
    assert settled.row("a").state == "restricted"


@pytest.mark.parametrize("archived", [False, True], ids=["", "its job was archived"])
def test_what_a_failed_create_has_left_is_taken_away(
    settled: Settled, archived: bool, tmp_path: Path
) -> None:
    faults = _faults(settled.engine)
    faults.set(operation="create", kind="lost reply", times=1)
    faults.set(operation="discard", kind="fail", times=1)
    settled.ended(create("a", max_attempts=1))
    assert settled.row("a").state == "error"
    assert len(list(_driver(settled.engine).list_volumes())) == 1
    if archived:
        settled.engine.database.transact(lambda c: archive(c, tmp_path, older_than_days=0.0))
    [looked] = settled.look_again()
    assert looked["result"]["settled"] == "removed"
    assert (settled.engine.volumes(), list(_driver(settled.engine).list_volumes())) == ({}, [])
    settled.do(create("a"))


def test_what_was_in_error_when_versions_began_to_be_kept_is_not_taken_away(
    settled: Settled,
) -> None:
    settled.do(create("a"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    url = settled.engine.database.url
    migrate.downgrade(url, "0007")
    migrate.upgrade(url)
    with settled.engine.database.write() as connection:
        # A database of that time has no lease yet, nor has its storage.
        connection.execute(update(backends).values(take_over=True))
    settled.look_again()
    assert settled.row("a").state == "available"
    assert [one.name for one in _driver(settled.engine).list_volumes()] == ["a"]


def test_what_dying_workers_have_left_is_taken_away(settled: Settled) -> None:
    settled.engine.submit(create("a", max_attempts=1))
    for _ in range(4):  # whoever looks what has become of it dies, too
        _claim(settled.engine)
        settled.engine.time_passes()
    assert settled.row("a").state == "error"
    settled.look_again()
    assert settled.engine.volumes() == {}


@pytest.mark.parametrize("archived", [False, True], ids=["", "its job was archived"])
def test_a_snapshot_that_failed_is_taken_away(
    settled: Settled, archived: bool, tmp_path: Path
) -> None:
    settled.do(create("a"))
    faults = _faults(settled.engine)
    faults.set(operation="create_snapshot", kind="lost reply", times=1)
    faults.set(operation="discard", kind="fail", times=1)
    settled.ended(act("snapshot.create", "a", snapshot="s", max_attempts=1))
    volume = VolumeRef(settled.row("a").id, "a")
    assert len(_driver(settled.engine).list_snapshots(volume)) == 1
    if archived:
        settled.engine.database.transact(lambda c: archive(c, tmp_path, older_than_days=0.0))
    settled.look_again()
    assert settled.row("a").state == "available"
    assert _driver(settled.engine).list_snapshots(volume) == []
    settled.do(act("snapshot.create", "a", snapshot="s"))


def test_a_snapshot_that_failed_is_not_recorded_as_usable_before_it_is_taken_away(
    settled: Settled,
) -> None:
    """It would be taken away later, as what was never usable."""
    settled.do(create("a"))
    faults = _faults(settled.engine)
    faults.set(operation="create_snapshot", kind="lost reply", times=1)
    faults.set(operation="discard", kind="fail", times=1)
    settled.ended(act("snapshot.create", "a", snapshot="s", max_attempts=1))
    settled.do(act("volume.reconcile", "a", params={"what": ["snapshots"]}))
    assert settled.states() == {"s": "error"}
    settled.look_again()
    assert settled.states() == {}


def test_what_is_seen_to_be_lost_stays_in_error_and_is_told(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    settled.storage_sql("DELETE FROM volumes")
    settled.look_again()
    row = settled.row("a")
    assert (row.state, row.look_again_at) == ("error", None)
    assert "lost" in row.detail
    assert settled.audit("ram")["findings"] == {"ghost": 1}
    assert settled.look_again() == []


def test_an_old_removal_that_failed_makes_no_loss_a_removal(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, act("volume.remove", "a"), "remove", "fail")
    settled.look_again()
    assert settled.row("a").state == "available"
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    settled.storage_sql("DELETE FROM volumes")
    while settled.row("a").look_again_at is not None:
        settled.look_again()
    row = settled.row("a")
    assert row.state == "error"
    assert "lost" in row.detail


def test_looks_come_ever_less_often_and_one_at_a_time(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    _faults(settled.engine).set(operation="inspect", kind="fail", code="access_denied")
    distances = []
    for _ in range(7):
        before = settled.row("a").looks
        [looked] = settled.look_again()
        assert (looked["state"], looked["error"]["code"]) == ("failed", "access_denied")
        row = settled.row("a")
        assert (row.state, row.looks) == ("error", before + 1)
        distances.append((row.look_again_at - looked["finished_at"]).total_seconds())
    wanted = (10, 20, 40, 80, 160, 300, 300)
    assert all(most / 2 < got <= most for got, most in zip(distances, wanted, strict=True))
    # Not due: nobody looks; and several schedulers look once.
    settled.scheduler._look_again()
    _faults(settled.engine).clear()
    other = Scheduler(settled.engine.settings)
    try:
        with settled.engine.database.write() as connection:
            connection.execute(update(volumes).values(look_again_at=db_now(-1.0)))
        settled.scheduler._look_again()
        other._look_again()
    finally:
        other.close()
    with settled.engine.database.read() as connection:
        waiting = connection.execute(
            text("SELECT count(*) FROM jobs WHERE action = 'volume.verify' AND finished_at IS NULL")
        ).scalar()
    assert waiting == 1


def test_a_volume_that_stays_unseen_is_a_finding(settled: Settled) -> None:
    settled.do(create("a"), create("b"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    assert settled.audit("ram")["findings"] == {}
    settled.sql("UPDATE volumes SET changed_at = :then", then="2026-01-01 00:00:00.000000+00:00")
    assert settled.audit("ram")["findings"] == {"stuck": 1}
    [found] = settled.findings()
    assert (found["volume"], found["detail"]["what"]) == ("a", "unseen")
    settled.look_again()
    assert settled.audit("ram")["findings"] == {}


def test_no_look_is_asked_for_while_the_backend_is_away(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    faults = _faults(settled.engine)
    faults.set(operation="read_identity", kind="fail", code="outage")
    settled.engine.worker.serving.look_at_all()
    assert settled.look_again() == []
    faults.clear()
    settled.engine.worker.serving.look_at_unusable()
    settled.look_again()
    assert settled.row("a").state == "available"


# -- whom to ask, and what else is to be seen ---------------------------------------------


def test_the_host_that_has_begun_is_asked_not_one_that_was_refused(settled: Settled) -> None:
    settled.do(create("a"))
    faults = _faults(settled.engine)
    faults.set(operation="attach", kind="lost reply", times=1)
    faults.set(operation="inspect", kind="fail", code="access_denied", times=1)
    begun, refused = settled.engine.submit(
        act("volume.attach", "a", max_attempts=1, **HERE),
        act("volume.attach", "a", host="there"),
        batch=False,
    ).job_ids  # fmt: skip
    settled.work()
    assert settled.engine.states([begun, refused]) == ["failed", "failed"]
    assert settled.row("a").state == "error"
    [looked] = settled.look_again()
    assert (looked["host"], looked["state"]) == ("here", "succeeded")
    [attachment] = settled.engine.volumes()["a"]["attachments"]
    assert attachment["host"] == "here"


def begun_and_left(settled: Settled, request: dict[str, Any], queue: str, step: str) -> Any:
    """Let workers die over a job that one of them has begun; its claim at that time."""
    settled.engine.submit({**request, "max_attempts": 1})
    [first] = _claim(settled.engine, queue)
    _intend(settled.engine, first, step)
    settled.engine.time_passes()
    for _ in range(3):
        assert _claim(settled.engine, queue)
        settled.engine.time_passes()
    assert settled.engine.job(first.job_id)["error"]["code"] == "outcome_unknown"
    return first


@needs_root
def test_a_look_waits_for_the_only_host_that_can_tell(settled: Settled) -> None:
    settled.do(create("a", "1M", "fast"))
    driver = _driver(settled.engine, "fast")
    attach = act("volume.attach", "a", "fast", **HERE)
    claimed = begun_and_left(settled, attach, "host.here", "attach")
    row = settled.row("a")
    assert (row.state, row.look_again_at is not None) == ("error", True)
    volume = VolumeRef(row.id, "a", row.size_bytes)
    device = driver.attach(volume, _Call(claimed), read_only=False)
    try:
        # Its worker is dead, and another host's cannot see the device.
        settled.sql("UPDATE workers SET host = 'there'")
        settled.sql("UPDATE volumes SET look_again_at = :then", then="2026-01-01 00:00:00+00:00")
        settled.scheduler._look_again()
        elsewhere = dataclasses.replace(settled.engine.worker.runner._here, host="there")
        here, settled.engine.worker.runner._here = settled.engine.worker.runner._here, elsewhere
        asked = settled.ended(act("volume.verify", "a", "fast"))
        settled.engine.worker.runner._here = here
        assert (asked["state"], asked["error"]["code"]) == ("failed", "host_unavailable")
        assert "fenced=true" in asked["error"]["detail"]
        assert (settled.row("a").state, settled.row("a").looks) == ("error", 0)
        settled.sql("UPDATE workers SET host = 'here'")
        [looked] = settled.look_again()
        assert (looked["host"], looked["state"]) == ("here", "succeeded"), looked
        [attachment] = settled.engine.volumes("fast")["a"]["attachments"]
        assert (attachment["host"], attachment["device"]) == ("here", device.path)
    finally:
        settled.ended(act("volume.detach", "a", "fast", **HERE))
    assert driver.devices(volume) == []


@needs_root
@pytest.mark.parametrize("effect", [False, True], ids=["without effect", "with it"])
def test_no_other_host_removes_what_one_may_have_attached(settled: Settled, effect: bool) -> None:
    settled.do(create("a", "1M", "fast"))
    image = settled.image("a")
    driver = _driver(settled.engine, "fast")
    attach = act("volume.attach", "a", "fast", **HERE)
    claimed = begun_and_left(settled, attach, "host.here", "attach")
    row = settled.row("a")
    volume = VolumeRef(row.id, "a", row.size_bytes)
    settings = settled.engine.settings.model_copy(update={"host": "there"})
    there = Worker(settings, settled.engine.database, "worker-there")
    try:
        with pytest.raises(InUse, match="may be attached to here"):
            settled.engine.submit(act("volume.remove", "a", "fast"))
        for request in (
            act("volume.recreate", "a", "fast"),
            act("volume.forget", "a", "fast", reason="lost"),
        ):
            with pytest.raises(InUse, match="attached to here"):
                settled.engine.submit(request)
        [attachment] = settled.engine.volumes("fast")["a"]["attachments"]
        assert (attachment["host"], attachment["device"]) == ("here", None)
        # Its own host reports what is there; after that any host may go on.
        device = driver.attach(volume, _Call(claimed), read_only=False) if effect else None
        [looked] = settled.look_again()
        assert (looked["host"], looked["state"]) == ("here", "succeeded"), looked
        told = settled.engine.volumes("fast")["a"]
        assert told["state"] == "available"
        assert [one["device"] for one in told["attachments"]] == [
            one.path for one in [device] if one
        ]
        if effect:
            with pytest.raises(InUse, match="is attached to here"):
                settled.engine.submit(act("volume.remove", "a", "fast"))
            settled.do(act("volume.detach", "a", "fast", **HERE))
        settled.engine.submit(act("volume.remove", "a", "fast"))
        there.work()
        assert settled.engine.volumes("fast") == {}
        assert not image.exists()
    finally:
        there.close()


@needs_root
def test_a_look_that_is_about_something_else_waits_for_no_host(settled: Settled) -> None:
    settled.do(
        create("a", "1M", "fast"),
        act("volume.attach", "a", "fast", **HERE),
        act("volume.detach", "a", "fast", **HERE),
    )
    settled.engine.submit(act("snapshot.create", "a", "fast", snapshot="s", max_attempts=1))
    for _ in range(4):
        assert _claim(settled.engine, "backend.fast")
        settled.engine.time_passes()
    assert settled.row("a").look_again_at is not None
    settled.sql("UPDATE workers SET host = 'there'")
    settled.scheduler._look_again()
    here = settled.engine.worker.runner._here
    settled.engine.worker.runner._here = dataclasses.replace(here, host="there")
    settled.work()
    assert settled.row("a").look_again_at is None
    assert settled.engine.volumes("fast")["a"]["state"] == "available"
    settled.do(act("snapshot.create", "a", "fast", snapshot="s"))


@needs_root
def test_a_host_that_is_gone_for_good_is_not_waited_for(settled: Settled) -> None:
    settled.do(create("a", "1M", "fast"))
    begun_and_left(settled, act("volume.attach", "a", "fast", **HERE), "host.here", "attach")
    settled.sql("UPDATE workers SET host = 'there'")
    gone = {"params": {"force": True, "fenced": True}, "reason": "it burnt"}
    settled.do(act("volume.detach", "a", "fast", **HERE, **gone))
    looked = settled.look_again()
    assert [job["state"] for job in looked] == ["succeeded"]
    assert settled.row("a").state == "available"


@pytest.mark.parametrize("effect", [False, True], ids=["without effect", "with it"])
def test_a_change_over_which_workers_died_is_looked_at(settled: Settled, effect: bool) -> None:
    settled.do(create("a"))
    claimed = begun_and_left(settled, grow("a", "2M"), "backend.ram", "grow")
    row = settled.row("a")
    assert (row.state, row.look_again_at is not None) == ("error", True)
    assert "looks again" in row.detail
    if effect:
        _driver(settled.engine).grow(VolumeRef(row.id, "a", 2**20), 2**21, _Call(claimed))
    [looked] = settled.look_again()
    assert looked["state"] == "succeeded", looked["error"]
    found = settled.engine.volumes()["a"]
    assert (found["state"], found["size_bytes"]) == ("available", 2**21 if effect else 2**20)


def test_what_only_reads_is_not_in_error_when_its_workers_die(settled: Settled) -> None:
    settled.do(create("a"))
    settled.engine.submit(act("volume.verify", "a", max_attempts=1))
    for _ in range(4):
        _claim(settled.engine)
        settled.engine.time_passes()
    assert (settled.row("a").state, settled.row("a").look_again_at) == ("available", None)


@pytest.mark.parametrize("seen", [True, False], ids=["seen at once", "seen later"])
@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("volume.restrict", "available", "restricted"),
        ("volume.unrestrict", "restricted", "available"),
    ],
)
def test_a_volume_is_hidden_or_not_as_its_storage_has_it(
    settled: Settled, action: str, before: str, after: str, seen: bool
) -> None:
    settled.do(create("a"))
    if before == "restricted":
        settled.do(act("volume.restrict", "a"))
    faults = _faults(settled.engine)
    verb = action.partition(".")[2]
    faults.set(operation=verb, kind="lost reply", times=1)
    if not seen:
        faults.set(operation="list_snapshots", kind="fail", code="access_denied", times=1)
    job = settled.ended(act(action, "a", max_attempts=1))
    assert job["state"] == "failed"
    if not seen:
        assert settled.row("a").state == "error"
        settled.look_again()
    assert settled.row("a").state == after
    assert settled.audit("ram")["findings"] == {}


def refuse(settled: Settled, name: str, state: str) -> None:
    """Have the database refuse that a volume of this name gets into this state."""
    if settled.engine.database.engine.dialect.name == "postgresql":
        settled.sql(
            "ALTER TABLE volumes ADD CONSTRAINT refused "
            f"CHECK (name <> '{name}' OR state <> '{state}') NOT VALID"
        )
    else:
        settled.sql(
            "CREATE TRIGGER refused BEFORE UPDATE ON volumes "
            f"WHEN NEW.name = '{name}' AND NEW.state = '{state}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


def test_what_the_database_refuses_to_record_is_looked_at_again(settled: Settled) -> None:
    refuse(settled, "b", "available")
    ids = settled.engine.submit(create("a"), create("b"), create("c")).job_ids
    settled.work()
    assert settled.engine.states(ids) == ["succeeded", "failed", "succeeded"]
    assert settled.engine.job(ids[1])["error"]["code"] == "internal_error"
    row = settled.row("b")
    assert (row.state, row.look_again_at is not None) == ("error", True)
    [looked] = settled.look_again()
    assert looked["result"]["settled"] == "removed"
    assert sorted(settled.engine.volumes()) == ["a", "c"]
    assert sorted(one.name for one in _driver(settled.engine).list_volumes()) == ["a", "c"]


def test_a_job_whose_end_the_database_refuses_keeps_no_other_from_being_taken_up(
    settled: Settled,
) -> None:
    refuse(settled, "b", "error")
    ids = settled.engine.submit(*(create(name, max_attempts=1) for name in "abc")).job_ids
    for _ in range(20):
        _claim(settled.engine)
        settled.sql("UPDATE jobs SET lease_expires_at = :then", then="2026-01-01 00:00:00+00:00")
        settled.scheduler._reclaim()
    assert settled.engine.states(ids) == ["failed"] * 3
    rows = {name: settled.row(name) for name in "abc"}
    assert {name: row.state for name, row in rows.items()} == {
        **{"a": "error", "c": "error"},
        "b": "pending",
    }
    # It is told once, and what stays so is found.
    with settled.engine.database.read() as connection:
        told = select(events.c.volume, events.c.job_id, events.c.data["why"].as_string())
        [(volume, job_id, why)] = connection.execute(told.where(events.c.kind == "job.stuck")).all()
    assert (volume, job_id) == ("b", ids[1])
    assert "refused" in why
    assert "\n" not in why, "no values of the row"
    settled.look_again()
    assert settled.audit("ram")["findings"] == {"stuck": 1}


def test_a_look_that_is_refused_is_told_once(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, grow("a", "2M"), "grow", "fail")
    with settled.engine.database.write() as connection:
        set_accepting(connection, accepting=False, actor="tests", reason=None)
    for _ in range(3):
        assert settled.look_again() == []
    with settled.engine.database.read() as connection:
        told = select(events.c.volume, events.c.data["why"].as_string())
        [(volume, why)] = connection.execute(told.where(events.c.kind == "look.refused")).all()
    assert volume == "a"
    assert "drained" in why


def test_a_job_of_a_dead_host_that_cannot_be_ended_keeps_no_other_from_being_ended(
    settled: Settled,
) -> None:
    settled.do(*(create(name, "1M", "fast") for name in "abc"))
    attach = [act("volume.attach", name, "fast", max_attempts=5, **HERE) for name in "abc"]
    ids = settled.engine.submit(*attach).job_ids
    for claimed in _claim(settled.engine, "host.here"):
        _intend(settled.engine, claimed, "attach")
    settled.engine.time_passes()
    settled.sql("UPDATE jobs SET queued_at = :then", then="2026-01-01 00:00:00+00:00")
    settled.sql("UPDATE workers SET host = 'there'")
    refuse(settled, "b", "error")
    settled.scheduler._dead_hosts()
    assert settled.engine.states(ids) == ["failed"] * 3
    assert {settled.engine.job(job_id)["error"]["code"] for job_id in ids} == {"host_unavailable"}
    rows = {name: settled.row(name).state for name in "abc"}
    assert rows == {"a": "error", "b": "available", "c": "error"}


@pytest.mark.parametrize("action", ["volume.break_lock", "volume.forget", "volume.verify"])
@pytest.mark.parametrize(
    ("operation", "code"), [("read_identity", "outage"), ("inspect", "access_denied")]
)
def test_what_changes_no_storage_is_not_looked_for_there(
    settled: Settled, action: str, operation: str, code: str
) -> None:
    """A worker died in the last attempt at it: what it was to record is not recorded."""
    engine = settled.engine
    settled.do(create("a"))
    [job_id] = engine.submit({**act(action, "a"), "max_attempts": 1}).job_ids
    assert _claim(engine)
    engine.time_passes()
    _faults(engine).set(operation=operation, kind="fail", code=code)
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "outcome_unknown"
    assert settled.row("a").state == "available"


# -- export policies ----------------------------------------------------------------------


def policy(verb: str, **params: Any) -> dict[str, Any]:
    request = {"action": f"policy.{verb}", "backend": "ram", "policy": "web"}
    return {**request, "params": params} if params else request


def policies_of(settled: Settled) -> dict[str, tuple[str, list[str]]]:
    with settled.engine.database.read() as connection:
        return {
            view["name"]: (view["state"], view["rules"])
            for view in list_policies(connection, "ram", after=None, limit=10)
        }


@pytest.mark.parametrize("effect", [False, True], ids=["without effect", "with it"])
@pytest.mark.parametrize("verb", ["set_rules", "remove"])
def test_a_policy_becomes_what_it_is(settled: Settled, verb: str, effect: bool) -> None:
    settled.do(policy("create", rules=["10.0.0.0/8"]))
    faults = _faults(settled.engine)
    operation = {"set_rules": "set_rules", "remove": "remove_policy"}[verb]
    faults.set(operation=operation, kind="lost reply" if effect else "fail", times=1)
    faults.set(operation="inspect_policy", kind="fail", code="access_denied", times=1)
    asked = policy(verb, rules=["10.1.0.0/16"]) if verb == "set_rules" else policy(verb)
    assert settled.ended({**asked, "max_attempts": 1})["state"] == "failed"
    assert policies_of(settled)["web"][0] == "error"
    [looked] = settled.look_again()
    assert (looked["action"], looked["state"]) == ("policy.verify", "succeeded"), looked["error"]
    if effect and verb == "remove":
        assert policies_of(settled) == {}
    else:
        rules = ["10.1.0.0/16"] if effect else ["10.0.0.0/8"]
        assert policies_of(settled) == {"web": ("available", rules)}
    assert settled.audit("ram")["findings"] == {}
    assert settled.look_again() == []


@pytest.mark.parametrize("begun", [False, True], ids=["in the making", "made before"])
def test_a_policy_over_which_workers_died_is_looked_at(settled: Settled, begun: bool) -> None:
    request = policy("create", rules=["10.0.0.0/8"])
    if begun:
        settled.do(request)
        request = policy("set_rules", rules=["10.1.0.0/16"])
    begun_and_left(settled, request, "backend.ram", "set_rules" if begun else "build")
    assert policies_of(settled)["web"][0] == "error"
    settled.look_again()
    there = {"web": ("available", ["10.0.0.0/8"])} if begun else {}
    assert policies_of(settled) == there


@pytest.mark.parametrize("archived", [False, True], ids=["", "its job was archived"])
def test_what_a_failed_policy_has_left_is_taken_away(
    settled: Settled, archived: bool, tmp_path: Path
) -> None:
    faults = _faults(settled.engine)
    faults.set(operation="publish_policy", kind="lost reply", times=1)
    faults.set(operation="discard_policy", kind="fail", times=1)
    settled.ended({**policy("create", rules=[]), "max_attempts": 1})
    assert policies_of(settled)["web"][0] == "error"
    if archived:
        settled.engine.database.transact(lambda c: archive(c, tmp_path, older_than_days=0.0))
    [looked] = settled.look_again()
    assert looked["result"]["settled"] == "removed"
    assert policies_of(settled) == {}
    settled.do(policy("create", rules=["10.0.0.0/8"]))
    assert settled.audit("ram")["findings"] == {}


@pytest.mark.parametrize("verb", ["set_rules", "reapply"])
def test_a_policy_that_was_never_made_does_not_become_usable(settled: Settled, verb: str) -> None:
    """What stands under its name may be another's, and what was built has no name yet."""
    faults = _faults(settled.engine)
    faults.set(operation="publish_policy", kind="fail", times=1)
    faults.set(operation="discard_policy", kind="fail", times=1)
    settled.ended({**policy("create", rules=[]), "max_attempts": 1})
    params = {"rules": ["10.0.0.0/8"]} if verb == "set_rules" else {}
    ended = settled.ended(policy(verb, **params))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "wrong_state")
    assert policies_of(settled)["web"][0] == "error"
    settled.look_again()
    assert policies_of(settled) == {}


def test_looks_at_policies_come_ever_less_often_too(settled: Settled) -> None:
    settled.do(policy("create", rules=["10.0.0.0/8"]))
    faults = _faults(settled.engine)
    faults.set(operation="set_rules", kind="fail", times=1)
    faults.set(operation="inspect_policy", kind="fail", code="access_denied")
    settled.ended({**policy("set_rules", rules=[]), "max_attempts": 1})
    [looked] = settled.look_again()
    assert (looked["state"], looked["error"]["code"]) == ("failed", "access_denied")
    assert settled.look_again() == []
    settled.sql("UPDATE jobs SET finished_at = :then", then="2100-01-01 00:00:00+00:00")
    assert settled.look_again() == []
    settled.sql("UPDATE jobs SET finished_at = :then", then="2026-01-01 00:00:00+00:00")
    assert len(settled.look_again()) == 1
    faults.clear()
    settled.sql("UPDATE jobs SET finished_at = :then", then="2026-01-01 00:00:00+00:00")
    assert [job["state"] for job in settled.look_again()] == ["succeeded"]
    assert policies_of(settled)["web"][0] == "available"


def test_whoever_verifies_a_policy_is_told_what_differs(settled: Settled) -> None:
    settled.do(policy("create", rules=["10.0.0.0/8"]))
    assert settled.ended(policy("verify"))["result"] == {"agrees": True, "differences": {}}
    settled.storage_sql("UPDATE policies SET rules = '[]'")
    told = settled.ended(policy("verify"))["result"]
    assert told["differences"]["rules"] == {"recorded": ["10.0.0.0/8"], "found": []}
    assert policies_of(settled)["web"] == ("available", ["10.0.0.0/8"])


# -- removal ------------------------------------------------------------------------------


def test_a_failed_removal_strikes_nothing_without_proof(settled: Settled) -> None:
    settled.do(create("a"))
    lost_sight(settled, act("volume.remove", "a"), "remove", "fail")
    assert "a" in settled.engine.volumes()
    settled.look_again()
    assert settled.row("a").state == "available"
