"""Volumes that grow by themselves: read, found full, and grown, once however many look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from orchestrator.findings.recording import list_findings
from orchestrator.jobs import autosize
from orchestrator.settings import Settings
from orchestrator.store.tables import backends, events
from tests.engine.conftest import Engine, act, create
from workers.scheduler import Scheduler

pytestmark = pytest.mark.either_database

MIB = 2**20


@pytest.fixture
def schedulers(settings: Settings) -> Iterator[list[Scheduler]]:
    made = [Scheduler(settings), Scheduler(settings)]
    yield made
    for scheduler in made:
        scheduler.close()


def growing(volume: str, most: int, size: int = MIB, backend: str = "fast") -> dict[str, object]:
    """A request for a volume that grows up to ``most`` bytes."""
    wanted = {"autosize_enabled": True, "autosize_max_bytes": most}
    return create(volume, backend=backend, params={"size_bytes": size, "settings": wanted})


def fill(engine: Engine, volume: str, much: int) -> None:
    """Write so many bytes into a volume, behind everybody's back."""
    [image] = Path(engine.settings.data, "volumes").rglob(f"{volume}~*.img")
    with image.open("r+b") as file:
        file.write(b"x" * much)


def look(engine: Engine, *schedulers: Scheduler) -> None:
    """Let schedulers look, with the use of volumes read between two looks."""
    for _ in range(2):
        for scheduler in schedulers:
            scheduler._autosize()
        engine.work()


def size(engine: Engine, volume: str, backend: str = "fast") -> int:
    found: int = engine.volumes(backend)[volume]["size_bytes"]
    return found


def test_a_volume_grows_as_it_fills(engine: Engine, schedulers: list[Scheduler]) -> None:
    engine.submit(
        growing("full", 2 * MIB), growing("empty", 2 * MIB), create("other", "1M", "fast")
    )
    engine.work()
    fill(engine, "full", MIB)
    fill(engine, "other", MIB)
    look(engine, *schedulers)
    assert MIB * 6 // 5 <= size(engine, "full") < MIB * 5 // 4
    assert (size(engine, "empty"), size(engine, "other")) == (MIB, MIB)
    with engine.database.read() as connection:
        told = connection.execute(
            text("SELECT reason FROM jobs WHERE action = 'volume.grow'")
        ).all()
    assert told == [("autosize: it was nearly full",)], "two schedulers, one job"


def test_no_volume_grows_beyond_its_maximum(engine: Engine, schedulers: list[Scheduler]) -> None:
    engine.submit(growing("vm1", MIB + 4096))
    engine.work()
    fill(engine, "vm1", MIB)
    look(engine, *schedulers)
    assert size(engine, "vm1") == MIB + 4096
    fill(engine, "vm1", MIB + 4096)
    look(engine, *schedulers)
    assert size(engine, "vm1") == MIB + 4096


def test_what_does_not_grow_any_more_is_left_alone(
    engine: Engine, schedulers: list[Scheduler]
) -> None:
    engine.submit(growing("vm1", 2 * MIB))
    engine.work()
    fill(engine, "vm1", MIB)
    off = {"settings": {"autosize_enabled": False}}
    engine.submit(act("volume.update", "vm1", "fast", params=off))
    engine.work()
    look(engine, *schedulers)
    assert size(engine, "vm1") == MIB


def test_a_growth_that_is_refused_does_no_harm(engine: Engine, schedulers: list[Scheduler]) -> None:
    engine.submit(growing("vm1", 2 * MIB), growing("vm2", 2 * MIB))
    engine.work()
    fill(engine, "vm1", MIB)
    fill(engine, "vm2", MIB)
    engine.submit({"action": "backend.refresh", "backend": "fast"})
    engine.work()
    engine.submit(act("volume.grow", "vm1", "fast", params={"size_bytes": 3 * MIB}))
    look(engine, *schedulers)
    assert size(engine, "vm1") == 3 * MIB, "larger already than it would have become"
    assert size(engine, "vm2") > MIB


def test_a_volume_that_took_the_name_of_the_full_one_does_not_grow(
    engine: Engine, schedulers: list[Scheduler]
) -> None:
    engine.submit(growing("vm1", 2 * MIB))
    engine.work()
    fill(engine, "vm1", MIB)
    engine.submit({"action": "backend.refresh", "backend": "fast"})
    engine.work()
    with engine.database.read() as transaction:
        [growth] = autosize.growths(transaction, 90)
    engine.submit(act("volume.remove", "vm1", "fast"), growing("vm1", 2 * MIB))
    engine.work()
    schedulers[0]._grow(growth)
    engine.work()
    assert size(engine, "vm1") == MIB


def refusals(engine: Engine) -> list[tuple[str, str]]:
    """What the history says of volumes that did not grow: which, and why."""
    query = select(events.c.volume, events.c.data).where(events.c.kind == "autosize.refused")
    with engine.database.read() as connection:
        return [(row.volume, row.data["why"]) for row in connection.execute(query)]


def found(engine: Engine) -> dict[str, str]:
    """What the audit says of such volumes."""
    engine.submit({"action": "backend.audit", "backend": "fast"})
    engine.work()
    with engine.database.read() as connection:
        rows: Any = list_findings(connection, {"state": "open"}, before=None, limit=100)
        return {row["volume"]: row["text"] for row in rows if row["kind"] == "capacity"}


def test_a_volume_that_may_not_grow_is_told_and_found(
    engine: Engine, schedulers: list[Scheduler]
) -> None:
    engine.submit(growing("most", 4 * MIB, 4 * MIB), growing("poor", 16 * MIB, 4 * MIB))
    engine.work()
    with engine.database.write() as connection:
        connection.execute(update(backends).values(total_bytes=8 * MIB, overcommit=1.0))
    fill(engine, "most", 4 * MIB)
    fill(engine, "poor", 4 * MIB)
    engine.submit({"action": "backend.refresh", "backend": "fast"})
    engine.work()
    with engine.database.write() as connection:
        connection.execute(update(backends).values(total_bytes=8 * MIB, overcommit=1.0))
    for scheduler in schedulers * 2:
        scheduler._autosize()
    told = dict(refusals(engine))
    assert len(refusals(engine)) == len(told) == 2, "once each, however many look"
    assert "autosize_max_bytes are 4M" in told["most"]
    assert "may promise" in told["poor"]
    assert "does not grow by itself" in found(engine)["most"]
    # Once it has grown, nothing is wrong with it.
    more = {"settings": {"autosize_max_bytes": 16 * MIB}}
    engine.submit(act("volume.update", "most", "fast", params=more))
    engine.work()
    look(engine, *schedulers)
    assert size(engine, "most") > 4 * MIB
    assert "most" not in found(engine)
