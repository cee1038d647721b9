"""The provider that Ganeti uses the orchestrator by: what `extstorage install` and its kin do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.extstorage.install import install, make_logs
from orchestrator.extstorage.reconciling import disks_in, left_over

DISK, OTHER = "7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f", "0c7b1c52-7d9d-4c5c-8f70-5f5d7f0f3a11"


# -- where Ganeti keeps logs --------------------------------------------------------------------


def test_the_directory_for_logs_is_made_or_asked_for(tmp_path: Path) -> None:
    logs = tmp_path / "ganeti" / "extstorage"
    told = make_logs(logs)
    assert told is not None
    assert f"mkdir -m 0750 {logs}" in told
    assert not logs.parent.exists()
    logs.parent.mkdir()
    assert make_logs(logs) is None
    assert logs.stat().st_mode & 0o777 == 0o750
    assert make_logs(logs) is None
    logs.rmdir()
    logs.write_text("no directory")
    told = make_logs(logs)
    assert told is not None
    assert "cannot be made (File exists)" in told


# -- a service that cannot be reached -----------------------------------------------------------


#: A job that has ended well, and before that.
ENDED = {"id": 17, "finished_at": "now", "state": "succeeded", "action": "a", "result": {}}
BEGUN = {**ENDED, "finished_at": None, "state": "running"}


@contextmanager
def service(deaf: int, *first: tuple[int, dict[str, Any]]) -> Iterator[tuple[str, list[int]]]:
    """A service that hangs up on so many requests before it answers, and how many came.

    ``first``: its first answers, before the one that tells of the job that has ended.
    """
    left = list(first)

    def answer() -> bytes:
        status, told = left.pop(0) if left else (200, ENDED)
        body = json.dumps(told).encode()
        return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)

    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    if not connection.recv(65536):
                        return
                    asked.append(1)
                    if len(asked) > deaf:
                        connection.sendall(answer())

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            socket.create_connection(server.getsockname()).close()
            serving.join()


def script(room: Path, name: str, url: str, **config: Any) -> subprocess.CompletedProcess[str]:
    directory = room / "orch"
    told = {"url": url, "token": "t", "host": "node1", "backend": "fast", "parameters": {}}
    install(directory, {**told, "seconds": 60, **config})
    return subprocess.run(
        [directory / name],
        env={**os.environ, "VOL_NAME": "web1", "VOL_UUID": DISK},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_asks_until_the_service_is_there_again(tmp_path: Path) -> None:
    with service(deaf=3) as (url, asked):
        done = script(tmp_path, "remove", url)
    assert (done.returncode, done.stderr, len(asked)) == (0, "", 4)


def test_how_long_it_asks_is_configured(tmp_path: Path) -> None:
    with service(deaf=1000) as (url, asked):
        done = script(tmp_path, "remove", url, patience=0)
    assert (done.returncode, len(asked)) == (1, 1)
    assert f"the orchestrator at {url} cannot be reached" in done.stderr


def test_what_has_ended_when_it_is_to_be_canceled_has_ended_so(tmp_path: Path) -> None:
    """Ganeti forgets a disk whose attach is reported to have failed."""
    refused = {"code": "job_ended", "detail": "job 17 has already succeeded"}
    with service(0, (202, BEGUN), (409, refused)) as (url, asked):
        done = script(tmp_path, "remove", url, seconds=0)
    assert (done.returncode, done.stderr, len(asked)) == (0, "", 3)
    with service(0, (202, BEGUN), (202, BEGUN)) as (url, asked):
        done = script(tmp_path, "remove", url, seconds=0)
    assert "did not end in time" in done.stderr
    assert (done.returncode, len(asked)) == (1, 2)


# -- what Ganeti could not have removed ---------------------------------------------------------


def volume(name: str, **metadata: str) -> dict[str, Any]:
    told = {"backend": "fast", "name": name, "size_bytes": 1, "state": "available"}
    attached = [{"host": "node1"}]
    return {**told, "metadata": metadata, "attachments": attached, "created_at": "now"}


def test_volumes_whose_disk_ganeti_no_longer_has_are_named() -> None:
    made = [
        volume("kept", **{"ganeti.uuid": DISK}),
        volume("left", **{"ganeti.uuid": OTHER, "ganeti.name": "disk0"}),
        volume("nobody's"),
    ]
    for listed in (f"Disk_UUIDs\n{DISK.upper()}\n", f"['{DISK}', '{DISK[::-1]}']", f"a {DISK},b"):
        [left] = left_over(made, disks_in(listed))
        assert (left["name"], left["disk"], left["uuid"]) == ("left", "disk0", OTHER)
        assert left["attached_to"] == ["node1"]
    assert list(left_over(made, disks_in(f"{DISK} {OTHER}"))) == []


@pytest.mark.parametrize("listed", ["", "Disk_UUIDs\n", "node1 is down\n"])
def test_a_list_without_disks_is_refused(listed: str) -> None:
    """Every volume would count as left."""
    with pytest.raises(InvalidInput, match="gnt-instance list") as caught:
        disks_in(listed)
    assert caught.value.field == "FILE"
