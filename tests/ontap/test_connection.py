"""The connection to a filer: trust, time limits, errors, and what must not be told."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.errors import (
    AccessDenied,
    BackendBusy,
    BackendError,
    BackendUnavailable,
    NoSpace,
    Problem,
    TimedOut,
    UnknownVolume,
)
from tests.conformance.calls import Claim, new_volume
from tests.ontap.conftest import driver_on
from tests.ontap.double import PASSWORD, Double, Fault
from workers.backends.ontap.driver import OntapDriver
from workers.backends.ontap.failures import refused

SIZE = 20 * 2**20


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """One that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = tmp_path / "filer.pem", tmp_path / "filer.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=filer", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Double]:
    double = Double(tls=certificate).start()
    yield double
    double.stop()


def test_a_certificate_that_is_not_trusted_is_refused(
    secure: Double, certificate: tuple[Path, Path]
) -> None:
    with pytest.raises(BackendError, match="is not trusted") as refusal:
        driver_on(secure, scheme="https").read_identity()
    assert not refusal.value.retryable
    assert secure.requests == [], "the password was not sent"
    trusting = driver_on(secure, scheme="https", verify=str(certificate[0]))
    trusting.create(new_volume("vm1"), SIZE, {}, Claim())
    assert [one.name for one in trusting.list_volumes()] == ["vm1"]
    assert driver_on(secure, scheme="https", verify=False).read_identity() is None


def test_authorities_from_the_environment_do_not_count(
    secure: Double, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(BackendError, match="is not trusted"):
        driver_on(secure, scheme="https").read_identity()


def test_a_wrong_password_is_told_with_what_to_do(
    double: Double, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = driver_on(double, password="not-this-one")
    for ask in (driver.read_identity, lambda: driver.create(new_volume(), SIZE, {}, Claim())):
        with pytest.raises(BackendError, match="does not let the user vsadmin") as refusal:
            ask()
        assert not refusal.value.retryable
        assert "check the backend's username and password" in refusal.value.detail
        assert "not-this-one" not in str(refusal.value.job_error())
    assert "not-this-one" not in caplog.text


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("status", status=401, times=9), AccessDenied),
        (Fault("status", status=403, times=9), AccessDenied),
        (Fault("part", method="GET", times=9), BackendUnavailable),
    ],
)
def test_what_may_not_or_cannot_be_seen_is_not_absent(
    double: Double, driver: OntapDriver, fault: Fault, error: type[Problem]
) -> None:
    volume = new_volume("vm1")
    driver.create(volume, SIZE, {}, Claim())
    looks: tuple[Callable[[], object], ...] = (
        lambda: driver.inspect(volume),
        lambda: list(driver.list_volumes()),
        lambda: driver.list_snapshots(volume),
        lambda: list(driver.list_policies()),
        driver.read_identity,
        lambda: driver.remove(volume, Claim()),
    )
    for look in looks:
        double.faults = [replace(fault)]
        with pytest.raises(error):
            look()
    double.faults = []
    assert [one.id for one in driver.list_volumes()] == [volume.id]


def test_the_password_is_in_no_text(double: Double, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    driver = driver_on(double, timeout=0.2)
    driver.create(new_volume("vm1"), SIZE, {}, Claim())
    texts = [repr(driver), repr(driver.options), repr(driver.filer), repr(vars(driver))]
    for fault in (Fault("hang"), Fault("drop before"), Fault("status", status=500)):
        double.faults = [fault]
        with pytest.raises(Problem) as raised:
            driver.read_identity()
        texts += [str(raised.value), repr(raised.value), str(raised.value.job_error())]
    assert PASSWORD not in "".join(texts) + caplog.text


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_no_request_waits_longer_than_it_may(double: Double, method: str) -> None:
    driver, volume = driver_on(double, timeout=0.3), new_volume("vm1")
    double.faults = [Fault("hang", method=method)]
    begin = time.monotonic()
    with pytest.raises(BackendUnavailable if method == "GET" else TimedOut):
        driver.create(volume, SIZE, {}, Claim())
    assert time.monotonic() - begin < 5
    driver.create(volume, SIZE, {}, Claim())
    assert [one.id for one in driver.list_volumes()] == [volume.id]


def test_an_answer_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        double = Double()
        double.port = server.getsockname()[1]
        driver = driver_on(double, timeout=0.1)

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b" ")
                        time.sleep(0.02)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(BackendUnavailable):
            driver.read_identity()
        assert time.monotonic() - begin < 5
        thread.join()
        double._server.server_close()


@pytest.mark.parametrize(
    ("status", "error"), [(503, BackendUnavailable), (429, BackendBusy), (500, Problem)]
)
def test_a_filer_that_cannot_just_now_is_asked_again(
    double: Double, driver: OntapDriver, status: int, error: type[Problem]
) -> None:
    double.faults = [Fault("status", status=status, method="POST")]
    volume = new_volume("vm1")
    with pytest.raises(error) as refusal:
        driver.create(volume, SIZE, {}, Claim())
    assert refusal.value.retryable == (status != 500)
    # Nobody asked a second time behind our back.
    assert len(double.asked("POST", "volumes")) == 1
    driver.create(volume, SIZE, {}, Claim())


def test_an_svm_that_is_not_there_is_no_empty_one(double: Double) -> None:
    driver = driver_on(double, vserver="nobody")
    for ask in (
        driver.read_identity,
        driver.capacity,
        lambda: list(driver.list_volumes()),
        lambda: driver.inspect(new_volume()),
        lambda: driver.create(new_volume(), SIZE, {}, Claim()),
        lambda: driver.write_identity("x"),
    ):
        with pytest.raises(BackendUnavailable, match="SVM"):
            ask()


def test_what_is_no_filer_is_told_so(double: Double) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

        thread = threading.Thread(target=answer)
        thread.start()
        other = driver_on(double, port=server.getsockname()[1])
        with pytest.raises(BackendError, match="is no ONTAP filer"):
            other.read_identity()
        thread.join()


def test_a_server_that_speaks_no_tls_is_unavailable(double: Double) -> None:
    with pytest.raises(BackendUnavailable):
        driver_on(double, scheme="https").read_identity()


@pytest.mark.parametrize(
    ("status", "code", "message", "error"),
    [
        (404, "4", "entry doesn't exist", UnknownVolume),
        (400, "917828", "Not enough space in the aggregate", NoSpace),
        (400, "1", "nothing we know", Problem),
        (0, "460770", "Job failed: another operation is in progress", BackendBusy),
        (418, "99", "I am a teapot", BackendError),
    ],
)
def test_what_the_filer_says_is_told(
    status: int, code: str, message: str, error: type[Problem]
) -> None:
    problem = refused("filer1", "admin", "/storage/volumes", status, code, message)
    assert isinstance(problem, error)
    assert message in problem.detail
    assert problem.facts["ontap_code"] == code
