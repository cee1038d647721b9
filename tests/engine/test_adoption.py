"""Volumes that were on the storage before: taken into the inventory, never taken away."""

from __future__ import annotations

import fcntl
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.actions.requests import parse_request
from orchestrator.domain.errors import AlreadyExists, Unsupported
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import plan
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from workers.backends.file import layout
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

MIB = 2**20


def storage(engine: Engine) -> MemoryDriver:
    return next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))


def plant(engine: Engine, name: str, size: int = MIB) -> None:
    """Make a volume behind everybody's back."""
    with storage(engine)._store.change() as db:
        db.execute("INSERT INTO volumes (name, size) VALUES (?, ?)", (name, size))


def ids(engine: Engine) -> dict[str, str | None]:
    return {facts.name: facts.id for facts in storage(engine).list_volumes()}


def adopted(engine: Engine, name: str) -> Any:
    accepted = engine.submit(act("volume.adopt", name))
    engine.work()
    return engine.job(accepted.job_ids[0])


def promised(engine: Engine) -> int:
    with engine.database.read() as connection:
        found = connection.execute(text("SELECT sum(promised_bytes) FROM promises")).scalar()
    return int(found or 0)


def test_an_adopted_volume_is_like_any_other(engine: Engine) -> None:
    plant(engine, "old", 3 * MIB)
    job = adopted(engine, "old")
    assert job["state"] == "succeeded", job["error"]
    found = engine.volumes()["old"]
    assert (found["id"], found["size_bytes"]) == (ids(engine)["old"], 3 * MIB)
    assert promised(engine) == 3 * MIB
    accepted = engine.submit(grow("old", 4 * MIB), act("volume.remove", "old"))
    engine.work()
    engine.work()
    assert engine.states(accepted.job_ids) == ["succeeded"] * 2
    assert ids(engine) == {}


@pytest.mark.parametrize(
    ("contents", "what"), [(b"QFI\xfb\0\0\0\3", "a qcow or qcow2 image"), (b"\x90" * 512, None)]
)
def test_what_is_no_raw_disk_is_adopted_with_a_note(
    engine: Engine, contents: bytes, what: str | None
) -> None:
    plant(engine, "old")
    with storage(engine)._store.change() as db:
        db.execute("UPDATE volumes SET contents = ?", (contents,))
    with engine.database.read() as connection:
        request = parse_request(act("volume.adopt", "old"))
        [planned] = plan(connection, Submission(requests=[request], actor=ADMIN))
    assert "whatever their format" in planned.notes[0]
    result = adopted(engine, "old")["result"]
    note = None if what is None else f"it is {what}: its bytes are the volume's, as they are"
    assert result.get("note") == note


def test_what_is_ours_is_not_adopted(engine: Engine) -> None:
    engine.submit(create("mine"))
    engine.work()
    with pytest.raises(AlreadyExists):
        engine.submit(act("volume.adopt", "mine"))
    engine.submit(act("volume.forget", "mine"))
    engine.work()
    before = ids(engine)
    job = adopted(engine, "mine")
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict"), "it bears a stamp"
    assert ids(engine) == before


def test_what_is_not_there_is_not_adopted(engine: Engine) -> None:
    job = adopted(engine, "nothing")
    assert (job["state"], job["error"]["code"]) == ("failed", "unknown_volume")
    assert engine.volumes() == {}


def test_an_adoption_that_fails_takes_nothing_away(engine: Engine) -> None:
    plant(engine, "old")
    faults = Faults("ram", storage(engine).installation)
    faults.set(kind="fail", operation="adopt", when="after", times=1)
    failed = adopted(engine, "old")
    assert failed["state"] == "failed"
    assert list(ids(engine)) == ["old"]
    assert engine.volumes() == {}


def test_a_lost_reply_adopts_once(engine: Engine) -> None:
    plant(engine, "old")
    faults = Faults("ram", storage(engine).installation)
    faults.set(kind="lost reply", operation="adopt", times=1)
    accepted = engine.submit(act("volume.adopt", "old"))
    engine.work()
    engine.time_passes()
    engine.work()
    assert engine.states(accepted.job_ids) == ["succeeded"]
    assert engine.volumes()["old"]["id"] == ids(engine)["old"]


def test_a_driver_that_cannot_says_so(engine: Engine) -> None:
    with pytest.raises(Unsupported):
        engine.submit(act("volume.client_locks", "old", "fast"))


def test_what_was_ours_once_is_taken_over_if_that_is_said(engine: Engine) -> None:
    engine.submit(create("mine"), act("snapshot.create", "mine", snapshot="s1"))
    for _ in range(2):
        engine.work()
    engine.submit(act("volume.forget", "mine"))
    engine.work()
    failed = adopted(engine, "mine")
    assert "take_over=true" in failed["error"]["detail"]
    accepted = engine.submit(act("volume.adopt", "mine", params={"take_over": True}))
    engine.work()
    job = engine.job(accepted.job_ids[0])
    assert (job["state"], job["result"]["snapshots"]) == ("succeeded", ["s1"]), job["error"]
    assert engine.volumes()["mine"]["id"] == ids(engine)["mine"]
    rest = engine.submit(
        act("volume.rollback", "mine", snapshot="s1"),
        act("snapshot.delete", "mine", snapshot="s1"),
        act("volume.remove", "mine"),
    )
    for _ in rest.job_ids:
        engine.work()
    assert engine.states(rest.job_ids) == ["succeeded"] * 3


def test_what_another_volume_is_is_never_taken_over(engine: Engine) -> None:
    engine.submit(create("mine"))
    engine.work()
    with storage(engine)._store.change() as db:
        db.execute("UPDATE volumes SET name = 'renamed by hand'")
        db.execute("UPDATE volumes SET name = 'other'")
    accepted = engine.submit(act("volume.adopt", "other", params={"take_over": True}))
    engine.work()
    job = engine.job(accepted.job_ids[0])
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict")
    assert ids(engine)["other"] == engine.volumes()["mine"]["id"]


def test_a_take_over_that_is_canceled_half_way_says_so_and_can_be_finished(engine: Engine) -> None:
    """The snapshots have been taken, and somebody is giving names where the volume belongs."""
    root = engine.settings.data / "volumes"
    engine.submit(create("vm1", backend="fast"))
    for snapshot in ("s2", "s1"):
        engine.submit(act("snapshot.create", "vm1", "fast", snapshot=snapshot))
    engine.work()
    engine.submit(act("volume.forget", "vm1", "fast"))
    engine.work()
    adopt = act("volume.adopt", "vm1", "fast", params={"take_over": True})
    lane = layout.lane_of_directory(layout.volume_place("vm1", "0" * 32).directory)
    with root.joinpath(*layout.LOCKS, lane).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        [job_id] = engine.submit(adopt).job_ids
        engine.work()
        job = engine.job(job_id)
        assert job["state"] == "waiting", job
        assert job["error"]["snapshots_taken"] == ["s2", "s1"]
        engine.cancel(job_id)
        engine.work()
    job = engine.job(job_id)
    assert job["state"] == "failed"
    assert job["error"]["code"] == "canceled"
    assert "snapshots s2, s1 were taken over" in job["error"]["detail"]
    assert engine.volumes("fast") == {}
    [job_id] = engine.submit(adopt).job_ids
    engine.work()
    job = engine.job(job_id)
    assert job["state"] == "succeeded", job
    assert job["result"]["snapshots"] == ["s2", "s1"]
