"""Hooks: programs that an administrator has put before and after actions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.settings import HooksSettings, Settings
from tests.engine.conftest import Engine, act, create, grow

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

_NOBODY = 65534


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    path = tmp_path / "hooks"
    path.mkdir()
    return path


@pytest.fixture
def settings(settings: Settings, hooks: Path) -> Settings:
    return settings.model_copy(update={"hooks": HooksSettings(path=hooks, seconds=3)})


def _hook(hooks: Path, directory: str, name: str, body: str, mode: int = 0o755) -> Path:
    program = hooks / directory / name
    program.parent.mkdir(exist_ok=True, mode=0o755)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(mode)
    return program


def _end(engine: Engine, request: dict[str, object]) -> dict[str, object]:
    [job_id] = engine.submit(request).job_ids
    engine.work()
    return dict(engine.job(job_id))


def test_hooks_run_in_order_and_are_told_what_is_done(
    engine: Engine, hooks: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    line = f'echo "$(basename "$0") $ORCHESTRATOR_HOOK_ACTION $ORCHESTRATOR_HOOK_VOLUME" >>{told}'
    for directory, name in (
        ("any.pre.d", "99-first"),
        ("volume.create.pre.d", "10-second"),
        ("volume.create.pre.d", "20-third"),
        ("any.post.d", "00-fourth"),
        ("volume.create.post.d", "00-fifth"),
        ("volume.grow.pre.d", "00-never"),
    ):
        _hook(hooks, directory, name, line)
    _hook(hooks, "volume.create.pre.d", "README.txt", "exit 1")
    _hook(hooks, "volume.create.pre.d", "not-executable", "exit 1", mode=0o644)
    _hook(hooks, "volume.create.post.d", "result", f"env >{tmp_path}/env; cat >{tmp_path}/document")
    ended = _end(engine, create("vm1", reason="for a test"))
    assert ended["state"] == "succeeded"
    assert "warnings" not in ended["result"]  # type: ignore[operator]
    names = ["99-first", "10-second", "20-third", "00-fourth", "00-fifth"]
    assert told.read_text().splitlines() == [f"{name} volume.create vm1" for name in names]
    seen = (tmp_path / "env").read_text()
    for expected in (
        "ORCHESTRATOR_HOOK_PHASE=post",
        "ORCHESTRATOR_HOOK_BACKEND=ram",
        f"ORCHESTRATOR_HOOK_JOB={ended['id']}",
        "ORCHESTRATOR_HOOK_REASON=for a test",
        f"ORCHESTRATOR_HOOK_WORKER_HOST={engine.settings.host}",
    ):
        assert expected in seen
    document = json.loads((tmp_path / "document").read_text())
    assert document["params"] == {"size_bytes": 2**20, "metadata": {}}
    assert document["result"] == ended["result"]
    assert document["policy"] is None
    for name in ("phase", "backend", "volume", "volume_id", "job", "reason", "worker_host"):
        assert f"ORCHESTRATOR_HOOK_{name.upper()}={document[name]}\n" in seen


def test_what_a_job_is_about_may_be_longer_than_variables_can_be(
    engine: Engine, hooks: Path, tmp_path: Path
) -> None:
    metadata = {f"key{number}": "\N{HAMSTER FACE}" * 1024 for number in range(20)}
    for phase in ("pre", "post"):
        _hook(hooks, f"any.{phase}.d", "reads", f"cat >{tmp_path}/{phase}")
        _hook(hooks, f"any.{phase}.d", "reads-nothing", "true")
    params = {"size_bytes": "1M", "metadata": metadata}
    ended = _end(engine, act("volume.create", "vm1", params=params))
    assert ended["state"] == "succeeded", ended["error"]
    assert "warnings" not in ended["result"]  # type: ignore[operator]
    for phase in ("pre", "post"):
        assert json.loads((tmp_path / phase).read_text())["params"]["metadata"] == metadata


def test_a_hook_that_fails_before_stops_the_job_and_nothing_is_changed(
    engine: Engine, hooks: Path
) -> None:
    assert _end(engine, create("vm1"))["state"] == "succeeded"
    for action in ("create", "grow", "remove"):
        _hook(hooks, f"volume.{action}.pre.d", "no", 'echo "not on a Friday" >&2; exit 1')
    for request in (create("vm2"), grow("vm1", "2M"), act("volume.remove", "vm1")):
        ended = _end(engine, request)
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "hook_failed"  # type: ignore[index]
        assert ended["error"]["detail"].endswith("ended with status 1: not on a Friday")  # type: ignore[index]
    [(name, view)] = engine.volumes().items()
    assert (name, view["size_bytes"], view["state"]) == ("vm1", 2**20, "available")


def test_a_hook_that_fails_after_is_told_with_the_result(engine: Engine, hooks: Path) -> None:
    _hook(hooks, "volume.create.post.d", "mail", "echo no server; exit 7")
    ended = _end(engine, create("vm1"))
    assert ended["state"] == "succeeded"
    [warning] = ended["result"]["warnings"]  # type: ignore[index]
    assert warning.endswith("mail ended with status 7: no server")


@pytest.mark.parametrize(
    ("body", "mode", "told"),
    [
        ("sleep 1000", 0o755, "did not end within 3 s"),
        pytest.param("sleep 1000 &", 0o755, "holds its output open", marks=pytest.mark.slow),
        ("kill -9 $$", 0o755, "was killed by signal 9 (SIGKILL)"),
        ("true", 0o777, "others may write to"),
    ],
)
def test_a_hook_at_fault_is_told(
    engine: Engine, hooks: Path, body: str, mode: int, told: str
) -> None:
    _hook(hooks, "volume.create.pre.d", "fault", body, mode)
    ended = _end(engine, create("vm1"))
    assert ended["state"] == "failed"
    assert told in ended["error"]["detail"]  # type: ignore[index]
    assert engine.volumes() == {}


@pytest.mark.parametrize("part", ["", "any.pre.d", "any.pre.d/hook"])
@pytest.mark.parametrize(
    ("owner", "mode", "remedy"),
    [(_NOBODY, 0o755, "chown root "), (0, 0o777, "chmod go-w "), (0, 0o775, "chmod go-w ")],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_others_could_exchange_is_not_run(
    engine: Engine, hooks: Path, part: str, owner: int, mode: int, remedy: str, tmp_path: Path
) -> None:
    _hook(hooks, "any.pre.d", "hook", f"touch {tmp_path}/it-ran")
    place = hooks / part
    os.chown(place, owner, owner)
    place.chmod(mode)
    for action in ("create", "grow"):
        (hooks / f"volume.{action}.post.d").mkdir()
    ended = _end(engine, create("vm1"))
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "hook_failed"  # type: ignore[index]
    assert ended["error"]["detail"].endswith(f"'{remedy}{place}'")  # type: ignore[index]
    assert not (tmp_path / "it-ran").exists()
    os.chown(place, 0, 0)
    place.chmod(0o755)
    assert _end(engine, create("vm1"))["state"] == "succeeded"
    assert (tmp_path / "it-ran").exists()


def test_hooks_that_cannot_be_found_are_not_taken_for_none(engine: Engine, hooks: Path) -> None:
    hooks.rmdir()
    ended = _end(engine, create("vm1"))
    assert ended["state"] == "failed"
    assert "there is no directory" in ended["error"]["detail"]  # type: ignore[index]
    hooks.mkdir(mode=0o755)
    assert _end(engine, create("vm1"))["state"] == "succeeded"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_hooks_that_are_not_trusted_after_the_action_are_told_with_the_result(
    engine: Engine, hooks: Path
) -> None:
    _hook(hooks, "any.post.d", "hook", "true")
    os.chown(hooks / "any.post.d", _NOBODY, _NOBODY)
    ended = _end(engine, create("vm1"))
    assert ended["state"] == "succeeded"
    [warning] = ended["result"]["warnings"]  # type: ignore[index]
    assert "belongs to user nobody" in warning


def test_what_hooks_say_is_kept_with_the_job(engine: Engine, hooks: Path) -> None:
    hook = _hook(hooks, "volume.create.pre.d", "check", "echo quota is fine")
    ended = _end(engine, create("vm1"))
    [kept] = ended["result"].pop("output")  # type: ignore[attr-defined]
    assert kept.pop("seconds") >= 0
    assert kept == {"command": str(hook), "status": 0, "said": "quota is fine"}
    hook.write_text("#!/bin/sh\necho quota is used up; exit 1\n")
    ended = _end(engine, create("vm2"))
    [kept] = ended["attempts"][0]["error"]["output"]  # type: ignore[index]
    assert (kept["status"], kept["said"]) == (1, "quota is used up")
    # Once, and neither with the job's own error nor in history.
    assert "output" not in ended["error"]  # type: ignore[operator]
    hook.write_text("#!/bin/sh\n")
    assert "output" not in _end(engine, create("vm3"))["result"]  # type: ignore[operator]
