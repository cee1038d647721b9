"""Hands tests a double of a filer, and drivers on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.domain.drivers import OntapOptions
from tests.ontap.double import PASSWORD, USER, Double
from workers.backends.ontap import OntapDriver


def written_options(double: Double, **changed: Any) -> str:
    """Options of a driver on a double, as JSON."""
    return json.dumps(
        {
            "hostname": "127.0.0.1",
            "port": double.port,
            "scheme": "http",
            "username": USER,
            "password": PASSWORD,
            "vserver": "svm1",
            "poll": 0.01,
            **changed,
        }
    )


def driver_on(double: Double, **changed: Any) -> OntapDriver:
    options = OntapOptions.model_validate_json(written_options(double, **changed))
    return OntapDriver("nas", options, "tests")


def leftovers(double: Double) -> list[str]:
    """What was begun at the filer and is not finished."""
    filer = double.filer
    snapshots = [one for volume in filer.volumes.values() for one in volume["_snapshots"]]
    every = (*filer.volumes.values(), *filer.policies.records.values(), *snapshots)
    marks = ("orchestrator_new_", "orchestrator_rollback_")
    return [one["name"] for one in every if one["name"].startswith(marks)]


@pytest.fixture
def double() -> Iterator[Double]:
    double = Double().start()
    yield double
    double.stop()


@pytest.fixture
def driver(double: Double) -> OntapDriver:
    return driver_on(double)
