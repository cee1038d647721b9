"""A soak says what grew: more than the work explains, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.soak import HISTORY as KEPT
from benchmarks.soak import Sample, judge
from orchestrator.store.tables import metadata

MIB = 2**20


def sample(turn: int) -> Sample:
    """What a service without fault has after ``turn`` thousands of jobs."""
    jobs = 1000 * turn
    return Sample(
        jobs=jobs,
        latencies=[8.0 + number % 5 for number in range(100)],
        rows={"jobs": jobs, "job_lanes": 5},
        tables={
            "jobs": {"jobs": jobs * 1000, "pk_jobs": jobs * 100},
            "job_lanes": {"job_lanes": 8192},
        },
        files={"the log": 0.1 * turn},
        memory={"api": 150.0 + turn % 2},
        held={"connections to the database": 20 + turn % 2},
    )


def grew(change: Callable[[int, Sample], Sample]) -> list[str]:
    samples = [change(turn, sample(turn)) for turn in range(31)]
    return [one.what for one in judge(samples) if one.grew]


def test_history_may_become_longer() -> None:
    assert grew(lambda _, one: one) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda turn: {"latencies": [8.0 + turn] * 100}, "latency, 50% within"),
        (lambda turn: {"memory": {"api": 150.0 + 5 * turn}}, "memory of api"),
        (lambda turn: {"held": {"open files of worker": 30 + turn}}, "open files of worker"),
        (lambda turn: {"files": {"the log": 0.1 * turn**2}}, "files of the log, added"),
        (
            lambda turn: {"rows": {"jobs": 1000 * turn, "job_lanes": 50 * turn}},
            "job_lanes: rows added",
        ),
        (lambda turn: {"rows": {"jobs": 100 * turn**2, "job_lanes": 5}}, "jobs: rows added"),
        (
            lambda turn: {
                "tables": {"jobs": {"jobs": MIB * turn}, "job_lanes": {"job_lanes": MIB * turn}}
            },
            "job_lanes",
        ),
        (
            lambda turn: {
                "tables": {
                    "jobs": {"pk_jobs": 100_000 * turn**2},
                    "job_lanes": {"job_lanes": 8192},
                }
            },
            "pk_jobs",
        ),
    ],
)
def test_what_grows_without_reason_is_named(
    change: Callable[[int], dict[str, Any]], told: str
) -> None:
    assert told in grew(lambda turn, one: replace(one, **change(turn)))


def test_history_is_of_tables_that_there_are() -> None:
    assert set(metadata.tables) >= KEPT
