"""What a worker's log says of jobs, and what it does not say again and again."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.engine.conftest import Engine, act, create, grow
from tests.engine.test_execution import _faults

pytestmark = pytest.mark.either_database


def _lines(logs: Any, event: str) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] == event]


def test_a_job_is_told_with_what_it_is_about(engine: Engine) -> None:
    with capture_logs(processors=[merge_contextvars]) as logs:
        [made] = engine.submit(create("a")).job_ids
        engine.work()
        _faults(engine).set(operation="grow", kind="fail")
        [failed] = engine.submit(grow("a", "2M", max_attempts=1)).job_ids
        engine.work()
    about = {"backend": "ram", "volume": "a"}
    [line] = _lines(logs, "job.succeeded")
    wanted = {"job": made, "action": "volume.create", "log_level": "info", **about}
    assert line.items() >= wanted.items()
    [line] = _lines(logs, "job.failed")
    assert line.items() >= {"job": failed, "action": "volume.grow", **about}.items()
    assert "a fault was set" in line["why"]


def test_jobs_that_were_done_together_are_told_together_each_of_them(engine: Engine) -> None:
    names = [f"vm-{n}" for n in range(500)]
    with capture_logs() as logs:
        ids = engine.submit(*map(create, names)).job_ids
        engine.work()
    lines = _lines(logs, "jobs.succeeded")
    assert 1 <= len(lines) <= 20
    told = Counter(pair for line in lines for pair in re.split(", ", line["jobs"]))
    assert told == Counter(f"{job} {name}" for job, name in zip(ids, names, strict=True))
    assert {(line["action"], line["backend"]) for line in lines} == {("volume.create", "ram")}


def test_an_outage_is_told_when_it_begins_and_when_it_ends(engine: Engine) -> None:
    engine.submit(create("there"))
    engine.work()
    faults = _faults(engine)
    with capture_logs() as logs:
        faults.set(operation="read_identity", kind="fail", code="outage")
        ids = engine.submit(
            *(create(f"v{n}") for n in range(300)), grow("there", "2M"), act("volume.verify", "v0")
        ).job_ids
        for _ in range(10):
            engine.work()
            engine.time_passes()
            engine.worker.serving.look_at_unusable()
            engine.worker.serving.leases.renew_due()
        faults.clear()
        engine.worker.serving.look_at_unusable()
        for _ in range(4):
            engine.work()
    assert set(engine.states(ids)) == {"succeeded"}
    said = [line for line in logs if line["log_level"] in ("warning", "error")]
    assert [line["event"] for line in said] == ["backend.unusable"], said
    assert len(_lines(logs, "backend.usable")) == 1
    assert len(_lines(logs, "backend.jobs_let_go")) <= 4
