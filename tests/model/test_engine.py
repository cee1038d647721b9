"""The engine under random use and random accidents does what a simple model says.

The short form is always the same run. The long one is another run each time:

    MODEL_EXAMPLES=500 make test ARGS="tests/model -k long --database sqlite"

It prints its seed, which ``MODEL_SEED`` takes; a failure is shrunk to few steps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.settings import Settings
from tests.model.machine import EngineMachine
from tests.model.world import BACKEND, LEASE_SECONDS, World

#: How many histories are tried each time, and how many with the slow tests.
FEW, MANY = 6, 30


@pytest.fixture
def world(
    tmp_path: Path, migrated_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    # What waits in a group is handed back whenever a worker's clock looks.
    monkeypatch.setattr("workers.runner._PATIENCE_SECONDS", 0.0)
    made = World(
        Settings(
            data=tmp_path,
            host="here",
            database={"url": migrated_url},
            broker={"url": broker_url},
            backends={BACKEND: {"driver": "memory", "capacity": "1T"}},
            worker={"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": LEASE_SECONDS / 3},
        )
    )
    monkeypatch.setattr(EngineMachine, "world", made, raising=False)
    yield made
    made.close()


def _settings(examples: int, *, steps: int, derandomize: bool) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        database=None,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    "examples",
    [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
@pytest.mark.usefixtures("world")
def test_the_engine_does_what_the_model_says(examples: int) -> None:
    chosen = _settings(examples, steps=25, derandomize=True)
    run_state_machine_as_test(EngineMachine, settings=chosen)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("world")
@pytest.mark.skipif("MODEL_EXAMPLES" not in os.environ, reason="MODEL_EXAMPLES says how many")
def test_the_engine_does_what_the_model_says_for_long() -> None:
    chosen = _settings(int(os.environ["MODEL_EXAMPLES"]), steps=50, derandomize=False)
    number = int(os.environ.get("MODEL_SEED") or random.SystemRandom().getrandbits(32))
    print(f"MODEL_SEED={number}")
    run_state_machine_as_test(seed(number)(EngineMachine), settings=chosen)
