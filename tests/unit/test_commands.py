"""Commands that are run here: what they see, when they end, what is kept of what they said."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.domain.errors import BackendBusy, BackendError, InUse, TimedOut
from tests.conformance.calls import Claim, LeaseLost
from workers.backends.base.commands import KEPT_BYTES, Command, Kept, Ran, Secrets
from workers.backends.base.processes import members
from workers.backends.base.running import Here


def _sh(script: str, *arguments: str, seconds: float = 10.0, **more: object) -> Command:
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    return Command(argv=argv, seconds=seconds, **more)  # type: ignore[arg-type]


def _run(command: Command, call: Claim | None = None) -> Ran:
    return Here().run(command, call or Claim())


HOSTILE = ("a b", "$(touch /tmp/never)", "`id`", "'", '"', "\\", "-n", "*", "a\nb", "ä", ";", "")


def test_arguments_reach_a_command_as_they_are() -> None:
    ran = _run(Command(argv=("printf", r"%s\0", *HOSTILE), seconds=10))
    assert ran.answer.decode().split("\0")[:-1] == list(HOSTILE)


def test_a_command_sees_nothing_of_the_workers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SECRET", "x")
    ran = _run(Command(argv=("env",), seconds=10, environment={"WANTED": "1"}))
    names = {line.partition("=")[0] for line in ran.answer.decode().splitlines()}
    assert names == {"PATH", "LC_ALL", "WANTED"}


def test_input_need_not_be_read() -> None:
    assert _run(_sh("cat | wc -c", stdin=bytes(2**20))).answer.strip() == b"1048576"
    assert _run(_sh("true", stdin=bytes(2**20))).status == 0


@pytest.mark.parametrize(
    "how", ["sleep 1000 & sleep 1000", "trap '' TERM; sleep 1000 & sleep 1000"]
)
def test_nothing_of_a_command_is_left_when_its_time_is_over(how: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"did not end within 0\.5 s"):
        _run(_sh(f"echo $$ >{tmp_path}/group; {how}", seconds=0.5))
    assert time.monotonic() - begun < 10
    group = int((tmp_path / "group").read_text())
    while members(group):  # a process that was killed takes a moment to end
        time.sleep(0.01)


def test_a_command_may_clean_up_when_it_is_terminated(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/cleaned; exit' TERM; sleep 1000 & wait"
    with pytest.raises(TimedOut):
        _run(_sh(script, seconds=0.5))
    assert (tmp_path / "cleaned").exists()


def test_a_command_ends_with_the_work_that_it_is_part_of(tmp_path: Path) -> None:
    def stop(_number: int) -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        _run(_sh(f"echo $$ >{tmp_path}/group; sleep 1000"), Claim(at_checkpoint=stop))
    assert members(int((tmp_path / "group").read_text())) == []


def test_a_command_does_nothing_more_once_the_lease_is_lost(tmp_path: Path) -> None:
    def lose(_number: int) -> None:
        if (tmp_path / "begun").exists():
            raise LeaseLost

    script = f"trap 'touch {tmp_path}/cleaned' TERM; touch {tmp_path}/begun; sleep 1000 & wait; :"
    with pytest.raises(LeaseLost):
        _run(_sh(script), Claim(at_checkpoint=lose))
    assert not (tmp_path / "cleaned").exists()


def test_the_table_of_a_driver_turns_statuses_into_errors() -> None:
    errors = {5: InUse, 6: BackendBusy}
    for status, kind in ((5, InUse), (6, BackendBusy), (7, BackendError)):
        with pytest.raises(kind, match=f"ended with status {status}: no such luck"):
            _run(_sh(f"echo no such luck >&2; exit {status}")).check(errors)
    assert _run(_sh("echo fine")).check(errors).answer == b"fine\n"
    with pytest.raises(BackendError, match="is not installed"):
        _run(Command(argv=("no-such-command",), seconds=1))


def test_output_without_end_fills_no_memory() -> None:
    call = Claim()
    ran = _run(_sh("yes >&2 & yes | head -c 100000000; kill $!; wait; echo last >&2"), call)
    assert len(ran.answer) == 64 * 1024
    assert not ran.complete
    with pytest.raises(BackendError, match="answered more than 65536 bytes"):
        ran.check()
    [kept] = call.commands
    assert len(kept.said) <= 4 * KEPT_BYTES
    assert kept.kept()["said"].endswith("last")


def test_what_is_kept_has_no_secrets_and_is_bounded() -> None:
    secret = "hunter'2"
    command = _sh('echo "login $0 $1" >&2; exit 3', secret, secrets=Secrets([secret]))
    call = Claim()
    _run(command, call)
    [ran] = call.commands
    shown = f"{ran.kept()}"
    assert "hunter" not in shown
    assert ran.kept()["status"] == 3
    # Nor has what begins in the middle of one.
    many = _sh('while :; do echo "$1"; done | head -c 99999 >&2', secret, secrets=Secrets([secret]))
    assert b"unter" not in _run(many).said
    kept = Kept()
    for _ in range(100):
        kept.add(_run(_sh("head -c 5000 /dev/zero | tr '\\0' x >&2")))
    assert 4 < len(kept.told()) < 10
    silent = Kept()
    silent.add(_run(_sh("true")))
    assert silent.told() == []


def test_a_command_that_leaves_its_output_open_is_at_fault() -> None:
    with pytest.raises(BackendError, match=r"holds its output open \(process \d+, sleep\)"):
        _run(_sh("sleep 1000 &"))


def test_descriptors_are_closed() -> None:
    before = list(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        _run(_sh("echo"))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
