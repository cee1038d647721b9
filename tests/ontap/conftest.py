"""Hands tests a double of a filer, and drivers on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ontap.double import PASSWORD, USER, Double
from tests.ontap.processes import Forks
from workers.backends.ontap.driver import OntapDriver
from workers.backends.ontap.spec import OntapOptions


def driver_on(double: Double, **changed: Any) -> OntapDriver:
    return driver_at(changed.pop("port", double.port), **changed)


def driver_at(port: int, **changed: Any) -> OntapDriver:
    """A driver on the double that listens there."""
    options = {
        "hostname": "127.0.0.1",
        "port": port,
        "scheme": "http",
        "username": USER,
        "password": PASSWORD,
        "vserver": "svm1",
        "poll": 0.01,
        **changed,
    }
    return OntapDriver("nas", OntapOptions.model_validate(options), "tests")


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


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What makes processes that are to be killed."""
    made = Forks()
    yield made
    made.end()
