"""Giving unused blocks back: what jobs report of it, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.errors import InUse
from tests.engine.conftest import Engine, act, create

MIB = 2**20


def _ended(engine: Engine, request: dict[str, object]) -> dict[str, object]:
    [job_id] = engine.submit(request).job_ids
    engine.work()
    return dict(engine.job(job_id))


def test_a_trim_reports_the_bytes_that_were_freed(engine: Engine, tmp_path: Path) -> None:
    assert _ended(engine, create("vm1", "8M", "fast"))["state"] == "succeeded"
    [image] = tmp_path.glob("**/volumes/**/*~*.img")
    held = b"x" * MIB + bytes(4 * MIB) + b"y" * MIB
    with image.open("r+b") as file:
        file.write(held)
    before = image.stat().st_blocks * 512
    ended = _ended(engine, act("volume.trim", "vm1", "fast"))
    assert ended["state"] == "succeeded", ended["error"]
    freed = before - image.stat().st_blocks * 512
    assert freed == 4 * MIB
    used = before - freed
    assert ended["result"] == {"size_bytes": 8 * MIB, "used_bytes": used, "freed_bytes": freed}
    assert engine.volumes("fast")["vm1"]["used_bytes"] == used
    assert image.read_bytes() == held.ljust(8 * MIB, b"\0")
    assert _ended(engine, act("volume.trim", "vm1", "fast"))["result"]["freed_bytes"] == 0  # type: ignore[index]


def test_what_is_open_or_attached_is_not_trimmed(engine: Engine, tmp_path: Path) -> None:
    assert _ended(engine, create("vm1", "8M", "fast"))["state"] == "succeeded"
    [image] = tmp_path.glob("**/volumes/**/*~*.img")
    with image.open("r+b") as file:
        file.write(bytes(MIB))
        file.flush()
        ended = _ended(engine, act("volume.trim", "vm1", "fast"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "in_use")  # type: ignore[index]
    assert image.stat().st_blocks * 512 >= MIB
    _ended(engine, create("vm2"))
    _ended(engine, act("volume.attach", "vm2", host=engine.settings.host))
    with pytest.raises(InUse, match="detach it first"):
        engine.submit(act("volume.trim", "vm2"))
