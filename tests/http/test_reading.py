"""How requests are read: names that are not known, values of another type, headers."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from orchestrator.domain.states import Role
from tests.http.conftest import Api
from tests.http.test_door import routes_of

on = pytest.mark.parametrize


@pytest.fixture
def http(api: Api) -> Any:
    with api.client() as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


def _create(name: str, **fields: Any) -> dict[str, Any]:
    params = {"size_bytes": 2**20}
    return {"action": "volume.create", "backend": "ram", "volume": name, "params": params, **fields}


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    """The sentence of a refusal, which speaks no library's language."""
    document = answer.json()
    assert (answer.status_code, document["code"]) == (status, code), answer.text
    if field is not None:
        assert document.get("field") == field, answer.text
    for theirs in ("Input should", "constrained", "pydantic", "Value error", "valid string"):
        assert theirs not in answer.text
    sentence: str = document["detail"]
    assert len(sentence.split()) > 3
    return sentence


def test_no_route_takes_a_query_parameter_that_it_does_not_know(api: Api) -> None:
    with api.client() as http:
        for method, path in routes_of(api):
            answer = http.request(method, path, params={"colour": "red"}, json=None)
            if path.startswith("/v3/"):
                assert answer.status_code == 400, (method, path, answer.text)
                assert "colour" in answer.json()["message"]
            else:
                assert "colour" in refused(answer, 422, "unknown_field", "colour")


@on(
    ("method", "path", "query", "nearest"),
    [
        ("POST", "/v1/jobs", "pan=true", "plan"),
        ("PUT", "/v1/schedules/q1", "replac=false", "replace"),
        ("GET", "/v1/jobs", "batch=3&state=failed", "batch_id"),
        ("GET", "/v1/jobs", "stat=failed", "state"),
        ("GET", "/v1/events", "volumes=x", "volume"),
        ("DELETE", "/v1/backends/ram/volumes/x", "wip=true", "wipe"),
    ],
)
def test_the_nearest_known_name_is_told(
    http: httpx.Client, name: str, method: str, path: str, query: str, nearest: str
) -> None:
    answer = http.request(method, f"{path}?{query}", json=_create(name))
    assert nearest in refused(answer, 422, "unknown_field", query.partition("=")[0])
    assert http.get("/v1/jobs", params={"volume": name}).json()["items"] == []


@on("query", ["state=", "state=failed,", "state=nope", "limit=1&limit=2", "volume="])
def test_a_filter_says_one_thing(http: httpx.Client, query: str) -> None:
    refused(http.get(f"/v1/jobs?{query}"), 422, "invalid_input", query.partition("=")[0])


@on("path", ["/v1/jobs", "/v1/batches", "/v1/queue/drain", "/v3/ram/volumes/x"])
def test_a_key_that_is_twice_in_one_object_is_refused(http: httpx.Client, path: str) -> None:
    body = b'[{"action": "volume.remove", "backend": "ram", "volume": "k1", "volume": "k2"}]'
    body = body if path == "/v1/batches" else body[1:-1]
    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "'volume' is twice" in answer.text


def test_a_key_that_is_twice_in_a_line_of_a_batch_is_refused(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/batches",
        content=b'{"action": "volume.remove", "backend": "ram", "volume": "a", "volume": "b"}\n',
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert "line 1" in refused(answer, 400, "malformed_body")


@on(
    ("field", "value"),
    [
        *(("priority", value) for value in (False, "5", 5.5, None)),
        *(("run_at", value) for value in (0, 1.5, True, "0", "2026-01-31", "2026-02-31T00:00:00Z")),
        *(("approval", value) for value in (0, 1, "true")),
        *(("max_attempts", value) for value in (True, "3")),
        ("depends_on", [True]),
        ("depends_on", "7"),
        ("snapshot", "s"),
        ("volume", 7),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_name(
    http: httpx.Client, name: str, field: str, value: Any
) -> None:
    body = _create(name) | {field: value}
    told = http.post("/v1/jobs", json=body)
    expected = "depends_on.0" if value == [True] else field
    refused(told, 422, "invalid_input", expected)
    batch = http.post("/v1/batches", json={"jobs": [body]})
    refused(batch, 422, "invalid_input", f"jobs.0.{expected}")


@on(
    ("method", "path", "body", "field"),
    [
        ("PUT", "/v1/quotas/a/ram", {"max_bytes": False}, "max_bytes"),
        ("PUT", "/v1/quotas/a/ram", {"max_volumes": "7"}, "max_volumes"),
        ("POST", "/v1/tokens", {"name": "x", "days": True}, "days"),
        ("PUT", "/v1/backends/ram/volumes/x/lock", {"owner": "h", "seconds": "5"}, "seconds"),
        ("POST", "/v1/jobs/archive", {"ended_before": 0}, "ended_before"),
        ("PATCH", "/v1/jobs/1", {"priority": True}, "priority"),
        ("DELETE", "/v1/backends/ram/volumes/x", {"wipe": 1}, "wipe"),
        ("POST", "/v1/backends/ram/volumes", {"name": "x", "size": True}, None),
    ],
)
def test_so_it_is_on_other_routes(
    http: httpx.Client, method: str, path: str, body: Any, field: str | None
) -> None:
    answer = http.request(method, path, json=body)
    refused(answer, 422, "invalid_size" if field is None else "invalid_input", field)


@on("value", ["0.5", "1700000000", "2026-01-31"])
def test_a_time_in_a_query_is_a_time(http: httpx.Client, value: str) -> None:
    answer = http.get("/v1/audit/report", params={"from": value})
    assert "2026-01-31T12:00:00Z" in refused(answer, 422, "invalid_input", "from")


def test_whole_numbers_may_be_written_with_a_point(http: httpx.Client, name: str) -> None:
    content = (
        f'{{"action": "volume.create", "backend": "ram", "volume": "{name}", "priority": 5.0,'
        ' "params": {"size_bytes": 1048576.0}}'
    )
    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["priority"]) == (202, 5), answer.text
    assert answer.json()["params"]["size_bytes"] == 2**20


def test_every_call_that_takes_a_body_says_so(api: Api) -> None:
    document = httpx.get(f"{api.url}/openapi.json", timeout=60).json()
    with api.client() as http:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if not operation.get("requestBody", {}).get("required"):
                    continue
                filled = path
                while "{" in filled:
                    before, _, rest = filled.partition("{")
                    filled = f"{before}7{rest.partition('}')[2]}"
                answer = http.request(method, filled)
                assert answer.status_code in (400, 422), (method, path, answer.text)
                assert "body" in answer.json()["detail"], answer.text
                # What is no object is told, too.
                for content in ("[]", '"x"', "7"):
                    kind = {"Content-Type": "application/json"}
                    answer = http.request(method, filled, content=content, headers=kind)
                    assert answer.status_code == 422, (method, path, answer.text)
                    assert answer.json()["field"], answer.text


def test_unknown_fields_of_a_body_are_told_with_the_nearest(http: httpx.Client) -> None:
    answer = http.put("/v1/backends/ram/volumes/x/lock", json={"owner": "h", "second": 5})
    assert "'seconds'" in refused(answer, 422, "unknown_field", "second")
    answer = http.put(
        "/v1/schedules/x",
        json={"cron": "0 * * * *", "action": "snapshot.create", "keep": {"dayly": 1}},
    )
    assert "'daily'" in refused(answer, 422, "unknown_field", "keep.dayly")


def test_sentences_say_what_to_do(http: httpx.Client, name: str) -> None:
    blank = http.post("/v1/jobs", json=_create(name), headers={"Idempotency-Key": "a b"})
    assert "without blanks" in refused(blank, 422, "invalid_input", "Idempotency-Key")
    path = http.get("/v1/backends/ram/volumes/%FF")
    assert "UTF-8" in refused(path, 422, "invalid_name", "volume")
    gone = http.delete("/v1/tokens/nope")
    assert "token list" in refused(gone, 404, "not_found", "token")


def test_another_method_is_told_which_there_are(http: httpx.Client) -> None:
    answer = http.put("/v1/jobs")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    one = http.put("/v1/backends/ram/volumes/x")
    assert one.headers["Allow"] == "DELETE, GET, HEAD, PATCH"
    nas = http.put("/v3/ram/volumes/x")
    assert (nas.status_code, list(nas.json())) == (405, ["message"])
    assert nas.headers["Allow"] == "DELETE, GET, HEAD, PATCH, POST"


@on(
    "lines",
    [
        ["wait=1"],
        ["Wait=1"],
        ['wait="1"'],
        ["wait = 1"],
        ["respond-async", "wait=1"],
        ['return=minimal; foo="a, wait=0", wait=1, wait=0'],
        ["handling=lenient,wait=1;x=y"],
    ],
)
def test_a_wish_to_wait_may_be_written_in_all_ways_of_the_rfc(
    http: httpx.Client, name: str, lines: list[str]
) -> None:
    body = _create(name, run_at="2999-01-01T00:00:00Z")
    for path in ("/v1/jobs", "/v1/jobs?plan=false"):
        headers = [("Prefer", line) for line in lines]
        answer = http.post(path, json=body, headers=headers)
        assert answer.headers.get("Preference-Applied") == "wait=1", answer.text
        body["volume"] += "x"


@on("header", ["Idempotency-Key", "Reason", "Content-Type", "Last-Event-ID"])
@on(("method", "path"), [("POST", "/v1/jobs"), ("GET", "/v1/events"), ("GET", "/v3/ram/volumes")])
def test_a_header_that_means_something_is_there_once(
    http: httpx.Client, name: str, method: str, path: str, header: str
) -> None:
    twice = [(header, "application/json"), (header.lower(), "application/json")]
    body = None if method == "GET" else json.dumps(_create(name)).encode()
    answer = http.request(method, path, headers=twice, content=body)
    assert answer.status_code == (400 if path.startswith("/v3") else 422)
    assert header.lower() in answer.text.lower()
    assert "twice" in answer.text
    assert http.get("/v1/jobs", params={"volume": name}).json()["items"] == []


@on("line", ["wait", "wait=x", "wait=-1", 'foo="wait=1"', "waiting=1", "no-wait=1"])
def test_what_is_no_wish_to_wait_is_none(http: httpx.Client, name: str, line: str) -> None:
    body = _create(name, run_at="2999-01-01T00:00:00Z")
    answer = http.post("/v1/jobs", json=body, headers={"Prefer": line})
    assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, None)


def test_a_reader_is_told_of_the_role_before_the_body(api: Api, name: str) -> None:
    with api.client(Role.READER) as http:
        answer = http.post("/v1/jobs", json=_create(name))
        refused(answer, 403, "not_allowed")
