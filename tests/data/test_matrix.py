"""The matrix of data: every action, in every state, whatever others do meanwhile; nothing is lost.

A test is a part of the cells of one storage; each cell is a subtest of it. One counts only if
what others do has really happened.
"""

from __future__ import annotations

import traceback

import pytest

from tests.data.cases import CASES
from tests.data.cell import Cell, run
from tests.data.choice import CHOICE
from tests.data.conftest import Grounds
from tests.data.grounds import GROUNDS
from tests.data.record import GREEN, LEFT_OUT, RED, Record
from tests.data.site import Without

#: Cells are many, and each has its own patience.
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("part", CHOICE.parts)
@pytest.mark.parametrize(
    "ground",
    # Providers have many manners, which are tried with the slow tests.
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("extstorage,") else [])
        for name in GROUNDS
    ],
)
def test_nothing_is_lost(
    grounds: Grounds, record: Record, subtests: pytest.Subtests, ground: str, part: int
) -> None:
    grounds.at(ground)
    for cell in CHOICE.cells(ground)[part :: CHOICE.spread]:
        with subtests.test(cell=cell.id):
            try:
                why = try_it(grounds, cell)
            except BaseException as error:
                record.note(cell, RED, traceback.format_exception_only(error)[-1].strip())
                error.add_note(f"Alone: make data SEED={CHOICE.seed} CELL='{cell.id}'")
                raise
            record.note(cell, LEFT_OUT if why else GREEN, why or "")


def try_it(grounds: Grounds, cell: Cell) -> str | None:
    """Try a cell; why it does not apply, if it does not."""
    site = grounds.site(cell.ground, **CASES[cell.case].audit)
    why = None
    try:
        run(site, cell)
    except Without as without:
        why = str(without)
    except BaseException:
        site.close()
        grounds.give_up(cell.ground)
        raise
    site.close()
    return why
