"""Idempotency keys where no job is submitted, and what has become of a job that one stands for."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from orchestrator.api.keys import once
from orchestrator.domain.errors import IdempotencyMismatch
from orchestrator.domain.states import FindingKind, FindingState, Role
from orchestrator.jobs.archive import archive
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, findings
from tests.http.conftest import Api


@pytest.fixture
def http(api: Api) -> Any:
    with api.client() as client:
        yield client


def _key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def _ended_job(http: httpx.Client, **headers: str) -> dict[str, Any]:
    name = f"t-{uuid.uuid4().hex[:12]}"
    body = {"action": "volume.create", "backend": "ram", "volume": name}
    body |= {"params": {"size_bytes": 2**20}, "run_at": "2999-01-01T00:00:00Z"}  # type: ignore[dict-item]
    job: dict[str, Any] = http.post("/v1/jobs", json=body, headers=headers).json()
    assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    return {**job, "body": body}


def test_archiving_twice_under_a_key_is_archiving_once(http: httpx.Client) -> None:
    ids = [_ended_job(http)["id"] for _ in range(3)]
    key = _key(uuid.uuid4().hex)
    first = http.post("/v1/jobs/archive", json={"jobs": ids}, headers=key)
    assert (first.status_code, first.json()) == (202, {"jobs": 3})
    again = http.post("/v1/jobs/archive", json={"jobs": ids}, headers=key)
    assert (again.status_code, again.json()) == (202, {"jobs": 3})
    other = http.post("/v1/jobs/archive", json={"jobs": ids[:1]}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    # A refusal keeps no key.
    key = _key(uuid.uuid4().hex)
    assert http.post("/v1/jobs/archive", json={"jobs": [10**9]}, headers=key).status_code == 404
    assert http.post("/v1/jobs/archive", json={"jobs": ids}, headers=key).json() == {"jobs": 0}


def test_a_key_of_a_job_does_not_serve_for_archiving(http: httpx.Client) -> None:
    key = uuid.uuid4().hex
    job = _ended_job(http, **_key(key))
    answer = http.post("/v1/jobs/archive", json={"jobs": [job["id"]]}, headers=_key(key))
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_mismatch")


def test_a_key_whose_job_was_archived_says_what_has_become_of_it(
    api: Api, http: httpx.Client, tmp_path: Path
) -> None:
    key = uuid.uuid4().hex
    job = _ended_job(http, **_key(key))
    assert http.post("/v1/jobs/archive", json={"jobs": [job["id"]]}).json() == {"jobs": 1}
    with api.database.write() as connection:
        assert archive(connection, tmp_path, older_than_days=None) >= 1
    answer = http.post("/v1/jobs", json=job["body"], headers=_key(key))
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert answer.json()["job"] == job["id"]
    assert "was canceled" in answer.json()["detail"]


def test_a_repair_under_a_key_is_one_job_also_once_the_finding_is_closed(
    api: Api, http: httpx.Client
) -> None:
    with api.database.write() as connection:
        [backend] = connection.execute(backends.select()).mappings()
        finding = connection.execute(
            insert(findings)
            .values(
                backend_id=backend["id"],
                subject=uuid.uuid4().hex,
                kind=FindingKind.ORPHAN,
                state=FindingState.OPEN,
                text="there is a volume that nobody knows",
                volume="stray",
                detail={"whose": "foreign"},
                first_seen_at=db_now(),
                last_seen_at=db_now(),
                last_seen_by=1,
            )
            .returning(findings.c.id)
        ).scalar_one()
    path = f"/v1/findings/{finding}/repair"
    key = _key(uuid.uuid4().hex)
    first = http.post(path, json={"repair": "adopt", "approval": True}, headers=key)
    assert first.status_code == 202, first.text
    http.post(f"/v1/jobs/{first.json()['id']}/cancel")
    with api.database.write() as connection:
        connection.execute(
            findings.update()
            .where(findings.c.id == finding)
            .values(state=FindingState.CLOSED, closed_at=db_now())
        )
    again = http.post(path, json={"repair": "adopt", "approval": True}, headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["Idempotent-Replay"] == "true"
    other = http.post(path, json={"repair": "adopt"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    without = http.post(path, json={"repair": "adopt"})
    assert (without.status_code, without.json()["code"]) == (409, "wrong_state")


@pytest.mark.parametrize("name", ["orchestrator", "Anonymous", "command-line", "everybody"])
def test_no_token_is_called_like_what_acts_without_one(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/tokens", json={"name": name})
    assert (answer.status_code, answer.json()["field"]) == (422, "name")
    assert "choose another" in answer.json()["detail"]


def test_a_new_token_inherits_no_keys_of_its_name(api: Api, http: httpx.Client) -> None:
    name = f"n-{uuid.uuid4().hex[:8]}"
    jobs = []
    for _ in range(2):
        made = http.post("/v1/tokens", json={"name": name, "role": str(Role.OPERATOR)}).json()
        with httpx.Client(
            base_url=api.url, headers={"Authorization": f"Bearer {made['token']}"}, timeout=60
        ) as own:
            jobs.append(_ended_job(own, **_key("the-same"))["id"])
        assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204
    assert jobs[0] != jobs[1]


def test_a_token_that_is_refused_says_how_to_get_another(api: Api) -> None:
    answer = httpx.get(
        f"{api.url}/v1/jobs", headers={"Authorization": "Bearer orc_0_x"}, timeout=60
    )
    assert answer.status_code == 401
    assert "token create" in answer.json()["detail"]
    assert "within seconds" in answer.json()["detail"]


@pytest.mark.parametrize("what", ["the same", "another"])
def test_of_two_calls_at_once_under_a_key_one_is_done(migrated_url: str, what: str) -> None:
    database = Database(migrated_url, pool_size=3)
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    answers: dict[str, Any] = {}

    def do(name: str) -> dict[str, Any]:
        done.append(name)
        begun.set()
        assert go_on.wait(60)
        return {"by": name}

    def call(name: str, about: str) -> None:
        try:
            answers[name] = database.transact(
                lambda connection: once(connection, "ann", "key", about, lambda: do(name))
            )
        except IdempotencyMismatch as problem:
            answers[name] = problem.code

    first = threading.Thread(target=call, args=("first", "the same"))
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=call, args=("second", what))
    second.start()
    go_on.set()
    for thread in (first, second):
        thread.join(60)
    database.close()
    assert done == ["first"]
    assert answers["first"] == {"by": "first"}
    assert answers["second"] == ({"by": "first"} if what == "the same" else "idempotency_mismatch")


def test_a_retry_sent_twice_is_one_whatever_has_become_of_what_it_needs(
    http: httpx.Client,
) -> None:
    needed = _ended_job(http)["id"]
    body = {"action": "volume.create", "backend": "ram", "params": {"size_bytes": 2**20}}
    later = {**body, "volume": f"t-{uuid.uuid4().hex[:12]}", "run_at": "2999-01-01T00:00:00Z"}
    again = http.post(f"/v1/jobs/{needed}/retry").json()["id"]
    job = http.post("/v1/jobs", json={**later, "depends_on": [again]}).json()["id"]
    http.post(f"/v1/jobs/{job}/cancel")
    path, key = f"/v1/jobs/{job}/retry", _key(uuid.uuid4().hex)
    first = http.post(path, headers=key)
    assert first.status_code == 202
    assert http.post(f"/v1/jobs/{again}/cancel").status_code == 202
    second = http.post(path, headers=key)
    assert (second.status_code, second.json()["id"]) == (202, first.json()["id"])
    assert second.headers["Idempotent-Replay"] == "true"
    other = http.post(path, headers=_key(uuid.uuid4().hex))
    assert (other.status_code, other.json()["code"]) == (409, "dependency_failed")
