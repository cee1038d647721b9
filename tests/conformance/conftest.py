"""Hands each conformance test every storage system in turn, empty and marked."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.conformance.systems import SYSTEMS, AbleDriver, Files, PlainFiles, System, XfsFiles
from workers.backends.base.driver import Driver

_numbers = itertools.count(1)


@pytest.fixture(params=sorted(SYSTEMS))
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A storage system of this test's own."""
    system = SYSTEMS[request.param]()
    try:
        system.start(tmp_path, f"conformance-{os.getpid()}-{next(_numbers)}")
    except pytest.skip.Exception:
        raise
    except BaseException:
        system.stop()
        raise
    yield system
    system.stop()


@pytest.fixture(params=[Files, XfsFiles, PlainFiles], ids=["plain", "xfs", "no-attributes"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    """A `file` backend on each kind of file system."""
    system: Files = request.param()
    try:
        system.start(tmp_path, "files")
        yield system
    finally:
        if hasattr(system, "path"):
            system.stop()


@pytest.fixture
def driver(system: System) -> AbleDriver:
    """The driver of the storage system."""
    return cast(AbleDriver, system.driver)


@pytest.fixture
def needs(driver: Driver) -> "Needs":
    return Needs(driver)


class Needs:
    """Skips a test of what this driver cannot do here, saying so."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, *capabilities: str) -> None:
        missing = sorted(set(capabilities) - self._driver.capabilities())
        if missing:
            pytest.skip(f"{type(self._driver).__name__} cannot do here: {', '.join(missing)}")

    def told(self, what: str) -> None:
        if what in self._driver.cannot_tell:
            pytest.skip(f"the storage of {type(self._driver).__name__} cannot tell: {what}")
