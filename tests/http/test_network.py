"""Behind proxies, over TLS, and what every answer carries."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator import tokens
from orchestrator.api.pages import POLICY
from orchestrator.domain.states import Role
from tests.http.conftest import Api

on = pytest.mark.parametrize


def _volume(name: str) -> dict[str, Any]:
    later = "2999-01-01T00:00:00Z"
    return {"name": name, "size_bytes": 2**20, "run_at": later}


# -- behind a proxy ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind(begin_api: Callable[..., Api]) -> Api:
    """A service that a proxy on this machine shows below ``/orch``."""
    return begin_api('[api]\nroot_path = "/orch"\ntrusted_proxies = ["127.0.0.1"]\n')


@on("prefix", ["", "/orch"], ids=["taken off by the proxy", "left by the proxy"])
def test_addresses_are_right_below_a_prefix(behind: Api, prefix: str) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    with behind.client() as http:
        http.headers.update(forwarded)
        made = http.post(f"{prefix}/v1/backends/ram/volumes", json=_volume(uuid.uuid4().hex))
        assert made.status_code == 202, made.text
        assert made.headers["Location"] == f"/orch/v1/jobs/{made.json()['id']}"
        job = {"action": "backend.audit", "backend": "ram"}
        short = http.post(f"{prefix}/v1/jobs", json=job)
        assert short.headers["Location"].startswith("/orch/v1/jobs/")
        led = http.get(f"{prefix}/v1/jobs/")
        assert (led.status_code, led.headers["Location"]) == (307, "/orch/v1/jobs")
        # A name with a slash is one segment, also behind the prefix.
        gone = http.get(f"{prefix}/v1/backends/ram/volumes/a%2Fb")
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_volume")
        assert "'a/b'" in gone.json()["detail"]
        assert http.get(f"{prefix}/v3/ram/volumes/a%2Fb").status_code == 404
        document = http.get(f"{prefix}/openapi.json").json()
        assert document["servers"] == [{"url": "/orch"}]
        page = http.get(f"{prefix}/docs")
        assert 'href="openapi.json"' in page.text
        unknown = http.get(f"{prefix}/v1/nothing")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


# -- the page ---------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(api: Api) -> None:
    with api.client(None) as http:
        page = http.get("/docs")
        assert page.headers["Content-Security-Policy"] == POLICY
        assert page.headers["Content-Type"].startswith("text/html")
        for needed in ("<script", "src=", "http:", "//", "<link", "@import", "url("):
            assert needed not in re.sub(r"<(pre|code|td)>.*?</\1>", "", page.text, flags=re.S)
        for path in http.get("/openapi.json").json()["paths"]:
            assert f"<code>{path}</code>" in page.text
        for theirs in ("/redoc", "/docs/oauth2-redirect", "/v3/docs", "/v3/redoc"):
            assert http.get(theirs).status_code in (401, 404)


def test_what_is_described_is_called_by_what_it_is(api: Api) -> None:
    with api.client(None) as http:
        for document in ("/openapi.json", "/v3/openapi.json"):
            for name in http.get(document).json()["components"]["schemas"]:
                assert "__" not in name, "two models have this name: call one of them otherwise"


def test_every_answer_says_that_browsers_shall_do_nothing_with_it(api: Api) -> None:
    with api.client() as http:
        for path in ("/v1/jobs", "/healthz", "/v1/nothing", "/v3/ram/volumes", "/docs"):
            headers = http.get(path).headers
            assert headers["X-Content-Type-Options"] == "nosniff", path
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == "no-store"
            assert "Strict-Transport-Security" not in headers
        assert http.get("/v1/jobs", headers={"Authorization": "Bearer x"}).headers[
            "Cache-Control"
        ] == "no-store"  # fmt: skip


# -- TLS --------------------------------------------------------------------------------------


def _certificate(directory: Path, number: int) -> None:
    """A key and a certificate of its own with this serial number, each put there at once."""
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-set_serial", str(number)),
            *("-keyout", str(directory / "new.key"), "-out", str(directory / "new.pem")),
        ],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (directory / "new.key").rename(directory / "tls.key")
    (directory / "new.pem").rename(directory / "tls.pem")


def _serial(api: Api) -> int:
    """The serial number of the certificate that the service shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with api.connect() as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    read = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-serial"],
        input=shown,
        capture_output=True,
        check=True,
    )
    return int(read.stdout.decode().strip().partition("=")[2], 16)


def test_tls_is_served_and_a_renewed_certificate_shown(
    begin_api: Callable[..., Api], tmp_path: Path
) -> None:
    _certificate(tmp_path, 1)
    served = begin_api(f'[api]\ntls_cert = "{tmp_path}/tls.pem"\ntls_key = "{tmp_path}/tls.key"\n')
    url = served.url.replace("http://", "https://")
    context = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))
    with served.client(base_url=url, verify=context) as http:
        answer = http.get("/v1/jobs")
        assert answer.status_code == 200
        assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    # The command line believes whom SSL_CERT_FILE names, also on this machine.
    asked = {"ORCHESTRATOR_URL": url, "ORCHESTRATOR_TOKEN": served.tokens[Role.READER]}
    for more, status in (({}, 7), ({"SSL_CERT_FILE": str(tmp_path / "tls.pem")}, 0)):
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "queue", "show"],
            env={**os.environ, **asked, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert _serial(served) == 1
    # Half of a new one is not used.
    (tmp_path / "tls.pem").write_text("no certificate")
    os.utime(tmp_path / "tls.pem")
    while "api.tls_not_renewed" not in served.log.read_text():
        time.sleep(0.05)
    assert _serial(served) == 1
    _certificate(tmp_path, 2)
    while _serial(served) != 2:
        time.sleep(0.05)


def test_listening_on_every_address_without_tls_is_warned_of(
    begin_api: Callable[..., Api], api: Api
) -> None:
    assert "api.no_tls" not in api.log.read_text()
    open_to_all = begin_api(address="0.0.0.0")
    assert "api.no_tls" in open_to_all.log.read_text()


# -- tokens that are revoked ------------------------------------------------------------------


def test_a_stream_ends_when_its_token_is_revoked(api: Api) -> None:
    token = api.new_token("stream", Role.READER)
    ended = threading.Event()
    lines: list[str] = []

    def read() -> None:
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        url = f"{api.url}/v1/events"
        with httpx.stream("GET", url, headers=headers, timeout=60) as stream:
            began.set()
            lines.extend(stream.iter_lines())
        ended.set()

    began = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    assert began.wait(60)
    with api.database.write() as connection:
        tokens.revoke(connection, token.split("_")[1], "test")
    assert ended.wait(60)
    thread.join()
    other = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{api.url}/v1/jobs", headers=other).status_code == 401


def _waiting(api: Api) -> int:
    """How many requests wait."""
    with api.client(None) as http:
        told = re.search(r"^orchestrator_waiters (\S+)$", http.get("/metrics").text, re.M)
    assert told is not None
    return int(float(told[1]))


@pytest.mark.parametrize("kind", ["jobs", "batches"])
def test_a_wait_ends_when_its_token_is_revoked(api: Api, kind: str) -> None:
    token = api.new_token(f"waits-{kind}", Role.READER)
    later = {"action": "volume.create", "backend": "ram", "run_at": "2999-01-01T00:00:00Z"}
    job = {**later, "volume": f"waits-{kind}", "params": {"size": "1M"}}
    with api.client() as http:
        made = http.post(f"/v1/{kind}", json=job if kind == "jobs" else [job]).json()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{api.url}/v1/{kind}/{made['id']}/wait?timeout=3000"
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(httpx.get, url, headers=headers, timeout=60) for _ in range(8)]
        while _waiting(api) < len(waits):
            pass
        with api.database.write() as connection:
            tokens.revoke(connection, token.split("_")[1], "test")
        for wait in waits:
            assert wait.result().status_code == 401


def test_a_submission_whose_token_is_revoked_meanwhile_says_that_it_was_accepted(api: Api) -> None:
    token = api.new_token("submits", Role.OPERATOR)
    later = {"action": "volume.create", "backend": "ram", "run_at": "2999-01-01T00:00:00Z"}
    job = {**later, "volume": "submits", "params": {"size": "1M"}}
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait=3000"}
    with ThreadPoolExecutor(1) as pool:
        url = f"{api.url}/v1/jobs"
        answer = pool.submit(httpx.post, url, json=job, headers=headers, timeout=60)
        while _waiting(api) < 1:
            pass
        with api.database.write() as connection:
            tokens.revoke(connection, token.split("_")[1], "test")
        assert (answer.result().status_code, answer.result().json()["volume"]) == (202, "submits")


# -- what the log says of requests ------------------------------------------------------------


@pytest.fixture(scope="module")
def logging(begin_api: Callable[..., Api]) -> Api:
    """A service that logs each request."""
    return begin_api('[api]\naccess_log = true\n[log]\nformat = "json"\n')


def _lines(api: Api, request: str) -> list[dict[str, Any]]:
    """The lines of the log that belong to a request."""
    lines = [json.loads(line) for line in api.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("request") == request]


def test_each_request_is_a_line_of_the_log_with_its_id(logging: Api) -> None:
    sent = f"trace-{uuid.uuid4()}"
    with logging.client(Role.READER) as http:
        query = {"volume": "in-the-query"}
        answer = http.get("/v1/jobs", params=query, headers={"X-Request-Id": sent})
        assert answer.headers.get_list("X-Request-Id") == [sent]
        refused = http.post("/v1/jobs", json={})
    with logging.client(None) as http:
        unknown = http.get("/v1/jobs", headers={"Authorization": "Bearer orc_secret"})
        open_ = http.get("/healthz")

    def access(answer: httpx.Response) -> dict[str, Any]:
        # The line is written once the answer was sent.
        while not (lines := _accesses(logging, answer.headers["X-Request-Id"])):
            pass
        [line] = lines
        return line

    line = access(answer)
    assert {name: line[name] for name in ("method", "path", "status", "token", "client")} == {
        **{"method": "GET", "path": "/v1/jobs", "status": 200},
        **{"token": "reader", "client": "127.0.0.1"},
    }
    assert line["seconds"] >= 0
    assert (access(refused)["status"], access(refused)["token"]) == (403, "reader")
    assert (access(unknown)["status"], access(unknown)["token"]) == (401, None)
    assert access(open_)["path"] == "/healthz"
    # What else is said of a request has its id, too.
    told = [one["event"] for one in _lines(logging, refused.headers["X-Request-Id"])]
    assert "api.refused" in told
    text = logging.log.read_text()
    for secret in ("orc_", "in-the-query", logging.tokens[Role.READER].split("_", 2)[2]):
        assert secret not in text


def _accesses(api: Api, request: str) -> list[dict[str, Any]]:
    return [line for line in _lines(api, request) if line["event"] == "api.access"]


@on("sent", ["", "a b", "x" * 129, "a,b", 'a"b', "\u00e4"], ids=ascii)
def test_an_id_that_is_none_is_replaced(api: Api, sent: str) -> None:
    with api.client(None) as http:
        headers = [(b"X-Request-Id", sent.encode())]
        made = [http.get("/healthz", headers=headers).headers["X-Request-Id"] for _ in range(2)]
        twice = [(b"X-Request-Id", b"one"), (b"X-Request-Id", b"two")]
        made.append(http.get("/healthz", headers=twice).headers["X-Request-Id"])
    assert len({*made, sent, "one", "two"}) == 6
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made)
    assert "api.access" not in api.log.read_text()


# -- refusals ---------------------------------------------------------------------------------


def _refusals(api: Api) -> dict[str, float]:
    with api.client(None) as http:
        found = re.findall(
            r'^orchestrator_api_refused_total{reason="(\w+)"} (\S+)$',
            http.get("/metrics").text,
            flags=re.M,
        )
    return {reason: float(count) for reason, count in found}


def test_refusals_are_counted_logged_and_those_of_roles_recorded(
    begin_api: Callable[..., Api],
) -> None:
    own = begin_api("")
    before = _refusals(own)
    assert before == {"token": 0.0, "role": 0.0}
    with own.client(None) as http:
        for _ in range(30):
            assert http.get("/v1/jobs", headers={"Authorization": "Bearer x"}).status_code == 401
    with own.client(Role.READER) as http:
        for _ in range(30):
            assert http.post("/v1/queue/drain").status_code == 403
            assert http.delete("/v1/backends/ram/volumes/x").status_code == 403
    assert _refusals(own) == {"token": 30.0, "role": 60.0}
    # Told, but not each time: who floods the service does not flood its log.
    told = [line for line in own.log.read_text().splitlines() if "api.refused" in line]
    assert 2 <= len(told) <= 6
    assert all("127.0.0.1" in line for line in told)
    assert own.tokens[Role.READER] not in own.log.read_text()
    while len(events := own.recorded("access.refused")) < 2:
        time.sleep(0.05)
    assert {event["actor"] for event in events} == {"reader"}
    assert {event["data"]["path"] for event in events} == {
        "/v1/queue/drain",
        "/v1/backends/ram/volumes/x",
    }
    assert len(events) == 2


# -- readiness --------------------------------------------------------------------------------


def test_a_broker_that_is_down_is_a_warning_unless_asked_strictly(
    begin_api: Callable[..., Api],
) -> None:
    alone = begin_api("", broker_url="redis://127.0.0.1:1/0")
    with alone.client(None) as http:
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["broker"]) == (200, "down")
        assert ready.json()["database"] == "ok"
        for strict in ("?strict", "?strict=true", "?strict=1"):
            assert http.get(f"/readyz{strict}").status_code == 503
        assert http.get("/readyz?strict=false").status_code == 200
