"""Commands that are run on another host, by a real SSH server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.domain.errors import BackendError, Outage, TimedOut
from tests.conformance.calls import Claim, LeaseLost
from tests.rigs.sshd import Server, serving
from tests.unit.test_commands import HOSTILE
from workers.backends.base.commands import Command, Secrets


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def _sh(script: str, *arguments: str, seconds: float = 10.0, **more: object) -> Command:
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    return Command(argv=argv, seconds=seconds, **more)  # type: ignore[arg-type]


def _soon(ready: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_command_is_run_there_as_it_would_be_here(server: Server) -> None:
    call, client = Claim(), server.client()
    ran = client.run(Command(argv=("printf", r"%s\0", *HOSTILE), seconds=10), call)
    assert ran.answer.decode().split("\0")[:-1] == list(HOSTILE)
    ran = client.run(Command(argv=("env",), seconds=10, environment={"A": "b c'd"}), call)
    lines = ran.answer.decode().splitlines()
    assert "A=b c'd" in lines
    assert {line.partition("=")[0] for line in lines} == {"PATH", "LC_ALL", "A"}
    assert client.run(_sh("cat", stdin=b"what it reads"), call).answer == b"what it reads"
    assert all(one.host == "127.0.0.1" for one in call.commands)
    # All of that was one connection.
    assert len(server.sessions()) == 1


def test_its_status_and_what_it_said_come_back(server: Server) -> None:
    call = Claim()
    command = _sh('echo "no $1" >&2; exit 5', "hunter2", secrets=Secrets(["hunter2"]))
    ran = server.client().run(command, call)
    assert ran.status == 5
    with pytest.raises(BackendError, match=r"on 127\.0\.0\.1 ended with status 5: no …"):
        ran.check()
    assert "hunter2" not in str(call.commands[0].kept())


def test_its_time_limit_ends_all_of_it_there(server: Server, tmp_path: Path) -> None:
    command = _sh(f"sleep 1000 & echo $! >{tmp_path}/child; sleep 1000", seconds=1)
    with pytest.raises(TimedOut, match="did not end within 1 s and was killed"):
        server.client().run(command, Claim())
    child = int((tmp_path / "child").read_text())
    _soon(lambda: _gone(child))


@pytest.mark.parametrize("cut", ["connection", "client"])
def test_what_a_broken_connection_leaves_is_unknown_and_ends_by_its_limit(
    server: Server, tmp_path: Path, cut: str
) -> None:
    client, pid = server.client(), tmp_path / "pid"
    command = _sh(f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000", seconds=4)

    def break_it(_number: int) -> None:
        if not pid.exists():
            return
        if cut == "client":
            raise LeaseLost
        for session in server.sessions():
            os.kill(session, signal.SIGKILL)

    kind = TimedOut if cut == "connection" else LeaseLost
    with pytest.raises(kind) as raised:
        client.run(command, Claim(at_checkpoint=break_it))
    if isinstance(raised.value, TimedOut):
        assert "took effect on 127.0.0.1 is not known" in raised.value.detail
        assert raised.value.retryable
    there = int(pid.read_text())
    assert not _gone(there)
    _soon(lambda: _gone(there), 12)


def test_a_host_that_is_not_there_is_an_outage_and_nothing_was_begun(
    server: Server, tmp_path: Path
) -> None:
    client = server.client()
    command = _sh(f"touch {tmp_path}/begun")
    client.close()
    server.stop()
    with pytest.raises(Outage, match="Connection refused"):
        client.run(command, Claim())
    server.start()
    with pytest.raises(Outage, match="Host key verification failed"):
        server.client(known_hosts=tmp_path / "none").run(command, Claim())
    with pytest.raises(Outage, match="Permission denied"):
        server.client(user="nobody").run(command, Claim())
    assert not (tmp_path / "begun").exists()
    client.run(command, Claim()).check()
    assert (tmp_path / "begun").exists()


def test_a_connection_that_went_away_is_made_again(server: Server) -> None:
    client = server.client()
    client.run(_sh("true"), Claim()).check()
    for session in server.sessions():
        os.kill(session, signal.SIGKILL)
    client.run(_sh("true"), Claim()).check()
