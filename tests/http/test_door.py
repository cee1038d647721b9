"""What is decided before a route is reached: who asks, how much, how fast, how many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from orchestrator.domain.states import Role
from tests.http.conftest import Api, one_answer, whole_answer

MIB = 2**20
OPEN = {"/healthz", "/readyz", "/metrics"}


def routes_of(api: Api) -> Iterator[tuple[str, str]]:
    """Every route, with something for each name in its path."""
    for prefix, document in (("", "/openapi.json"), ("/v3", "/v3/openapi.json")):
        for path, methods in httpx.get(api.url + document, timeout=60).json()["paths"].items():
            for method in methods:
                filled = prefix + path
                while "{" in filled:
                    before, _, rest = filled.partition("{")
                    filled = f"{before}7{rest.partition('}')[2]}"
                yield method.upper(), filled


def _head(api: Api, method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_body_without_a_token_is_refused_unread_on_every_route(api: Api) -> None:
    routes = list(routes_of(api))
    with api.client() as http:
        assert http.post("/v1/jobs", json={}).status_code == 422
    api.forget_memory()
    before = api.memory()
    for method, path in routes:
        with api.connect() as connection:
            # No byte of the body is sent: the answer comes all the same.
            connection.sendall(
                _head(api, method, path, "Content-Length: 62914560", "Content-Type: text/json")
            )
            status = _status(one_answer(connection))
        assert status in ((401, 403, 413) if path not in OPEN else (413,)), (method, path)
    assert len(routes) > 60
    with api.client(None) as http:
        for path in ("/v1/jobs", "/v1/batches", "/v3/ram/volumes/x", "/v1/schedules/x"):
            answer = http.post(path, content=bytes(60 * MIB))
            assert answer.status_code in (401, 413), path
    grown = api.memory() - before
    assert grown < 5 * MIB, grown


def test_a_token_that_is_none_is_refused_from_the_head(api: Api) -> None:
    for header in ("Basic YTpi", "Bearer", "Bearer orc_0000000000000000_x", "Bearer \xff"):
        with api.connect() as connection:
            connection.sendall(
                "POST /v1/batches HTTP/1.1\r\nHost: here\r\n"
                f"Authorization: {header}\r\nContent-Length: 100\r\n\r\n".encode("latin-1")
            )
            assert _status(one_answer(connection)) == 401, header


def test_a_body_has_the_length_that_its_route_takes(api: Api) -> None:
    with api.client() as http:
        long = json.dumps({"action": "volume.create", "reason": "x" * MIB}).encode()
        kind = {"Content-Type": "application/json"}
        refused = http.post("/v1/jobs", content=long, headers=kind)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        # Not announced, but sent in pieces.
        pieces = (bytes(MIB // 4) for _ in range(8))
        assert http.post("/v1/jobs", content=pieces, headers=kind).status_code == 413
        # A batch may be longer: it is read, and refused for what it says.
        batch = http.post("/v1/batches", content=b"[" + long + b"]", headers=kind)
        assert batch.status_code == 422, batch.text
    with api.client(Role.READER) as http:
        assert http.post("/v1/batches", content=b"[" + long + b"]").status_code == 403


def test_a_head_has_its_length(api: Api) -> None:
    with api.connect() as connection:
        # One header without an end.
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\nX: ")
        with pytest.raises(OSError):
            for _ in range(64):
                connection.sendall(b"x" * 65536)
            connection.recv(1)
            raise ConnectionResetError
    with api.connect() as connection:
        connection.sendall(_head(api, "GET", "/healthz", "X: " + "x" * 70_000))
        answer = one_answer(connection)
    assert _status(answer) == 431
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "head_too_large"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GE",
        b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Half: ",
        b"\r\n",
    ],
)
def test_a_head_that_does_not_come_is_not_waited_for(hasty: Api, sent: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(sent)
        assert whole_answer(connection) == b""


def test_half_a_second_head_is_not_waited_for(hasty: Api) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\nGET /hea")
        answer = whole_answer(connection)
    assert _status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches"])
def test_a_body_that_does_not_come_is_not_waited_for(hasty: Api, path: str) -> None:
    token = f"Authorization: Bearer {hasty.tokens[Role.ADMIN]}"
    with hasty.connect() as connection:
        head = _head(hasty, "POST", path, token, "Content-Length: 50")
        connection.sendall(head + b'{"action": ')
        answer = whole_answer(connection)
    assert _status(answer) == 408
    assert b'"slow_request"' in answer


def test_there_are_only_so_many_connections(hasty: Api) -> None:
    with ExitStack() as stack:
        held = []
        for _ in range(8):
            connection = stack.enter_context(hasty.connect())
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert _status(one_answer(connection)) == 200
            held.append(connection)
        with hasty.connect() as one_more:
            answer = whole_answer(one_more)
        assert _status(answer) == 503
        assert b'"unavailable"' in answer
        # Those that are there are served on.
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert _status(one_answer(held[0])) == 200


def test_what_is_no_http_is_told_so(api: Api) -> None:
    with api.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = whole_answer(connection)
    assert _status(answer) == 400
    assert b"application/problem+json" in answer


def test_a_refused_client_hears_why_before_its_body_is_sent_to_the_end(api: Api) -> None:
    with api.connect() as connection:
        connection.sendall(_head(api, "POST", "/v1/jobs", "Content-Length: 1048576"))
        assert _status(one_answer(connection)) == 401
        # The rest is taken, and the connection can be used on.
        connection.sendall(bytes(MIB))
        connection.sendall(_head(api, "GET", "/healthz"))
        assert _status(one_answer(connection)) == 200


def test_head_is_answered_like_get_without_the_body(api: Api) -> None:
    for role, path in ((None, "/healthz"), (None, "/readyz"), (Role.READER, "/v1/jobs")):
        with api.client(role) as http:
            head, get = http.head(path), http.get(path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["Content-Length"] == get.headers["Content-Length"]
    stream = {"Accept": "text/event-stream"}
    with api.client() as http:
        assert http.head("/v1/events", headers=stream).status_code == 200


def test_a_slash_at_the_end_leads_to_the_path_without_it(api: Api) -> None:
    with api.client() as http:
        led = http.get("/v1/jobs/?limit=1")
        assert (led.status_code, led.headers["Location"]) == (307, "/v1/jobs?limit=1")
