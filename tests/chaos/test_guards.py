"""The matrix can fail: with any one of the guards switched off, a cell tells so."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from tests.chaos.cases import CASES
from tests.chaos.cell import Cell, run
from tests.chaos.choice import CHOICE
from tests.chaos.conftest import Places
from tests.chaos.faults import DATABASES, FAULTS
from tests.chaos.invariants import Broken
from tests.chaos.processes import Stuck
from tests.chaos.steps import Step

#: A wake-up left from the preparations may hide, by chance, that a guard is off.
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is switched off, the cell that notices, and what it then says."""

    name: str
    role: str
    case: str
    step: str
    fault: str
    says: str
    #: A second guard in the schema, which is taken away in this test's database.
    also: str | None = None
    #: The only database that needs it.
    database: str | None = None


GUARDS = (
    Guard(
        name="fencing",
        role="worker",
        case="volume.grow",
        step="claim.after_commit",
        fault="frozen",
        says="did not end once",
    ),
    Guard(
        name="lanes",
        role="worker",
        case="volume.grow",
        step="claim.after_commit",
        fault="killed",
        says="began before job",
        also="DROP INDEX uq_job_lanes_begun",
    ),
    Guard(
        name="sweep",
        role="api",
        case="volume.grow",
        step="submit.after_commit",
        fault="killed",
        says="is queued for ever",
    ),
    Guard(
        name="idempotency",
        role="api",
        case="volume.update",
        step="submit.after_commit",
        fault="killed",
        says="was never accepted",
    ),
    Guard(
        name="leases",
        role="worker",
        case="volume.grow",
        step="claim.after_commit",
        fault="killed",
        says="is running for ever",
    ),
    Guard(
        name="policy fences",
        role="worker",
        case="policy.set_rules",
        step="journal.after_commit",
        fault="frozen",
        says="the storage has .* of policy",
    ),
    # PostgreSQL itself ends sessions that are idle between statements, and none in mid-pipeline.
    Guard(
        name="watch",
        role="worker",
        case="volume.grow",
        step="claim.before_commit",
        fault="frozen",
        says="others go on",
        database="postgresql",
    ),
)


#: All of them in the long form.
_TRIED = [
    pytest.param(guard, database, id=f"{guard.name}-{database}".replace(" ", "_"))
    for database in (DATABASES if CHOICE.long else DATABASES[:1])
    for guard in GUARDS
    if guard.database in (None, database)
]


@pytest.mark.parametrize(("guard", "database_kind"), _TRIED)
def test_the_matrix_notices_when_a_guard_is_off(
    places: Places, guard: Guard, database_kind: str
) -> None:
    cell = Cell(guard.role, CASES[guard.case], Step(guard.step), FAULTS[guard.fault])
    with_it = places.at("memory", database_kind)
    run(with_it.world, with_it, cell, 1)
    assert any(_notices(places, guard, cell, database_kind) for _ in range(_TRIES)), guard.says


def _notices(places: Places, guard: Guard, cell: Cell, database_kind: str) -> bool:
    without = places.make("memory", database_kind, switched_off=guard.name)
    try:
        if guard.also is not None:
            with without.world.database.write() as connection:
                connection.execute(text(guard.also))
        run(without.world, without, cell, 1)
    except (Broken, Stuck) as broken:
        assert re.search(guard.says, str(broken)), broken
        return True
    finally:
        places.close(without)
    return False
