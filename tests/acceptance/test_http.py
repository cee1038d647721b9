"""HTTP, as clients use it, against the whole running product."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Product

pytestmark = pytest.mark.either_database

MIB = 2**20


@pytest.fixture
def http(product: Product) -> Iterator[httpx.Client]:
    with product.client() as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name no other test uses: the product is shared."""
    return f"t-{uuid.uuid4().hex[:12]}"


def _submit(
    http: httpx.Client, body: dict[str, Any], wait: int = 60, key: str | None = None
) -> Any:
    headers = {"Prefer": f"wait={wait}"} | ({"Idempotency-Key": key} if key else {})
    return http.post("/v1/jobs", json=body, headers=headers)


def _create(name: str, backend: str = "fast", size: int | str = MIB) -> dict[str, Any]:
    return {
        "action": "volume.create",
        "backend": backend,
        "volume": name,
        "params": {"size_bytes": size},
    }


def test_a_job_is_accepted_waited_for_and_read(http: httpx.Client, name: str) -> None:
    accepted = http.post("/v1/jobs", json=_create(name))
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["Location"] == f"/v1/jobs/{job['id']}"
    ended = http.get(f"/v1/jobs/{job['id']}/wait", params={"timeout": 60}).json()
    assert ended["state"] == "succeeded"
    assert ended["result"]["size_bytes"] == MIB
    assert http.get(f"/v1/jobs/{job['id']}").json() == ended
    events = http.get(f"/v1/jobs/{job['id']}/events").json()["items"]
    assert [event["kind"] for event in events] == [
        "job.submitted",
        "job.started",
        "volume.create",
        "job.succeeded",
    ]


def test_prefer_wait_answers_200_with_the_ended_job(http: httpx.Client, name: str) -> None:
    answer = _submit(http, _create(name))
    assert answer.status_code == 200
    assert answer.json()["state"] == "succeeded"
    held = _submit(http, _create(name + "x") | {"run_at": "2999-01-01T00:00:00Z"}, wait=1)
    assert held.status_code == 202
    assert held.json()["waiting_on"]["kind"] == "start_time"
    http.post(f"/v1/jobs/{held.json()['id']}/cancel")


def _delete(http: httpx.Client, path: str, body: Any, **headers: str) -> httpx.Response:
    return http.request("DELETE", path, json=body, headers=headers)


def test_a_delete_does_what_its_body_asks_for(http: httpx.Client, name: str) -> None:
    base = f"/v1/backends/fast/volumes/{name}"
    assert _submit(http, _create(name)).status_code == 200
    later = {"run_at": "2999-01-01T00:00:00Z", "reason": "old"}
    waiting = _delete(http, base, later, **{"Idempotency-Key": name})
    assert waiting.status_code == 202
    assert waiting.json()["waiting_on"]["kind"] == "start_time"
    assert waiting.json()["reason"] == "old"
    # The key stands for the body, too.
    other = _delete(http, base, {"wipe": True}, **{"Idempotency-Key": name})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    again = _delete(http, base, later, **{"Idempotency-Key": name})
    assert again.json()["id"] == waiting.json()["id"]
    http.post(f"/v1/jobs/{waiting.json()['id']}/cancel")
    held = _delete(http, base, {"approval": True}).json()
    assert held["waiting_on"]["kind"] == "approval"
    http.post(f"/v1/jobs/{held['id']}/cancel")
    unknown = _delete(http, base, {"wip": True})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_field")
    twice = http.request("DELETE", base, params={"wipe": False}, json={"wipe": True})
    assert (twice.status_code, twice.json()["field"]) == (422, "wipe")
    removed = _delete(http, base, {"wipe": True}, Prefer="wait=60").json()
    assert (removed["state"], removed["result"]["wiped"]) == ("succeeded", True)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tokens/99999",
        "/v1/quotas/nobody/fast",
        "/v1/schedules/nothing",
        "/v1/backends/fast/volumes/nothing/lock",
        "/v3/fast/volumes/nothing",
    ],
)
def test_a_delete_that_takes_no_body_refuses_one(http: httpx.Client, path: str) -> None:
    refused = _delete(http, path, {"force": True})
    assert refused.status_code in (400, 422), refused.text
    assert "takes no body" in refused.text
    # Without one it is only not found.
    assert http.delete(path).status_code != refused.status_code


def test_verbs_on_resources_are_jobs(http: httpx.Client, name: str) -> None:
    wait = {"Prefer": "wait=60"}
    base = f"/v1/backends/fast/volumes/{name}"
    body = {"name": name, "size": "1M", "metadata": {"owner": "me"}}
    assert http.post("/v1/backends/fast/volumes", json=body, headers=wait).status_code == 200
    grown = http.patch(base, json={"size_bytes": "2M"}, headers=wait).json()
    assert (grown["action"], grown["result"]["size_bytes"]) == ("volume.grow", 2 * MIB)
    changed = http.patch(base, json={"metadata": {"owner": "you"}}, headers=wait).json()
    assert changed["result"]["metadata"] == {"owner": "you"}
    snapshot = http.post(f"{base}/snapshots", json={"name": "s"}, headers=wait).json()
    assert snapshot["state"] == "succeeded"
    assert http.get(f"{base}/snapshots/s").json()["size_bytes"] == 2 * MIB
    clone = {"source": name, "snapshot": "s"}
    cloned = http.post(f"{base}-c/clone", json=clone, headers=wait).json()
    assert cloned["state"] == "succeeded"
    assert http.get(f"{base}-c").json()["parent_snapshot"] == "s"
    refused = http.delete(base, headers=wait)
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert http.delete(f"{base}/snapshots/s", headers=wait).json()["state"] == "succeeded"
    removed = http.delete(base, params={"wipe": True}, headers=wait).json()
    told = removed["result"]
    assert told["wiped"] is True
    assert told["wiped_bytes"] >= 2 * MIB
    assert http.get(base).status_code == 404
    many = http.patch(f"{base}-c", json={"size_bytes": "9M", "name": "other"})
    assert (many.status_code, many.json()["code"]) == (422, "invalid_input")


def test_a_name_with_slashes_is_one_segment_of_the_path(http: httpx.Client, name: str) -> None:
    odd = f"{name}/a:b/snapshots"
    _submit(http, _create(odd))
    encoded = httpx.URL(f"/v1/backends/fast/volumes/{odd.replace('/', '%2F')}")
    assert http.get(encoded).json()["name"] == odd
    assert http.get(f"/v1/backends/fast/volumes/{odd}").status_code == 404


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("exists", {}, 409, "already_exists"),
    ("shrink", {"action": "volume.grow", "params": {"size_bytes": 1}}, 422, "shrink_refused"),
    ("bad name", {"volume": "a/../b"}, 422, "invalid_name"),
    ("unknown parameter", {"params": {"size": 1, "x": 1}}, 422, "unknown_parameter"),
    ("negative size", {"volume": "new", "params": {"size": -1}}, 422, "invalid_size"),
    ("no size", {"volume": "new", "params": {"size": "10X"}}, 422, "invalid_size"),
    ("too large", {"volume": "new", "params": {"size": "900P"}}, 409, "insufficient_capacity"),
    ("unknown backend", {"backend": "nowhere"}, 404, "unknown_backend"),
    ("unknown action", {"action": "volume.explode"}, 422, "unknown_action"),
    ("nothing", {"action": None}, 422, "unknown_action"),
]


@pytest.mark.parametrize(
    ("change", "status", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_refusal_is_a_problem_document_and_changes_nothing(
    http: httpx.Client, name: str, change: dict[str, Any], status: int, code: str
) -> None:
    _submit(http, _create(name))
    before = http.get("/v1/jobs", params={"limit": 1}).json()["items"][0]["id"]
    answer = http.post("/v1/jobs", json=_create(name) | change)
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["field"]
    assert document["detail"]
    assert http.get("/v1/jobs", params={"limit": 1}).json()["items"][0]["id"] == before


def test_a_body_that_is_no_json_is_refused(http: httpx.Client) -> None:
    for kind in ("application/json", "text/plain"):
        for path in ("/v1/jobs", "/v1/batches"):
            answer = http.post(path, content=b"{no", headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


def test_the_same_key_makes_no_second_job(http: httpx.Client, name: str) -> None:
    key = uuid.uuid4().hex
    first = _submit(http, _create(name), key=key)
    again = _submit(http, _create(name), key=key)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotent-Replay"] == "true"
    other = _submit(http, _create(name + "x"), key=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")


def test_200_creates_on_files_leave_200_files_once(
    http: httpx.Client, product: Product, name: str
) -> None:
    body = {"jobs": [_create(f"{name}/{n}", size=MIB + 4096 * n) for n in range(200)]}
    headers = {"Idempotency-Key": uuid.uuid4().hex, "Prefer": "wait=90"}
    first = http.post("/v1/batches", json=body, headers=headers).json()
    assert (first["state"], first["succeeded"]) == ("succeeded", 200), product.log.read_text()
    again = http.post("/v1/batches", json=body, headers=headers).json()
    assert (again["id"], again["job_ids"]) == (first["id"], first["job_ids"])
    images = [path for path in product.volumes.rglob("*.img") if path.name.startswith(name)]
    assert sorted(path.stat().st_size for path in images) == [MIB + 4096 * n for n in range(200)]
    listed: list[int] = []
    cursor = None
    while True:
        parameters = {"limit": 70} | ({"cursor": cursor} if cursor else {})
        page = http.get(f"/v1/batches/{first['id']}/jobs", params=parameters).json()
        listed += [job["id"] for job in page["items"]]
        if (cursor := page["cursor"]) is None:
            break
    assert listed == first["job_ids"]


def test_a_batch_with_one_bad_row_is_refused_whole(http: httpx.Client, name: str) -> None:
    lines = [_create(f"{name}-{n}") for n in range(3)] + [_create("bad name")]
    import json

    body = "\n".join(json.dumps(line) for line in lines)
    answer = http.post(
        "/v1/batches", content=body, headers={"Content-Type": "application/x-ndjson"}
    )
    document = answer.json()
    assert (answer.status_code, document["code"]) == (422, "invalid_name")
    assert (document["index"], document["line"]) == (3, 4)
    assert http.get(f"/v1/backends/fast/volumes/{name}-0").status_code == 404


def test_a_bad_row_of_a_json_batch_is_named(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/batches", json={"jobs": [_create(name), _create(name, size="10X")]})
    document = answer.json()
    assert (answer.status_code, document["code"]) == (422, "invalid_size")
    assert (document["index"], document["field"]) == (1, "jobs.1.params.size_bytes")


BAD_VALUES: list[tuple[str, str, dict[str, Any]]] = [
    ("post", "/v1/jobs", {"json": _create("t") | {"run_at": "9999-12-31T23:59:59-23:00"}}),
    ("post", "/v1/jobs", {"json": _create("t") | {"run_at": "0001-01-01T00:00:00+23:00"}}),
    ("post", "/v1/jobs", {"json": _create("t") | {"depends_on": ["9" * 40]}}),
    ("post", "/v1/jobs", {"json": _create("t") | {"reason": "a\0b"}}),
    ("get", "/v1/jobs", {"params": {"submitted_by": "\0"}}),
    ("get", "/v1/backends/fast/volumes", {"params": {"prefix": "\0"}}),
    ("get", "/v1/backends/fast/volumes", {"params": {"cursor": "ImFcdTAwMDBiIg"}}),
    ("get", "/v1/backends/fast/volumes/%00", {}),
    ("get", "/v1/backends/fast/volumes/%ff", {}),
    ("get", "/v1/backends/fast/volumes/%2e%2e%2fx", {}),
    ("get", "/v1/events", {"params": {"kind": "\0"}}),
    (
        "get",
        "/v1/events",
        {"headers": {"Accept": "text/event-stream", "Last-Event-ID": "9" * 20}},
    ),
]


@pytest.mark.parametrize(("method", "path", "more"), BAD_VALUES)
def test_no_value_makes_the_service_fail(
    http: httpx.Client, method: str, path: str, more: dict[str, Any]
) -> None:
    answer = http.request(method, path, **more)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in ("invalid_input", "invalid_name")


def test_a_removal_can_be_planned(http: httpx.Client, name: str) -> None:
    _submit(http, _create(name))
    path = f"/v1/backends/fast/volumes/{name}"
    planned = http.delete(path, params={"plan": True, "wipe": True})
    assert planned.json()["jobs"][0]["params"] == {"wipe": True}
    assert http.get(path).status_code == 200


def test_a_plan_tells_what_would_happen_and_changes_nothing(http: httpx.Client, name: str) -> None:
    body = {
        "jobs": [
            _create(name),
            {"action": "volume.grow", "backend": "fast", "volume": name, "params": {"size": "2M"}},
        ]
    }
    planned = http.post("/v1/batches", params={"plan": True}, json=body)
    assert planned.status_code == 200
    assert [job["action"] for job in planned.json()["jobs"]] == ["volume.create", "volume.grow"]
    assert http.get(f"/v1/backends/fast/volumes/{name}").status_code == 404


def test_locks_answer_at_once_and_one_host_holds_them(http: httpx.Client, name: str) -> None:
    _submit(http, _create(name))
    lock = f"/v1/backends/fast/volumes/{name}/lock"
    assert http.get(lock).status_code == 404
    assert http.put(lock, json={"owner": "alpha"}).json()["owner"] == "alpha"
    assert http.put(lock, json={"owner": "alpha", "seconds": 60}).json()["expires_at"]
    refused = http.put(lock, json={"owner": "beta"})
    assert (refused.status_code, refused.json()["lock_owner"]) == (409, "alpha")
    mine = {"backend": "fast", "volume": name}
    listed = http.get("/v1/locks", params=mine).json()
    assert listed == {"items": [{**http.get(lock).json(), **mine}], "cursor": None}
    assert http.get("/v1/locks", params={**mine, "owner": "beta"}).json()["items"] == []
    unknown = http.get("/v1/locks", params={"backend": "nope"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_backend")
    assert http.delete(lock, params={"owner": "beta"}).status_code == 409
    assert http.delete(lock, params={"force": True}).json()["field"] == "reason"
    broken = http.delete(lock, params={"force": True, "reason": "alpha is gone"})
    assert broken.status_code == 204
    assert http.get(lock).status_code == 404


def test_roles_and_tokens(http: httpx.Client, product: Product, name: str) -> None:
    made = http.post("/v1/tokens", json={"name": name, "role": "reader"}).json()
    reader = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=product.url) as other:
        assert other.get("/v1/jobs").json()["code"] == "not_authenticated"
        assert other.get("/v1/jobs", headers=reader).status_code == 200
        refused = other.post("/v1/jobs", json=_create(name), headers=reader)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert other.get("/v1/tokens", headers=reader).status_code == 403
    listed = http.get("/v1/tokens").json()["items"]
    assert made["token"] not in str(listed)
    assert http.delete(f"/v1/tokens/{made['id']}").status_code == 204
    assert http.delete(f"/v1/tokens/{made['id']}").status_code == 404


def test_pages_of_jobs_and_volumes_are_complete(http: httpx.Client, name: str) -> None:
    body = {"jobs": [_create(f"{name}-{n:02d}", "ram") for n in range(25)]}
    http.post("/v1/batches", json=body, headers={"Prefer": "wait=60"})
    names: list[str] = []
    parameters: dict[str, Any] = {"prefix": name, "limit": 10}
    while True:
        page = http.get("/v1/backends/ram/volumes", params=parameters).json()
        names += [volume["name"] for volume in page["items"]]
        if page["cursor"] is None:
            break
        parameters["cursor"] = page["cursor"]
    assert names == [f"{name}-{n:02d}" for n in range(25)]
    assert http.get("/v1/jobs", params={"cursor": "nonsense"}).json()["code"] == "invalid_input"


def test_drained_backends_hold_work_back_and_say_so(http: httpx.Client, name: str) -> None:
    wait = {"Prefer": "wait=60"}
    assert http.post("/v1/backends/ram/drain", headers=wait).json()["state"] == "succeeded"
    held = _submit(http, _create(name, "ram"), wait=0).json()
    shown = http.get(f"/v1/jobs/{held['id']}").json()
    assert (shown["state"], shown["waiting_on"]["kind"]) == ("queued", "draining_backend")
    assert http.post("/v1/backends/ram/resume", headers=wait).json()["state"] == "succeeded"
    ended = http.get(f"/v1/jobs/{held['id']}/wait", params={"timeout": 60}).json()
    assert ended["state"] == "succeeded"


def test_the_event_feed_has_no_gaps_and_resumes(http: httpx.Client, name: str) -> None:
    start = 0
    while items := http.get("/v1/events", params={"after": start, "limit": 1000}).json()["items"]:
        start = items[-1]["number"]
    job_id = _submit(http, _create(name)).json()["id"]
    seen: list[dict[str, Any]] = []
    ids: list[str] = []
    with http.stream(
        "GET",
        "/v1/events",
        headers={"Accept": "text/event-stream", "Last-Event-ID": str(start)},
    ) as stream:
        import json

        for line in stream.iter_lines():
            if line.startswith("id: "):
                ids.append(line.removeprefix("id: "))
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if seen[-1]["kind"] == "job.succeeded" and seen[-1]["job_id"] == job_id:
                    break
    numbers = [event["number"] for event in seen]
    assert numbers == list(range(start + 1, start + 1 + len(seen)))
    page = http.get("/v1/events", params={"after": start, "limit": len(seen)}).json()
    assert page["items"] == seen
    assert page["next_after"] == numbers[-1]
    assert ids == [f"{page['epoch']}-{number}" for number in numbers]


@pytest.mark.parametrize("streamed", [True, False])
def test_event_numbers_of_another_life_of_the_database_are_gone(
    http: httpx.Client, streamed: bool
) -> None:
    page = http.get("/v1/events", params={"limit": 1}).json()
    epoch = page["epoch"]

    def ask(epoch: int | None, after: int) -> httpx.Response:
        if streamed:
            left = str(after) if epoch is None else f"{epoch}-{after}"
            headers = {"Accept": "text/event-stream", "Last-Event-ID": left}
            return http.get("/v1/events", headers=headers)
        params = {"after": after} if epoch is None else {"after": after, "epoch": epoch}
        return http.get("/v1/events", params=params)

    for answer in (ask(epoch + 1, 1), ask(epoch - 1, 1), ask(None, 2**50), ask(epoch, 2**50)):
        assert (answer.status_code, answer.json()["code"]) == (410, "epoch_changed")
        assert answer.json()["epoch"] == epoch
    go_on = {"epoch": epoch, "after": answer.json()["after"]}
    assert http.get("/v1/events", params=go_on).status_code == 200


def test_health_readiness_metrics_and_documentation_need_no_token(product: Product) -> None:
    with httpx.Client(base_url=product.url, timeout=60) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"database": "ok", "broker": "ok"}
        assert 'orchestrator_workers_alive{backend="fast"} 2' in client.get("/metrics").text
        assert client.get("/docs").status_code == 200


def test_a_volume_is_attached_on_this_host_and_protected(
    http: httpx.Client, product: Product, name: str
) -> None:
    can = http.get("/v1/backends/fast").json()["capabilities"]
    if "attach" not in can:
        pytest.skip("loop devices need root and /dev/loop-control")
    _submit(http, _create(name, size="4M"))
    wait = {"Prefer": "wait=60"}
    at = f"/v1/backends/fast/volumes/{name}/attachments/{product.host}"
    attached = http.put(at, headers=wait).json()
    assert attached["state"] == "succeeded", attached
    assert attached["result"]["device"].startswith("/dev/loop")
    refused = http.delete(f"/v1/backends/fast/volumes/{name}")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    grown = http.patch(f"/v1/backends/fast/volumes/{name}", json={"size": "8M"}, headers=wait)
    assert grown.json()["state"] == "succeeded"
    with open(attached["result"]["device"], "rb") as device:  # noqa: PTH123 - a block device
        assert device.seek(0, 2) == 8 * MIB
    assert http.post(f"{at}/open", json={"exclusive": True}, headers=wait).status_code == 200
    assert http.get(at).json()["opening"] == "exclusive"
    assert http.delete(at, headers=wait).json()["state"] == "succeeded"
    nowhere = f"/v1/backends/fast/volumes/{name}/attachments/moon"
    no_host = http.put(nowhere)
    assert (no_host.status_code, no_host.json()["code"]) == (409, "host_unavailable")
