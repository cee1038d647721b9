"""An address of the broker means the same in every part, and who answers there is verified."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator import broker as brokers
from orchestrator.domain.errors import InvalidInput
from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from orchestrator.settings import Settings
from tests.broker.conftest import MakeParts

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")


class Door:
    """A TCP port that leads to the broker's socket, with TLS if it has a certificate."""

    def __init__(self, path: str, certificate: Path | None = None) -> None:
        self._path = path
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._inside: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                made, _ = self._listening.accept()
                self._threads.append(
                    threading.Thread(target=self._serve, args=(made,), daemon=True)
                )
                self._threads[-1].start()

    def _serve(self, outside: socket.socket) -> None:
        with outside, socket.socket(socket.AF_UNIX) as inside, suppress(OSError):
            inside.connect(self._path)
            self._inside.append(inside)
            if self._context is None:
                _copy_both(outside, inside)
                return
            with self._context.wrap_socket(outside, server_side=True) as secured:
                _copy_both(secured, inside)

    def close(self) -> None:
        """Close it, to whoever is inside, too."""
        for one in (self._listening, *self._inside):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in list(self._threads):
            thread.join(timeout=10)


def _copy_both(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One for 127.0.0.1 that no authority vouches for; its key lies beside it."""
    made = tmp_path / "broker.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=broker"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", made.with_suffix(".key"), "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture
def path(broker: EmbeddedBroker) -> str:
    return redis_client_url(broker.url).removeprefix("unix://")


@pytest.fixture
def door(request: pytest.FixtureRequest, path: str) -> Iterator[Door]:
    with_tls = "certificate" in request.fixturenames
    made = Door(path, request.getfixturevalue("certificate") if with_tls else None)
    yield made
    made.close()


def _works(make_parts: MakeParts, url: str) -> None:
    """Whether wake-ups come through: nobody looks for work by themselves."""
    parts = make_parts(url)
    worker = parts.worker()
    parts.until_states(parts.create("a"), "succeeded")
    assert worker.stop() == 0


@pytest.mark.parametrize(
    "scheme",
    [
        "unix://{path}?db=1",
        pytest.param("redis+socket://{path}?virtual_host=1", marks=pytest.mark.slow),
    ],
)
def test_a_socket(make_parts: MakeParts, path: str, server: redis.Redis, scheme: str) -> None:
    _works(make_parts, scheme.format(path=path))
    assert server.dbsize() == 0, "not the database that was asked for"


def test_valkey(make_parts: MakeParts, door: Door) -> None:
    _works(make_parts, f"valkey://127.0.0.1:{door.port}/1")


@needs_openssl
@pytest.mark.parametrize("scheme", ["rediss", pytest.param("valkeys", marks=pytest.mark.slow)])
def test_a_server_that_an_authority_vouches_for(
    make_parts: MakeParts, certificate: Path, door: Door, scheme: str
) -> None:
    _works(make_parts, f"{scheme}://127.0.0.1:{door.port}/0?ssl_ca_certs={certificate}")


@needs_openssl
def test_a_server_that_nobody_vouches_for_is_not_believed(
    make_parts: MakeParts, certificate: Path, door: Door
) -> None:
    url = f"rediss://127.0.0.1:{door.port}/0"
    with brokers.client(url) as client, pytest.raises(redis.ConnectionError, match="CERTIFICATE"):
        client.ping()
    parts = make_parts(url)
    worker = parts.worker(worker__claim_seconds=0.5)
    worker.until_it_says("CERTIFICATE_VERIFY_FAILED")
    # The work goes on without the broker.
    parts.until_states(parts.create("a"), "succeeded")
    assert worker.stop() == 0


@needs_openssl
def test_who_does_not_want_to_verify_says_so(
    make_parts: MakeParts, certificate: Path, door: Door
) -> None:
    _works(make_parts, f"rediss://127.0.0.1:{door.port}/0?ssl_cert_reqs=none")


def _meaning(pool: Any) -> tuple[str, dict[str, Any]]:
    told = {"host", "port", "path", "db", "username", "password", "ssl_cert_reqs"}
    kwargs = {key: value for key, value in pool.connection_kwargs.items() if key in told}
    return pool.connection_class.__name__, kwargs


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:a%2Fb@there:7000/3",
        "rediss://there",
        "valkey://there:1/2",
        "valkeys://there",
        "unix:///a/b?db=2",
        "redis+socket:///a/b?virtual_host=2",
    ],
)
def test_what_waits_and_what_sends_go_to_the_same_place(url: str) -> None:
    assert _meaning(brokers.client(url).connection_pool) == _meaning(
        brokers.async_client(url).connection_pool
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://user:secret@here", "begins with redis://"),
        ("reddiss://here", "did you mean 'rediss'"),
        ("redis://:secret@here/notanumber", "database or option"),
        ("redis://:secret@here?bogus=1", "no option 'bogus'"),
        ("redis://:secret@here?socket_timeout=soon", "database or option"),
        ("rediss://:secret@here?ssl_cert_reqs=perhaps", "database or option"),
        ("unix:///a/b?db=x", "database or option"),
        ("sentinel://one;sentinel://:secret@two/x", "database or option"),
    ],
)
def test_an_address_that_nobody_could_connect_to_is_refused_at_once(url: str, told: str) -> None:
    settings = Settings(broker={"url": url})
    with pytest.raises(InvalidInput, match=told) as refused:
        _ = settings.broker_url
    assert "secret" not in refused.value.detail
