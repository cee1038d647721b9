"""What a clone or copy takes over of its source, and what it does not and tells."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.actions.requests import parse_request
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import plan
from orchestrator.store.tables import events
from tests.engine.conftest import ADMIN, Engine, act, create

pytestmark = pytest.mark.either_database

OWNED = {"owner": "billing", "stage": "test"}


def do(engine: Engine, *requests: dict[str, Any]) -> Any:
    """Do these, one after the other; how the last one ended."""
    for request in requests:
        [job_id] = engine.submit(request).job_ids
        engine.work()
    ended = engine.job(job_id)
    assert ended["state"] == "succeeded", ended["error"]
    return ended


def source(engine: Engine, backend: str) -> None:
    do(
        engine,
        create("vm", backend=backend, params={"size_bytes": "1M", "metadata": OWNED}),
        act("snapshot.create", "vm", backend, snapshot="s1"),
        act("snapshot.create", "vm", backend, snapshot="s2"),
    )


def making(action: str, backend: str, **params: Any) -> dict[str, Any]:
    """A request to make ``new`` of ``vm`` on this backend."""
    if action == "volume.clone":
        return act(action, "new", backend, params={"source": "vm", **params})
    other = {"ram": "fast", "fast": "ram"}[backend]
    params = {"source": "vm", "source_backend": backend, **params}
    return act(action, "new", other, params=params)


def metadata(engine: Engine, request: dict[str, Any]) -> tuple[Any, Any]:
    """What the inventory and the storage have."""
    backend = request["backend"]
    recorded = engine.volumes(backend)["new"]["metadata"]
    verified = do(engine, act("volume.verify", "new", backend))
    assert verified["result"]["agrees"], verified["result"]
    drivers = engine.worker.serving.drivers.values()
    driver = next(driver for driver in drivers if driver.backend == backend)
    [found] = [facts.metadata for facts in driver.list_volumes() if facts.name == "new"]
    return recorded, dict(found)


@pytest.mark.parametrize("backend", ["ram", "fast"])
@pytest.mark.parametrize("action", ["volume.clone", "volume.copy"])
def test_metadata_is_the_sources_unless_said_otherwise(
    engine: Engine, action: str, backend: str
) -> None:
    source(engine, backend)
    request = making(action, backend)
    told = do(engine, request)["result"]
    assert (told["metadata"], told["snapshots_not_copied"]) == (OWNED, ["s1", "s2"])
    assert metadata(engine, request) == (OWNED, OWNED)


@pytest.mark.parametrize("own", [{}, {"owner": "sales"}])
@pytest.mark.parametrize("action", ["volume.clone", "volume.copy"])
def test_metadata_of_its_own_stands_for_all(
    engine: Engine, action: str, own: dict[str, str]
) -> None:
    source(engine, "fast")
    request = making(action, "fast", metadata=own)
    assert do(engine, request)["result"]["metadata"] == own
    assert metadata(engine, request) == (own, own)


def test_settings_and_policy_are_not_copied_and_that_is_told(engine: Engine) -> None:
    settings = {"autosize_enabled": True, "autosize_max_bytes": "8M"}
    do(
        engine,
        {"action": "policy.create", "backend": "ram", "policy": "p", "params": {"rules": []}},
        create("vm", params={"size_bytes": "1M", "settings": settings}),
        act("policy.assign", "vm", policy="p"),
    )
    request = making("volume.clone", "ram")
    with engine.database.read() as connection:
        [planned] = plan(connection, Submission(requests=[parse_request(request)], actor=ADMIN))
    names = ["autosize_enabled", "autosize_max_bytes"]
    assert planned.notes == [
        f"settings of 'vm' are not copied: {', '.join(names)}",
        "the export policy of 'vm' is not assigned to it: p",
    ]
    told = do(engine, request)["result"]
    assert (told["settings_not_copied"], told["policy_not_copied"]) == (names, "p")
    new = engine.volumes("ram")["new"]
    assert not new["settings"]
    assert new["policy"] is None


def test_what_is_not_copied_is_told_in_plan_and_history(engine: Engine) -> None:
    source(engine, "ram")
    request = making("volume.clone", "ram")
    with engine.database.read() as connection:
        [planned] = plan(connection, Submission(requests=[parse_request(request)], actor=ADMIN))
    assert planned.notes == ["snapshots of 'vm' are not copied: s1, s2"]
    job_id = do(engine, request)["id"]
    with engine.database.read() as connection:
        data = connection.execute(
            select(events.c.data).where(events.c.job_id == job_id, events.c.kind == "volume.clone")
        ).scalar_one()
    assert data["before"] == {"metadata": OWNED, "snapshots": ["s1", "s2"]}
    assert data["after"]["snapshots"] == []
    assert data["after"]["metadata"] == OWNED


@pytest.mark.parametrize("action", ["volume.clone", "volume.copy"])
def test_every_event_names_the_source_as_an_object(engine: Engine, action: str) -> None:
    source(engine, "ram")
    done = do(engine, making(action, "ram"))["id"]
    again = {**making(action, "ram"), "volume": "another"}
    [canceled] = engine.submit(again).job_ids
    engine.cancel(canceled)
    with engine.database.read() as transaction:
        query = select(events.c.kind, events.c.objects).where(events.c.job_id.in_([done, canceled]))
        found = transaction.execute(query.order_by(events.c.commit_id, events.c.seq)).all()
    assert [kind for kind, _ in found] == [
        *("job.submitted", "job.started", action, "job.succeeded"),
        *("job.submitted", "job.canceled"),
    ]
    expected = {"role": "source", "kind": "volume", "name": "vm", "backend": "ram"}
    source_id = engine.volumes("ram")["vm"]["id"]
    for _, objects in found:
        assert objects == [{**expected, "id": source_id}]


def test_a_plan_names_the_snapshots_that_a_rollback_deletes(engine: Engine) -> None:
    source(engine, "ram")
    rollback = act("volume.rollback", "vm", snapshot="s1", params={"discard_newer": True})
    with engine.database.read() as connection:
        [planned] = plan(connection, Submission(requests=[parse_request(rollback)], actor=ADMIN))
    assert planned.notes == ["newer snapshots are deleted: s2"]


def test_what_builds_on_a_queued_clone_knows_its_metadata(engine: Engine) -> None:
    source(engine, "ram")
    full = {f"key{n}": "x" for n in range(62)}
    changed = act("volume.update", "new", params={"metadata": full})
    accepted = engine.submit(making("volume.clone", "ram"), changed)
    for _ in accepted.job_ids:
        engine.work()
    assert engine.states(accepted.job_ids) == ["succeeded"] * 2
    assert len(engine.volumes()["new"]["metadata"]) == 64
