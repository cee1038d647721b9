"""A backend that is out of reach fails no job: its jobs wait, and go on when it is back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from orchestrator.inventory.backends import backend_views
from orchestrator.jobs.cancel import cancel_batch
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, events, jobs, volumes
from tests.engine.conftest import Engine, act, create, grow
from tests.engine.disks import Disk
from tests.engine.test_execution import _driver, _faults
from tests.ontap.double import PASSWORD, USER, Double
from workers.scheduler import Scheduler

pytestmark = pytest.mark.either_database

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def disk(settings: Settings, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, settings.data / "volumes")
    yield made
    made.close()


@pytest.fixture
def engine(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Engine]:
    if "disk" in request.fixturenames:
        request.getfixturevalue("disk")
    made = Engine(settings, Database(settings.database_url))
    yield made
    made.close()


def backend(engine: Engine, name: str = "fast") -> dict[str, Any]:
    with engine.database.read() as connection:
        [view] = backend_views(connection, name)
    return view


def told(engine: Engine) -> list[str]:
    """What the history says of backends."""
    with engine.database.read() as connection:
        kinds = connection.execute(
            select(events.c.kind)
            .where(events.c.kind.in_(("backend.unavailable", "backend.available")))
            .order_by(events.c.commit_id)
        )
        return list(kinds.scalars())


def look(engine: Engine) -> None:
    """What the worker's clock does every so often; what was let go is then done."""
    engine.worker.serving.look_at_unusable()
    for _ in range(8):
        engine.work()


@needs_root
def test_an_unmounted_backend_fails_no_job_of_a_batch(engine: Engine, disk: Disk) -> None:
    engine.submit(create("there", backend="fast"))
    engine.work()
    disk.unmount()
    accepted = engine.submit(*(create(f"v{n}", 4096, "fast") for n in range(500)))
    change = engine.submit(grow("there", "2M", "fast")).job_ids
    for _ in range(8):
        engine.work()
    assert set(engine.states(accepted.job_ids)) <= {"waiting", "queued"}
    assert list(disk.place.iterdir()) == []
    away = backend(engine)
    assert away["unavailable_since"] is not None
    assert "mounted" in away["error"]["detail"]
    for job_id in (accepted.job_ids[0], accepted.job_ids[-1], *change):
        job = engine.job(job_id)
        assert job["waiting_on"]["kind"] == "backend", job
        assert job["waiting_on"]["since"] == away["unavailable_since"]
        assert "mounted" in job["waiting_on"]["detail"]
        assert job["attempt"] == 0
    look(engine)  # it still is
    assert told(engine) == ["backend.unavailable"]
    disk.mount()
    look(engine)
    assert set(engine.states([*accepted.job_ids, *change])) == {"succeeded"}
    assert engine.job(accepted.job_ids[0])["attempt"] == 1
    assert told(engine) == ["backend.unavailable", "backend.available"]
    back = backend(engine)
    assert (back["unavailable_since"], back["error"], back["volumes"]) == (None, None, 501)


def test_jobs_of_an_outage_ask_no_storage_each(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="read_identity", kind="fail", code="outage", times=1000)
    engine.submit(create("first"))
    engine.work()
    asked = looks_left(engine)
    later = engine.submit(*(create(f"v{n}") for n in range(300))).job_ids
    engine.work()
    engine.time_passes()
    engine.work()
    assert looks_left(engine) == asked
    # What was not begun can be canceled at once.
    engine.cancel(later[0])
    assert engine.job(later[0])["state"] == "canceled"


def looks_left(engine: Engine) -> int:
    """How often the fault that was set can happen still."""
    driver = next(d for d in engine.worker.serving.drivers.values() if d.backend == "ram")
    [row] = driver._store.read().execute("SELECT times FROM faults")  # type: ignore[attr-defined]
    return int(row["times"])


@needs_root
def test_another_storage_mounted_instead_is_an_error_at_once(engine: Engine, disk: Disk) -> None:
    marker = disk.place / ".orchestrator" / "identity.json"
    text = marker.read_text()
    known = engine.worker.serving.names
    identity = next(
        driver.read_identity()
        for id_, driver in engine.worker.serving.drivers.items()
        if known[id_] == "fast"
    )
    assert identity is not None
    marker.write_text(text.replace(identity, "f" * 32))
    [job_id] = engine.submit(create("a", backend="fast")).job_ids
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "identity_mismatch")
    assert backend(engine)["unavailable_since"] is None


@pytest.mark.parametrize(
    "request_",
    [
        grow("a", "2M"),
        act("volume.update", "a", params={"metadata": {"k": "v"}}),
        act("volume.remove", "a"),
        act("snapshot.create", "a", snapshot="s"),
        create("b"),
        act("volume.verify", "a"),
        {"action": "backend.audit", "backend": "ram"},
        {"action": "backend.verify", "backend": "ram"},
        {"action": "backend.refresh", "backend": "ram"},
    ],
    ids=lambda request: request["action"],
)
def test_any_action_waits_for_its_backend(engine: Engine, request_: dict[str, Any]) -> None:
    engine.submit(create("a"))
    engine.work()
    faults = _faults(engine)
    faults.set(operation="read_identity", kind="fail", code="outage")
    [job_id] = engine.submit({**request_, "max_attempts": 1}).job_ids
    for _ in range(3):
        engine.work()
        engine.time_passes()
        look(engine)
    job = engine.job(job_id)
    assert (job["state"] in ("waiting", "queued"), job["attempt"]) == (True, 0), job
    assert job["waiting_on"]["kind"] == "backend"
    faults.clear()
    look(engine)
    assert engine.job(job_id)["state"] == "succeeded"
    assert told(engine) == ["backend.unavailable", "backend.available"]


def test_an_outage_in_the_midst_of_a_job_is_waited_out(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    faults = _faults(engine)
    # The effect has happened when the storage goes.
    faults.set(operation="grow", kind="fail", code="outage", when="after", times=1)
    [job_id] = engine.submit({**grow("a", "2M"), "max_attempts": 1}).job_ids
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["waiting_on"]["kind"], job["attempt"]) == ("waiting", "backend", 0)
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["state"] == "succeeded"
    assert engine.volumes()["a"]["size_bytes"] == 2 * 2**20


def test_a_failed_change_whose_end_cannot_be_seen_waits_for_the_backend(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    faults = _faults(engine)
    faults.set(operation="remove", kind="lost reply", times=1)
    faults.set(operation="inspect", kind="fail", code="outage", times=1)
    [job_id] = engine.submit(act("volume.remove", "a", max_attempts=1)).job_ids
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["waiting_on"]["kind"], job["attempt"]) == ("waiting", "backend", 1)
    assert engine.volumes()["a"]["state"] == "available"
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "timed_out"
    assert engine.volumes() == {}


def test_a_copy_waits_for_the_backend_of_its_source(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    faults = _faults(engine)
    faults.set(operation="read_identity", kind="fail", code="outage")
    request = act("volume.copy", "b", "fast", params={"source": "a", "source_backend": "ram"})
    [job_id] = engine.submit({**request, "max_attempts": 1}).job_ids
    engine.work()
    assert engine.job(job_id)["waiting_on"]["kind"] == "backend"
    assert backend(engine, "ram")["unavailable_since"] is not None
    assert backend(engine, "fast")["unavailable_since"] is None
    faults.clear()
    look(engine)
    assert engine.job(job_id)["state"] == "succeeded"


def test_a_backend_that_one_worker_lost_is_found_again_by_another(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="read_identity", kind="fail", code="outage")
    [job_id] = engine.submit(create("a")).job_ids
    engine.work()
    assert backend(engine, "ram")["unavailable_since"] is not None
    faults.clear()
    other = engine.another_worker()  # it looks when it starts
    other.work()
    assert engine.job(job_id)["state"] == "succeeded"
    assert backend(engine, "ram")["unavailable_since"] is None


def test_a_batch_that_waits_for_its_backend_is_canceled_at_once(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="read_identity", kind="fail", code="outage")
    accepted = engine.submit(*(create(f"v{n}") for n in range(300)))
    for _ in range(3):
        engine.work()
        engine.time_passes()
    with engine.database.read() as connection:
        begun = connection.execute(select(func.count()).where(jobs.c.begun)).scalar_one()
    assert begun > 0
    engine.database.transact(lambda c: cancel_batch(c, accepted.batch_id or 0, "tests"))
    assert set(engine.states(accepted.job_ids)) == {"canceled"}
    assert engine.volumes() == {}
    faults.clear()
    look(engine)
    accepted = engine.submit(*(create(f"v{n}") for n in range(300)))
    look(engine)
    assert set(engine.states(accepted.job_ids)) == {"succeeded"}


def test_what_was_begun_before_an_outage_is_undone_after_it(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="create", kind="lost reply", times=1)
    [job_id] = engine.submit(create("a")).job_ids
    engine.work()
    faults.set(operation="read_identity", kind="fail", code="outage")
    engine.time_passes()
    engine.work()
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["waiting_on"]["kind"] == "backend"
    faults.clear()
    look(engine)
    assert engine.states([job_id]) == ["canceled"]
    assert list(_driver(engine).list_volumes()) == []


def insist(engine: Engine, job_id: int) -> None:
    """Cancel a job that was canceled before, some time later."""
    with engine.database.write() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.cancel_requested_at.is_not(None))
            .values(cancel_requested_at=db_now(-60.0))
        )
    engine.cancel(job_id)


@pytest.mark.parametrize("effect", [False, True], ids=["without effect", "with it"])
@pytest.mark.parametrize("request_", [create("a"), grow("there", "2M")], ids=["create", "grow"])
def test_a_backend_that_stays_away_is_given_up_by_who_insists(
    engine: Engine, request_: dict[str, Any], effect: bool
) -> None:
    engine.submit(create("there"))
    engine.work()
    faults = _faults(engine)
    verb = request_["action"].partition(".")[2]
    faults.set(operation=verb, kind="lost reply" if effect else "unavailable", times=1)
    [job_id] = engine.submit(request_).job_ids
    [later] = engine.submit(act("volume.update", request_["volume"], params=METADATA)).job_ids
    engine.work()
    faults.set(operation="read_identity", kind="fail", code="outage")
    engine.time_passes()
    engine.work()
    engine.cancel(job_id)
    engine.cancel(job_id)  # the same request, sent twice
    engine.work()
    job = engine.job(job_id)
    assert (job["state"] in ("waiting", "queued"), job["waiting_on"]["kind"]) == (True, "backend")
    insist(engine, job_id)
    job = engine.job(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "canceled"), job
    assert "could not be seen" in job["error"]["detail"]
    assert engine.volumes()[request_["volume"]]["state"] == "error"
    # What comes behind is refused when it can be tried, and not done to what nobody has seen.
    faults.clear()
    look(engine)
    assert engine.states([later]) == ["failed"]
    scheduler = Scheduler(engine.settings)
    try:
        with engine.database.write() as connection:
            connection.execute(update(volumes).values(look_again_at=db_now(-1.0)))
        scheduler._look_again()
    finally:
        scheduler.close()
    engine.work()
    found = {name: view["size_bytes"] for name, view in engine.volumes().items()}
    grown = effect and verb == "grow"
    assert found == {"there": 2**21 if grown else 2**20}
    assert {view["state"] for view in engine.volumes().values()} == {"available"}


METADATA = {"metadata": {"k": "v"}}


def test_jobs_of_a_backend_that_is_configured_no_more_end_when_canceled(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="create", kind="lost reply", times=1)
    batch = engine.submit(create("a"), create("b"), batch=True)
    engine.work()
    [waits] = [id_ for id_ in batch.job_ids if engine.job(id_)["state"] == "waiting"]
    with engine.database.write() as connection:
        connection.execute(update(backends).values(configured=False))
    finished = engine.database.transact(lambda c: cancel_batch(c, batch.batch_id or 0, "tests"))
    assert (finished.ended_jobs, finished.ended_batches) == ([waits], [batch.batch_id])
    job = engine.job(waits)
    assert (job["state"], job["error"]["code"]) == ("failed", "canceled")
    assert "configured no more" in job["error"]["detail"]


def test_a_filer_that_is_down_for_a_moment_fails_no_job(settings: Settings) -> None:
    up = Double().start()
    nas = {
        **{"driver": "ontap", "hostname": "127.0.0.1", "port": up.port, "scheme": "http"},
        **{"username": USER, "password": PASSWORD, "vserver": "svm1", "poll": 0.01},
    }
    backends = {**settings.backends, "nas": BackendSettings.model_validate(nas)}
    settings = settings.model_copy(update={"backends": backends})
    engine = Engine(settings, Database(settings.database_url))
    try:
        engine.submit(create("v1", "64M", "nas"), create("v2", "64M", "nas"))
        engine.work()
        up.stop()
        ids = engine.submit(
            *(
                {**request, "max_attempts": 1}
                for request in (
                    create("v3", "64M", "nas"),
                    grow("v1", "128M", "nas"),
                    act("volume.remove", "v2", "nas"),
                )
            )
        ).job_ids
        engine.work()
        assert set(engine.states(ids)) <= {"waiting", "queued"}
        assert {engine.job(job_id)["waiting_on"]["kind"] for job_id in ids} == {"backend"}
        assert "cannot be reached" in backend(engine, "nas")["error"]["detail"]
        again = Double(up.port)
        again.filer = up.filer
        again.start()
        try:
            look(engine)
            assert engine.states(ids) == ["succeeded"] * 3
        finally:
            again.stop()
        assert told(engine) == ["backend.unavailable", "backend.available"]
    finally:
        engine.close()


def test_a_call_without_answer_asks_whether_the_backend_is_away(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    faults = _faults(engine)
    faults.set(operation="grow", kind="unavailable", times=1)
    # It answers when the attempt begins, and no longer when that has failed.
    faults.set(operation="read_identity", kind="slow", seconds=0.0, times=1)
    faults.set(operation="read_identity", kind="fail", code="outage")
    [job_id] = engine.submit({**grow("a", "2M"), "max_attempts": 1}).job_ids
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["waiting_on"]["kind"], job["attempt"]) == ("waiting", "backend", 0)
    faults.clear()
    look(engine)
    assert engine.states([job_id]) == ["succeeded"]
