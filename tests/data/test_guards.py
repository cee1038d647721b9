"""The matrix of data can fail: with any one of the guards switched off, a cell tells so."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.data.cell import Cell
from tests.data.conftest import Grounds
from tests.data.site import Broken
from tests.data.test_matrix import try_it
from tests.data.without import GUARDS, switched_off

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """A cell that notices, and what it says."""

    guard: str
    case: str
    says: str
    ground: str = "file on ext4"
    state: str = "plain"
    others: str = "nothing"
    moment: str = "queued"
    life: str = "as it is"
    afterwards: str = "wait"

    @property
    def cell(self) -> Cell:
        where = (self.ground, self.case, self.state, self.others)
        return Cell(*where, self.moment, self.life, self.afterwards)


NOTICED = (
    Noticed(
        guard="absence",
        case="volume.forget of one said to be lost",
        others="chown",
        says="was struck as lost, and it is there",
    ),
    Noticed(
        guard="in use",
        case="volume.wipe",
        state="open by its address",
        says="was done while the volume was open by its address",
    ),
    Noticed(
        guard="identity over time",
        case="volume.grow",
        life="copied",
        says="a copy of the database did volume.grow",
    ),
    Noticed(
        guard="order",
        case="volume.rollback",
        says="is refused in peace",
    ),
    Noticed(
        guard="cancel",
        ground="ontap",
        case="volume.grow",
        others="answers lost",
        moment="begun",
        afterwards="cancel",
        says="is recorded with",
    ),
    Noticed(
        guard="results",
        ground="extstorage, reuses space",
        case="volume.remove with wipe",
        says="says that it has wiped",
    ),
    Noticed(
        guard="drift",
        case="volume.attach",
        others="truncate",
        says="instead of 2097152",
    ),
    Noticed(
        guard="drift",
        case="volume.rollback that discards newer ones",
        others="snapshot: truncate",
        says="v1 does not hold what it must",
    ),
    Noticed(
        guard="walks",
        case="volume.adopt",
        says="snapshot .* is gone|snapshots of .* are",
    ),
)


def test_each_kind_of_guard_is_switched_off_once() -> None:
    assert {one.guard for one in NOTICED} == set(GUARDS)


@pytest.mark.parametrize("noticed", NOTICED, ids=lambda one: one.guard)
def test_the_matrix_notices_when_a_guard_is_off(grounds: Grounds, noticed: Noticed) -> None:
    grounds.at(noticed.ground)
    assert try_it(grounds, noticed.cell) is None, "the cell does not apply"
    with switched_off(noticed.guard), pytest.raises(Broken) as told:
        try_it(grounds, noticed.cell)
    assert re.search(noticed.says, str(told.value)), told.value
