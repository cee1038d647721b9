"""The client's two drivers against a real HTTP server that drops, refuses and streams."""

import asyncio
import inspect
import json
import keyword
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import parse_request
from orchestrator.client import AsyncClient, Client, DocumentClient, kinds
from orchestrator.contract.jobs import Job
from orchestrator.contract.schedules import Schedule
from orchestrator.domain.errors import (
    Canceled,
    Conflict,
    EpochChanged,
    Gone,
    IdempotencyMismatch,
    InvalidInput,
    InvalidName,
    NoSpace,
    NotAuthenticated,
    Problem,
    Unavailable,
    UnknownVolume,
    WrongState,
)
from orchestrator.domain.states import WaitingKind

Reply = Callable[[BaseHTTPRequestHandler], None]


def answer(body: Any, status: int = 200, kind: str = "application/json") -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def refuse(status: int, code: str, **members: Any) -> Reply:
    document = {"type": "about:blank", "status": status, "code": code, "detail": "why", **members}
    return answer(document, status, "application/problem+json")


def drop(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer: the request has arrived, its fate is unknown."""
    handler.close_connection = True


def stream(*chunks: str) -> Reply:
    """Send the chunks as a stream that then breaks off."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(chunk.encode())
            handler.wfile.flush()
        handler.close_connection = True

    return reply


class Service:
    """A server that gives the replies of a script in turn and notes what it was asked."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                service.requests.append(
                    {
                        "method": self.command,
                        "path": self.path,
                        "headers": dict(self.headers.items()),
                        "body": self.rfile.read(length),
                    }
                )
                service.script.pop(0)(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


Use = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=["blocking", "awaited"])
def use(request: pytest.FixtureRequest, service: Service) -> Use:
    """Runs ``lambda client: client.job(1)`` on a client of either kind; lists become lists."""

    def blocking(work: Callable[[Any], Any]) -> Any:
        with Client(service.url, "secret") as client:
            found = work(client)
            return list(found) if isinstance(found, Iterator) else found

    async def awaited(work: Callable[[Any], Any]) -> Any:
        async with AsyncClient(service.url, "secret") as client:
            found = work(client)
            return await found if inspect.isawaitable(found) else [one async for one in found]

    if request.param == "blocking":
        return blocking
    return lambda work: asyncio.run(awaited(work))


AT = "2026-01-01T00:00:00Z"


def job(**fields: Any) -> dict[str, Any]:
    return {
        "id": 7, "action": "volume.create", "backend": "fast", "params": {}, "state": "queued",
        "attempt": 0, "max_attempts": 5, "submitted_by": "ops", "created_at": AT,
        "finished_at": None, **fields,
    }  # fmt: skip


def batch(**fields: Any) -> dict[str, Any]:
    return {
        "id": 7, "state": "running", "total": 1, "succeeded": 0, "failed": 0, "canceled": 0,
        "unfinished": 1, "submitted_by": "ops", "created_at": AT, "finished_at": None, **fields,
    }  # fmt: skip


ENDED = job(state="succeeded", finished_at=AT)
VOLUME = {
    "id": "v", "backend": "fast", "name": "vm1", "state": "available", "size_bytes": 1,
    "requested_bytes": 1, "used_bytes": 0, "metadata": {}, "parameters": {}, "settings": {},
    "created_at": AT, "changed_at": AT,
}  # fmt: skip


def test_a_submission_is_sent_as_the_service_reads_it(service: Service, use: Use) -> None:
    service.script = [answer(job(), 202)]
    found = use(lambda c: c.submit("volume.create", "fast", volume="a/b", size="10G", priority=-3))
    [request] = service.requests
    assert found == Job.model_validate(job())
    assert (request["method"], request["path"]) == ("POST", "/v1/jobs")
    assert request["headers"]["Authorization"] == "Bearer secret"
    assert json.loads(request["body"]) == {
        "action": "volume.create",
        "backend": "fast",
        "volume": "a/b",
        "params": {"size": "10G"},
        "priority": -3,
    }


def test_an_action_is_a_method_of_its_room(service: Service, use: Use) -> None:
    service.script = [answer(job(), 202), answer(ENDED)]
    found = use(
        lambda c: c.volume.create(
            "fast", "a/b", size="10G", settings={"compression": True}, priority=-3, wait=20,
            run_at=datetime(2026, 1, 1, tzinfo=UTC), idempotency_key="k",
        )
    )  # fmt: skip
    request = service.requests[0]
    assert found.ended
    assert (request["method"], request["path"]) == ("POST", "/v1/jobs")
    assert request["headers"]["Idempotency-Key"] == "k"
    assert request["headers"]["Prefer"] in ("wait=20", "wait=19")
    assert json.loads(request["body"]) == {
        "action": "volume.create",
        "backend": "fast",
        "volume": "a/b",
        "params": {"size": "10G", "settings": {"compression": True}},
        "priority": -3,
        "run_at": "2026-01-01T00:00:00+00:00",
    }


#: What an argument may be, by its name; text or a list of it elsewhere.
ARGUMENTS = {
    **{"size": "1G", "length": "1G", "offset": 512, "finding": 1, "what": ["size"]},
    **{"image": "/srv/a.raw", "target": "/srv/a.raw", "metadata": {"owner": "ops"}},
    **{"rules": ["10.0.0.1"], "rule": "10.0.0.1", "sha256": "0" * 64, "format": "raw"},
    **{"parameters": {"a": "b"}, "settings": {"compression": True}},
}


@pytest.mark.parametrize("name", ACTIONS)
def test_what_a_method_sends_is_what_its_action_takes(service: Service, name: str) -> None:
    service.script = [answer(job(), 202)]
    kind, verb = name.split(".")
    with Client(service.url, "secret") as client:
        room = getattr(client, kind)
        method = getattr(room, f"{verb}_" if keyword.iskeyword(verb) else verb)
        given: dict[str, Any] = {}
        for argument in inspect.signature(method).parameters.values():
            if argument.kind is not inspect.Parameter.VAR_KEYWORD:
                flag = argument.default is False
                text = ["fast"] if argument.annotation == "Sequence[str]" else "fast"
                given[argument.name] = flag or ARGUMENTS.get(argument.name, text)
        method(**given)
    sent = parse_request(json.loads(service.requests[0]["body"]))
    assert sent.action == name
    assert sent.params.model_fields_set == set(sent.params.__class__.model_fields)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_signatures_name_what_a_method_returns(kind: type[Client | AsyncClient]) -> None:
    client = kind("http://127.0.0.1:1", "token")
    returned = {
        client.job: "Job",
        client.volume.create: "Job",
        client.jobs: "Listing[Job]",
        client.follow_events: "Iterator[FollowedEvent]",
        client.release_lock: "None",
    }
    for method, annotation in returned.items():
        assert inspect.signature(method).return_annotation == annotation


def test_a_method_shows_what_it_takes() -> None:
    with Client("http://127.0.0.1:1", "secret") as client:
        grow = client.volume.grow
    assert list(inspect.signature(grow).parameters) == [
        *("backend", "name", "host", "size", "options"),
    ]
    assert "``size``: the new size" in (inspect.getdoc(grow) or "")


def test_a_submission_whose_connection_broke_is_sent_again_with_its_key(
    service: Service, use: Use
) -> None:
    service.script = [drop, drop, answer(job(), 202)]
    assert use(lambda c: c.submit("volume.create", "fast")).id == 7
    keys = {request["headers"]["Idempotency-Key"] for request in service.requests}
    bodies = {request["body"] for request in service.requests}
    assert len(service.requests) == 3
    assert len(keys) == len(bodies) == 1


def test_every_submission_has_a_key_of_its_own(service: Service, use: Use) -> None:
    service.script = [answer(job(), 202), answer(job(), 202)]
    use(lambda c: c.submit("volume.create", "fast"))
    use(lambda c: c.submit("volume.create", "fast"))
    first, second = (request["headers"]["Idempotency-Key"] for request in service.requests)
    assert first != second


@pytest.mark.parametrize(
    "call",
    [lambda c: c.cancel(7), lambda c: c.break_lock("fast", "vm1", "its host is dead")],
    ids=["a cancel", "breaking a lock, which may be another's by then"],
)
def test_a_call_that_may_not_be_repeated_is_not_sent_again(
    service: Service, use: Use, call: Callable[[Any], Any]
) -> None:
    service.script = [drop]
    with pytest.raises(Unavailable) as caught:
        use(call)
    assert len(service.requests) == 1
    assert caught.value.facts["may_have_arrived"] is True


def test_a_broken_connection_is_told_after_some_tries(service: Service, use: Use) -> None:
    service.script = [drop] * 5
    with pytest.raises(Unavailable):
        use(lambda c: c.job(7))
    assert len(service.requests) == 5


def test_a_service_that_is_not_there_is_told_at_once() -> None:
    gone = Service()
    gone.close()
    with (
        Client(gone.url, "secret") as client,
        pytest.raises(Unavailable, match="ORCHESTRATOR_URL") as caught,
    ):
        client.wait(7, timeout=60)
    assert gone.url in caught.value.detail
    assert caught.value.exit_status == 7
    assert caught.value.facts["may_have_arrived"] is False


def test_a_problem_document_becomes_its_class(service: Service, use: Use) -> None:
    service.script = [refuse(404, "unknown_volume", field="volume", backend="fast")]
    with pytest.raises(UnknownVolume) as caught:
        use(lambda c: c.volume.get("fast", "vm1"))
    problem = caught.value
    assert (problem.detail, problem.field, problem.facts) == ("why", "volume", {"backend": "fast"})
    assert problem.document()["status"] == 404


def test_a_code_of_a_newer_service_is_judged_by_its_status(service: Service, use: Use) -> None:
    service.script = [refuse(409, "frozen_solid")]
    with pytest.raises(Conflict) as caught:
        use(lambda c: c.submit("volume.create", "fast"))
    assert caught.value.exit_status == 4
    assert caught.value.document()["code"] == "frozen_solid"
    assert Conflict.code == "conflict"


def test_an_idempotency_mismatch_is_a_conflict_of_its_own(service: Service, use: Use) -> None:
    service.script = [refuse(409, "idempotency_mismatch")]
    with pytest.raises(IdempotencyMismatch):
        use(lambda c: c.submit("volume.create", "fast", idempotency_key="k"))
    assert service.requests[0]["headers"]["Idempotency-Key"] == "k"


@pytest.mark.parametrize("status", [502, 504])
def test_what_a_proxy_says_is_no_fault_of_the_request(
    service: Service, use: Use, status: int
) -> None:
    service.script = [answer(b"<html>", status, "text/html")]
    with pytest.raises(Unavailable):
        use(lambda c: c.job(7))


def test_another_service_at_the_address_is_told_apart(service: Service, use: Use) -> None:
    service.script = [answer(b"<html>hello</html>", 200, "text/html")]
    with pytest.raises(Unavailable, match="is not the storage orchestrator"):
        use(lambda c: c.job(7))


def test_a_missing_token_is_named(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORCHESTRATOR_TOKEN", "ORCHESTRATOR_DATA", "ORCHESTRATOR_URL"):
        monkeypatch.delenv(name, raising=False)
    service.script = [refuse(401, "not_authenticated")]
    with (
        Client(service.url) as client,
        pytest.raises(NotAuthenticated, match="ORCHESTRATOR_TOKEN"),
    ):
        client.job(7)
    assert "Authorization" not in service.requests[0]["headers"]


@pytest.mark.parametrize(
    ("volume", "path"),
    [("a/b", "a%2Fb"), ("..", "%2E%2E"), (".", "%2E"), ("a+b:c", "a%2Bb%3Ac"), ("é?", "%C3%A9%3F")],
)
def test_a_name_is_one_segment_of_the_path(
    service: Service, use: Use, volume: str, path: str
) -> None:
    service.script = [answer(VOLUME)]
    use(lambda c: c.volume.get("fast", volume))
    assert service.requests[0]["path"] == f"/v1/backends/fast/volumes/{path}"


def test_an_empty_name_is_refused_before_it_names_a_list(use: Use) -> None:
    with pytest.raises(InvalidName):
        use(lambda c: c.volume.get("fast", ""))


def test_waiting_outlives_a_restart(service: Service, use: Use) -> None:
    service.script = [
        answer(job(), 202),
        drop,
        refuse(503, "unavailable"),
        answer(job(state="running")),
        answer(ENDED),
    ]
    assert use(lambda c: c.submit("volume.create", "fast", wait=60)) == Job.model_validate(ENDED)


def test_waiting_begins_in_the_request_that_submits(service: Service, use: Use) -> None:
    service.script = [answer(ENDED)]
    assert use(lambda c: c.submit("volume.create", "fast", wait=20)) == Job.model_validate(ENDED)
    assert service.requests[0]["headers"]["Prefer"] in ("wait=20", "wait=19")


def test_a_wait_that_is_over_returns_the_job_as_it_is(service: Service, use: Use) -> None:
    service.script = [answer(job(state="running"))] * 9
    assert use(lambda c: c.wait(7, timeout=0.2)).state == "running"


def test_a_wait_for_nothing_looks_once(service: Service, use: Use) -> None:
    service.script = [answer(job())]
    use(lambda c: c.wait(7, timeout=0))
    assert len(service.requests) == 1


def test_a_watcher_sees_every_look(service: Service, use: Use) -> None:
    service.script = [answer(job(state="running")), answer(ENDED)]
    seen: list[str] = []
    use(lambda c: c.wait(7, seen=lambda found: seen.append(found.state)))
    assert seen == ["running", "succeeded"]


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_time_that_is_none_is_refused(use: Use, timeout: float) -> None:
    with pytest.raises(InvalidInput):
        use(lambda c: c.wait(7, timeout=timeout))


def test_a_refusal_ends_the_wait(service: Service, use: Use) -> None:
    service.script = [refuse(404, "unknown_job")]
    with pytest.raises(Problem):
        use(lambda c: c.wait(7, timeout=60))
    assert len(service.requests) == 1


def test_a_long_batch_is_sent_line_by_line(service: Service, use: Use) -> None:
    service.script = [answer(batch(job_ids=[1]), 202)]
    jobs = [{"action": "volume.create", "ref": f"r{n}"} for n in range(1500)]
    use(lambda c: c.batch(jobs, reason="spring"))
    [request] = service.requests
    assert request["headers"]["Content-Type"] == "application/x-ndjson"
    assert request["headers"]["Reason"] == "spring"
    assert [json.loads(line) for line in request["body"].splitlines()] == jobs


def test_a_short_batch_is_one_document(service: Service, use: Use) -> None:
    service.script = [answer(batch(job_ids=[1]), 202)]
    use(lambda c: c.batch([{"action": "volume.create"}], reason="frühling"))
    assert json.loads(service.requests[0]["body"]) == {
        "jobs": [{"action": "volume.create"}],
        "reason": "frühling",
    }


def test_the_job_ids_of_a_batch_outlive_the_wait(service: Service, use: Use) -> None:
    service.script = [answer(batch(job_ids=[1, 2]), 202), answer(batch(finished_at=AT))]
    assert use(lambda c: c.batch([{}], wait=5)).job_ids == [1, 2]


def test_a_list_is_read_page_by_page(service: Service, use: Use) -> None:
    service.script = [
        answer({"items": [job(id=3), job(id=2)], "cursor": "c1"}),
        answer({"items": [job(id=1)], "cursor": None}),
    ]
    wanted: dict[str, Any] = {"state": ("waiting", "queued"), "batch": 4}
    found = use(lambda c: iter(c.jobs(**wanted)) if isinstance(c, Client) else c.jobs(**wanted))
    assert [item.id for item in found] == [3, 2, 1]
    first, second = (request["path"] for request in service.requests)
    assert first == "/v1/jobs?state=waiting%2Cqueued&batch_id=4&limit=1000"
    assert second.endswith("cursor=c1")


def event(number: int, text: str = "") -> dict[str, Any]:
    return {"number": number, "at": AT, "kind": "job.started", "actor": "ops", "reason": text}


def sent(number: int) -> str:
    return f"id: {number}\ndata: {json.dumps(event(number))}\n\n"


def followed(client: Any, count: int) -> Any:
    """The first ``count`` events of a stream without end."""
    if isinstance(client, Client):
        feed = client.follow_events(4)
        found = [next(feed) for _ in range(count)]
        feed.close()
        return found

    async def read() -> list[Any]:
        feed = client.follow_events(4)
        found = [await anext(feed) for _ in range(count)]
        await feed.aclose()
        return found

    return read()


def test_a_stream_that_breaks_is_taken_up_where_it_was_left(service: Service, use: Use) -> None:
    service.script = [
        stream(sent(5), ": still here\n\n", sent(6)[:-9]),
        drop,
        stream(sent(6) + sent(7)),
    ]
    assert [found.number for found in use(lambda c: followed(c, 3))] == [5, 6, 7]
    assert [r["headers"]["Last-Event-ID"] for r in service.requests] == ["4", "5", "5"]
    assert service.requests[0]["headers"]["Accept"] == "text/event-stream"


def test_a_stream_names_the_epoch_of_what_was_read_when_it_is_taken_up(
    service: Service, use: Use
) -> None:
    service.script = [
        stream(sent(5).replace("id: 5", "id: 77-5")),
        drop,
        stream(sent(6).replace("id: 6", "id: 77-6")),
    ]
    assert [found.epoch for found in use(lambda c: followed(c, 2))] == [77, 77]
    assert service.requests[-1]["headers"]["Last-Event-ID"] == "77-5"
    service.script = [refuse(410, "epoch_changed", epoch=78, after=3)]
    with pytest.raises(EpochChanged):
        use(lambda c: followed(c, 1))


def test_an_event_may_hold_what_unicode_calls_the_end_of_a_line(service: Service, use: Use) -> None:
    text = "one\u2028two\x0bthree"
    line = json.dumps(event(5, text), ensure_ascii=False)
    service.script = [stream(f"id: 5\ndata: {line}\n\n")]
    assert use(lambda c: followed(c, 1))[0].reason == text


def test_archived_events_are_told_to_who_asks_for_them(service: Service, use: Use) -> None:
    service.script = [refuse(410, "gone", oldest=100)]
    with pytest.raises(Gone):
        use(lambda c: followed(c, 1))


def test_events_begin_with_the_oldest_that_is_left(service: Service, use: Use) -> None:
    service.script = [
        refuse(410, "gone", oldest=100),
        answer({"items": [event(100)], "next_after": 100}),
    ]
    assert [found.number for found in use(lambda c: c.events())] == [100]
    assert "after=99" in service.requests[1]["path"]


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is no URL"):
        Client("http://host:port", "secret")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "mailto://x"])
def test_an_address_that_cannot_be_called_is_told(url: str) -> None:
    with Client(url, "secret") as client, pytest.raises(Unavailable, match="cannot be called"):
        client.job(7)


def test_what_a_newer_service_adds_is_ignored_or_kept_as_text(service: Service, use: Use) -> None:
    waits = {"kind": "moon_phase", "detail": "not full", "moon": "waning"}
    service.script = [answer(job(state="paused", waiting_on=waits, color="blue"))]
    found = use(lambda c: c.job(7))
    assert (found.state, found.state.value, str(found.state)) == ("paused",) * 3
    assert found.waiting_on.kind == "moon_phase"
    assert isinstance(found.waiting_on.kind, WaitingKind)
    assert not hasattr(found, "color")
    assert json.loads(found.model_dump_json())["state"] == "paused"


def test_what_a_newer_service_adds_inside_a_value_is_ignored(service: Service) -> None:
    schedule = {
        "name": "s", "cron": "0 * * * *", "action": "snapshot.create", "volumes": ["*"],
        "params": {}, "keep": {"last": 3, "yearly": 1}, "enabled": True, "created_by": "ops",
        "created_at": AT, "next_at": None,
    }  # fmt: skip
    service.script = [answer({"items": [schedule], "cursor": None})]
    with Client(service.url, "secret") as client:
        [found] = client.schedules()
    assert isinstance(found, Schedule)
    assert found.keep is not None and found.keep.last == 3


def test_an_answer_that_makes_no_sense_is_told(service: Service, use: Use) -> None:
    service.script = [answer({"id": 7})]
    with pytest.raises(Unavailable, match="no Job"):
        use(lambda c: c.job(7))


def test_documents_are_passed_on_as_they_came(service: Service) -> None:
    documents = [job(id=3, color="blue"), job(id=2)]
    service.script = [answer({"items": documents, "cursor": None}), answer(documents[0])]
    with DocumentClient(service.url, "secret") as client:
        assert list(client.jobs()) == documents
        assert client.job(3) == documents[0]


def error(code: str, **facts: Any) -> dict[str, Any]:
    return {"code": code, "detail": "why", "retryable": False, **facts}


@pytest.mark.parametrize(
    ("document", "raised", "code"),
    [
        (job(state="failed", finished_at=AT, error=error("no_space", free=1)), NoSpace, "no_space"),
        (job(state="failed", finished_at=AT, error=error("frozen")), Problem, "frozen"),
        (job(state="canceled", finished_at=AT), Canceled, "canceled"),
        (job(), WrongState, "wrong_state"),
    ],
)
def test_a_job_that_has_not_succeeded_raises_why(
    document: dict[str, Any], raised: type[Problem], code: str
) -> None:
    with pytest.raises(raised) as caught:
        Job.model_validate(document).raise_for_state()
    assert caught.value.code == code
    assert caught.value.facts["job"] == 7


def test_a_job_that_has_succeeded_is_returned() -> None:
    ended = Job.model_validate(ENDED)
    assert ended.ended
    assert ended.raise_for_state() is ended


def test_every_kind_of_answer_is_in_the_contract() -> None:
    found = [kind for kind in vars(kinds).values() if isinstance(kind, kinds.Kind)]
    assert [kind.load().__name__ for kind in found] == [kind.name for kind in found]
    assert found


def test_the_client_is_quick_to_import() -> None:
    code = (
        "import sys, orchestrator.client\n"
        "print([name for name in ('pydantic', 'sqlalchemy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
