"""The matrix: every action, broken off at every step by every fault, on every driver and database.

A test is an action under a fault; each step that the action passes is a subtest, a cell.
A cell counts only if its step was reached and its fault has happened there.
"""

from __future__ import annotations

import pytest

from orchestrator.failpoints import POINTS
from tests.chaos.cases import CASES
from tests.chaos.cell import Cell, run
from tests.chaos.choice import CHOICE
from tests.chaos.conftest import Places
from tests.chaos.faults import DATABASES, DRIVERS, FAULTS, ROLES
from tests.chaos.passes import Passes
from tests.chaos.record import GREEN, RED, Absent, Record, Result


def _tests() -> list[object]:
    found = [
        (database, driver, role, fault, case)
        for database in DATABASES
        for driver in DRIVERS
        for small in (False, True)
        for role in ROLES
        for case in CASES
        for fault, made in FAULTS.items()
        if made.small == small and made.fits(role, driver, database) and CASES[case].fits(driver)
    ]
    return [
        pytest.param(*one, id="-".join(one).replace(" ", "_")) for one in CHOICE.of_tests(found)
    ]


@pytest.mark.parametrize(("database_kind", "driver", "role", "fault", "case"), _tests())
def test_nothing_is_lost_or_done_twice(
    places: Places,
    passes: Passes,
    record: Record,
    mountable: bool,
    subtests: pytest.Subtests,
    database_kind: str,
    driver: str,
    role: str,
    fault: str,
    case: str,
) -> None:
    made = FAULTS[fault]
    if made.small and not mountable:
        record.untried[fault] = "this machine lets us mount no small file system"
        pytest.skip(record.untried[fault])
    try:
        steps = passes.steps(places.at(driver, database_kind).world, role, CASES[case])
    except BaseException as error:
        error.add_note(places.nursery.said())
        places.leave()
        raise
    for point in POINTS:
        if point not in steps:
            record.absent.add(Absent(role, case, point, driver, database_kind))
    here = (role, case, fault, driver, database_kind)
    for name in CHOICE.of_steps(
        [name for name, one in steps.items() if made.at(one.step.point)], *here
    ):
        there = steps[name]
        cell = Cell(role, CASES[case], there.step, made)
        outcome = RED
        with subtests.test(step=name):
            try:
                place = places.at(driver, database_kind, small=made.small)
                places.nursery.forget()
                run(place.world, place, cell, there.nth, there.held_at)
                outcome = GREEN
            except BaseException as error:
                error.add_note(CHOICE.again(*here, name))
                error.add_note(places.nursery.said())
                places.leave()
                raise
            finally:
                record.note(Result(role, case, name, fault, driver, database_kind, outcome))
