"""Which snapshot is newer is what the storage says, however the record came to be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.domain.errors import NewerSnapshots
from orchestrator.resources.volume.views import list_snapshots
from orchestrator.store.tables import snapshots, volumes
from tests.engine.conftest import Engine, act, create

pytestmark = pytest.mark.either_database

NAMES = ["zeta", "alpha", "mid", "beta", "omega", "first"]


def do(engine: Engine, *requests: dict[str, Any]) -> list[str]:
    accepted = engine.submit(*requests)
    for _ in requests:
        engine.work()
    return engine.states(accepted.job_ids)


def with_snapshots(engine: Engine, backend: str) -> None:
    requests = [create("vm", backend=backend)]
    requests += [act("snapshot.create", "vm", backend, snapshot=name) for name in NAMES]
    assert set(do(engine, *requests)) == {"succeeded"}


def shown(engine: Engine, backend: str, *, pages_of: int = 100) -> list[str]:
    """The snapshots of the volume as lists show them, page by page."""
    found: list[str] = []
    after = None
    with engine.database.read() as connection:
        while page := list_snapshots(connection, backend, "vm", after=after, limit=pages_of):
            found += [one["name"] for one in page]
            after = page[-1]["id"]
    return found


def adopted_again(engine: Engine, backend: str) -> None:
    assert do(engine, act("volume.forget", "vm", backend)) == ["succeeded"]
    adopt = act("volume.adopt", "vm", backend, params={"take_over": True})
    assert do(engine, adopt) == ["succeeded"]


def recorded_again(engine: Engine, backend: str) -> None:
    """The record of the snapshots is lost, and made anew from the storage."""
    with engine.database.write() as connection:
        connection.execute(snapshots.delete())
    reconcile = act("volume.reconcile", "vm", backend, params={"what": ["snapshots"]})
    assert do(engine, reconcile) == ["succeeded"]


def as_taken(_engine: Engine, _backend: str) -> None:
    """As the jobs recorded them."""


@pytest.mark.parametrize(
    ("backend", "known"),
    [
        ("ram", as_taken),
        ("ram", adopted_again),
        ("ram", recorded_again),
        ("fast", as_taken),
        ("fast", adopted_again),
        ("fast", recorded_again),
    ],
)
def test_a_rollback_deletes_the_newer_ones_alone(
    engine: Engine, backend: str, known: Callable[[Engine, str], None]
) -> None:
    with_snapshots(engine, backend)
    known(engine, backend)
    assert shown(engine, backend) == NAMES
    assert shown(engine, backend, pages_of=2) == NAMES
    with pytest.raises(NewerSnapshots) as refused:
        engine.submit(act("volume.rollback", "vm", backend, snapshot="beta"))
    assert refused.value.facts["snapshots"] == ["omega", "first"]
    rollback = act(
        "volume.rollback", "vm", backend, snapshot="beta", params={"discard_newer": True}
    )
    assert do(engine, rollback) == ["succeeded"]
    assert shown(engine, backend) == NAMES[:4]
    assert do(engine, act("snapshot.create", "vm", backend, snapshot="again")) == ["succeeded"]
    assert shown(engine, backend) == [*NAMES[:4], "again"]


def test_neither_clocks_nor_ids_nor_numbers_of_jobs_say_which_is_newer(engine: Engine) -> None:
    with_snapshots(engine, "fast")
    with engine.database.write() as connection:
        rows = connection.execute(select(snapshots.c.id).order_by(snapshots.c.id)).scalars().all()
        for number, id_ in enumerate(rows):
            connection.execute(
                update(snapshots)
                .where(snapshots.c.id == id_)
                .values(
                    created_by_job=1000 - number,
                    created_at=datetime(2031, 1, 1 + number, tzinfo=UTC),
                )
            )
    assert shown(engine, "fast") == NAMES
    with pytest.raises(NewerSnapshots) as refused:
        engine.submit(act("volume.rollback", "vm", "fast", snapshot="omega"))
    assert refused.value.facts["snapshots"] == ["first"]


def test_what_is_being_taken_is_newer_than_all_that_is_there(engine: Engine) -> None:
    with_snapshots(engine, "ram")
    with engine.database.write() as connection:
        volume = connection.execute(select(volumes.c.id)).scalar_one()
        connection.execute(
            snapshots.insert().values(
                id="0" * 32, volume_id=volume, name="coming", size_bytes=1, state="pending",
                created_by_job=0, created_at=datetime(2001, 1, 1, tzinfo=UTC),
            )
        )  # fmt: skip
    assert shown(engine, "ram", pages_of=3) == [*NAMES, "coming"]
