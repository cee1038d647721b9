"""Submission: what is accepted, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import (
    AlreadyExists,
    DependencyCycle,
    DependencyFailed,
    HostUnavailable,
    IdempotencyMismatch,
    InsufficientCapacity,
    InUse,
    InvalidInput,
    InvalidName,
    InvalidSize,
    Locked,
    MissingField,
    NewerSnapshots,
    NotAllowed,
    Problem,
    ShrinkRefused,
    UnknownAction,
    UnknownBackend,
    UnknownField,
    UnknownJob,
    UnknownParameter,
    UnknownSnapshot,
    UnknownVolume,
    WrongState,
)
from orchestrator.domain.states import Role
from orchestrator.inventory.backends import backend_views
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.submit import submit
from orchestrator.resources.volume import locks
from orchestrator.store.tables import events, idempotency_keys, job_lanes, jobs
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import ADMIN, Engine, act, create, grow


def _count(engine: Engine) -> dict[str, int]:
    with engine.database.read() as transaction:
        return {
            table.name: transaction.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (jobs, job_lanes, events, idempotency_keys)
        }


def test_create_grow_snapshot_clone_remove_of_one_volume_are_queued_in_one_go(
    engine: Engine,
) -> None:
    accepted = engine.submit(
        create("vm1", "1M"),
        grow("vm1", "2M"),
        act("snapshot.create", "vm1", snapshot="s"),
        act("volume.clone", "copy", params={"source": "vm1"}, snapshot="s"),
        act("snapshot.delete", "vm1", snapshot="s"),
        act("volume.remove", "vm1"),
        create("vm1", "3M"),
    )
    engine.work()
    assert engine.states(accepted.job_ids) == ["succeeded"] * 7
    found = engine.volumes()
    assert {name: view["size_bytes"] for name, view in found.items()} == {
        "copy": 2 * 2**20,
        "vm1": 3 * 2**20,
    }
    assert engine.batch(accepted.batch_id or 0)["state"] == "succeeded"


REFUSED: list[tuple[dict[str, Any], type[Problem], str]] = [
    (create("vm1"), AlreadyExists, "volume"),
    (grow("vm1", "512K"), ShrinkRefused, "params.size_bytes"),
    (grow("vm1", "1M"), ShrinkRefused, "params.size_bytes"),
    (create("../etc"), InvalidName, "volume"),
    (create("-x"), InvalidName, "volume"),
    (create("a b"), InvalidName, "volume"),
    (create("ü"), InvalidName, "volume"),
    (create("x" * 256), InvalidName, "volume"),
    (create("new", -1), InvalidSize, "params.size_bytes"),
    (create("new", 0), InvalidSize, "params.size_bytes"),
    (create("new", "10X"), InvalidSize, "params.size_bytes"),
    (create("new", "1.5"), InvalidSize, "params.size_bytes"),
    (create("new", 2**63), InvalidSize, "params.size_bytes"),
    (create("new", "2T"), InsufficientCapacity, "params.size_bytes"),
    (create("new", backend="nowhere"), UnknownBackend, "backend"),
    (create("new") | {"params": {}}, MissingField, "params.size_bytes"),
    (create("new") | {"params": {"size": 1, "colour": "red"}}, UnknownParameter, "params.colour"),
    (create("new") | {"colour": "red"}, UnknownField, "colour"),
    (create("new") | {"volume.wipe": {}}, UnknownField, "volume.wipe"),
    (create("new", priority=20), InvalidInput, "priority"),
    (create("new", depends_on=[999]), UnknownJob, "depends_on"),
    ({"action": "volume.explode", "backend": "ram", "volume": "vm1"}, UnknownAction, "action"),
    ({"backend": "ram", "volume": "vm1"}, MissingField, "action"),
    (act("volume.remove", "ghost"), UnknownVolume, "volume"),
    (act("snapshot.delete", "vm1", snapshot="no"), UnknownSnapshot, "snapshot"),
    (act("volume.rollback", "vm1", snapshot="no"), UnknownSnapshot, "snapshot"),
    (act("volume.clone", "c", params={"source": "ghost"}), UnknownVolume, "params.source"),
    (
        act("volume.clone", "c", params={"source": "vm1", "size": "4K"}),
        ShrinkRefused,
        "params.size_bytes",
    ),
    (act("volume.rename", "vm1", params={"new_name": "vm1"}), AlreadyExists, "params.new_name"),
    (act("volume.purge", "vm1"), WrongState, "volume"),
    (act("volume.unrestrict", "vm1"), WrongState, "volume"),
    (act("volume.attach", "vm1", backend="fast", host="moon"), UnknownVolume, "volume"),
    (act("volume.detach", "vm1", host="a", params={"force": True}), InvalidInput, "params.fenced"),
]


@pytest.mark.either_database
@pytest.mark.parametrize(
    ("request_", "problem", "field"), REFUSED, ids=lambda value: getattr(value, "__name__", None)
)
@pytest.mark.parametrize("batch", [False, True])
def test_what_cannot_be_done_is_refused_and_nothing_changes(
    engine: Engine,
    request_: dict[str, Any],
    problem: type[Problem],
    field: str,
    batch: bool,
) -> None:
    engine.submit(create("vm1", "1M"))
    engine.work()
    before = _count(engine)
    requests = [create("first"), request_] if batch else [request_]
    # On host 'moon' there is no worker: that is found first.
    expected = HostUnavailable if request_.get("host") == "moon" else problem
    with pytest.raises(expected) as caught:
        engine.submit(*requests, batch=batch, idempotency_key="k")
    if expected is problem:
        assert caught.value.field in (field, f"jobs.1.{field}")
    assert caught.value.document()["code"] == expected.code
    assert _count(engine) == before
    assert set(engine.volumes()) == {"vm1"}


def test_a_problem_in_a_batch_names_the_row(engine: Engine) -> None:
    with pytest.raises(UnknownVolume) as caught:
        engine.submit(create("a"), grow("b", "2M", ref="the-second"))
    assert caught.value.field == "jobs.1.volume"
    assert caught.value.facts["index"] == 1
    assert caught.value.facts["ref"] == "the-second"


def test_the_same_key_with_the_same_body_answers_with_the_first_job(engine: Engine) -> None:
    first = engine.submit(create("vm1"), idempotency_key="once")
    again = engine.submit(create("vm1"), idempotency_key="once")
    assert again.repeated
    assert again.job_ids == first.job_ids
    with pytest.raises(IdempotencyMismatch):
        engine.submit(create("vm2"), idempotency_key="once")
    other = Actor("somebody else", Role.OPERATOR)
    with pytest.raises(AlreadyExists):
        engine.submit(create("vm1"), idempotency_key="once", actor=other)


def test_a_batch_sent_twice_with_one_key_makes_its_jobs_once(engine: Engine) -> None:
    requests = [create(f"v{n}") for n in range(20)]
    first = engine.submit(*requests, idempotency_key="fleet")
    again = engine.submit(*requests, idempotency_key="fleet")
    assert (again.batch_id, again.job_ids) == (first.batch_id, first.job_ids)
    assert _count(engine)["jobs"] == 20


def test_refs_and_ids_make_dependencies(engine: Engine) -> None:
    [first] = engine.submit(create("a")).job_ids
    accepted = engine.submit(
        create("c", ref="c", depends_on=["b"]),
        create("b", ref="b", depends_on=[first]),
    )
    c, b = accepted.job_ids
    assert engine.job(c)["depends_on"] == [b]
    assert engine.job(b)["waiting_on"] == {
        "kind": "dependency",
        "job": first,
        "detail": f"job {first}, which it depends on, has not ended",
    }
    engine.work()
    ended = [engine.job(job_id)["finished_at"] for job_id in (first, b, c)]
    assert ended == sorted(ended)
    assert engine.states([first, b, c]) == ["succeeded"] * 3


@pytest.mark.parametrize(
    "requests",
    [
        [create("a", ref="a", depends_on=["b"]), create("b", ref="b", depends_on=["a"])],
        # The second is behind the first on the volume, and the first waits for it.
        [create("a", ref="a", depends_on=["g"]), grow("a", "2M", ref="g")],
    ],
    ids=["dependencies", "lane and dependency"],
)
def test_jobs_that_would_wait_for_one_another_are_refused(
    engine: Engine, requests: list[dict[str, Any]]
) -> None:
    with pytest.raises(DependencyCycle):
        engine.submit(*requests)


def test_depending_on_a_failed_job_is_refused(engine: Engine) -> None:
    [job_id] = engine.submit(create("a")).job_ids
    engine.cancel(job_id)
    with pytest.raises(DependencyFailed):
        engine.submit(create("b", depends_on=[job_id]))


def test_a_backend_shows_what_is_queued_among_what_it_has_promised(engine: Engine) -> None:
    def shown() -> tuple[int, int]:
        [view] = engine.database.look(lambda transaction: backend_views(transaction, "ram"))
        return view["volumes"], view["promised_bytes"]

    engine.submit(create("a", "1M"), create("b", "2M"))
    assert shown() == (0, 3 * 2**20)
    engine.work()
    engine.submit(grow("a", "4M"), act("volume.remove", "b"))
    assert shown() == (2, 6 * 2**20)
    engine.work()
    assert shown() == (1, 4 * 2**20)


def test_promised_room_counts_what_is_queued(engine: Engine) -> None:
    # ram holds 1T and may promise 20 times as much.
    engine.submit(*[create(f"v{n}", "1T") for n in range(20)])
    with pytest.raises(InsufficientCapacity) as caught:
        engine.submit(create("one-more", "1T"))
    assert caught.value.facts["promised_bytes"] == 20 * 2**40
    engine.work()
    with pytest.raises(InsufficientCapacity):
        engine.submit(create("one-more", "1T"))
    engine.submit(act("volume.remove", "v0"))
    engine.work()
    engine.submit(create("one-more", "1T"))


def test_room_that_another_has_taken_meanwhile_is_not_promised_twice(engine: Engine) -> None:
    if not engine.database.is_postgresql:
        pytest.skip("on SQLite one submission is checked and committed at a time")
    # Names whose lanes share no lock: neither waits for the other.
    requests = [parse_request(create(f"second{n}", "1T")) for n in range(11)]
    wanted = Submission(requests=requests, actor=ADMIN, batch=True)
    looks = 0

    def look_and_be_overtaken(transaction: Transaction) -> Accepted:
        nonlocal looks
        looks += 1
        accepted = submit(transaction, wanted, max_attempts=5)
        if looks == 1:
            engine.submit(*[create(f"first{n}", "1T") for n in range(10)])
        return accepted

    with pytest.raises(InsufficientCapacity) as caught:
        engine.database.transact(look_and_be_overtaken)
    assert looks == 2
    assert caught.value.facts["promised_bytes"] == 20 * 2**40
    assert _count(engine)["jobs"] == 10


def test_a_lock_of_another_host_forbids_and_its_owner_may(engine: Engine) -> None:
    engine.submit(create("vm1"))
    engine.work()
    with engine.database.write() as transaction:
        locks.take(transaction, "ram", "vm1", "alpha", ADMIN, reason=None, seconds=None)
    with pytest.raises(Locked) as caught:
        engine.submit(act("volume.remove", "vm1"))
    assert caught.value.facts["lock_owner"] == "alpha"
    with pytest.raises(Locked):
        engine.submit(act("volume.remove", "vm1", host="beta"))
    [job_id] = engine.submit(act("volume.remove", "vm1", host="alpha")).job_ids
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]


def test_a_lock_taken_after_submission_is_seen_at_execution(engine: Engine) -> None:
    engine.submit(create("vm1"))
    engine.work()
    [job_id] = engine.submit(act("volume.remove", "vm1")).job_ids
    with engine.database.write() as transaction:
        locks.take(transaction, "ram", "vm1", "alpha", ADMIN, reason=None, seconds=None)
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "locked"
    assert "vm1" in engine.volumes()


def test_roles_are_checked_by_the_declaration(engine: Engine) -> None:
    operator = Actor("op", Role.OPERATOR)
    engine.submit(create("vm1"), actor=operator)
    with pytest.raises(NotAllowed):
        engine.submit(act("volume.forget", "vm1"), actor=operator)
    with pytest.raises(NotAllowed):
        engine.submit(create("vm2"), actor=Actor("reader", Role.READER))


def test_what_is_needed_by_others_cannot_be_removed(engine: Engine) -> None:
    engine.submit(create("vm1"), act("snapshot.create", "vm1", snapshot="s1"))
    with pytest.raises(InUse):
        engine.submit(act("volume.remove", "vm1"))
    engine.work()
    engine.submit(act("snapshot.create", "vm1", snapshot="s2"))
    with pytest.raises(NewerSnapshots) as caught:
        engine.submit(act("volume.rollback", "vm1", snapshot="s1"))
    assert caught.value.facts["snapshots"] == ["s2"]
    [job_id] = engine.submit(
        act("volume.rollback", "vm1", snapshot="s1", params={"discard_newer": True})
    ).job_ids
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]
    with pytest.raises(UnknownSnapshot):
        engine.submit(act("snapshot.delete", "vm1", snapshot="s2"))


def test_a_start_time_ahead_is_checked_against_what_there_will_be_then(engine: Engine) -> None:
    later = "2999-01-01T00:00:00Z"
    engine.submit(create("vm1", "1M"), grow("vm1", "4M", run_at=later))
    # Now it has 1M, so this is fine, though it will have 4M one day.
    engine.submit(grow("vm1", "2M"))
    with pytest.raises(ShrinkRefused):
        engine.submit(grow("vm1", "3M", run_at="2999-01-02T00:00:00Z"))
    engine.submit(grow("vm1", "5M", run_at="2999-01-02T00:00:00Z"))


@pytest.mark.parametrize("verb", ["drain", "resume"])
def test_a_drain_or_resume_waits_for_no_job(engine: Engine, verb: str) -> None:
    [before] = engine.submit(create("a")).job_ids
    with pytest.raises(InvalidInput, match="waits for no job"):
        engine.submit({"action": f"backend.{verb}", "backend": "ram", "depends_on": [before]})
