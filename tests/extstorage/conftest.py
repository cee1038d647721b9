"""Providers to try, each in a directory of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.extstorage.providers import Provider
from workers.backends.file import loops

Make = Callable[..., Provider]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a provider of some scripts."""
    if not loops.available():
        pytest.skip("loop devices need root")
    made: list[Provider] = []

    def make_one(scripts: dict[str, str], **options: object) -> Provider:
        made.append(Provider(tmp_path / f"p{len(made)}", scripts, options))
        return made[-1]

    yield make_one
    for one in made:
        one.close()
