"""What drivers promise of volumes that others have made and that are taken over."""

from __future__ import annotations

import pytest

from orchestrator.domain.errors import Conflict, NotFound
from tests.conformance.calls import Claim, new_volume
from tests.conformance.conftest import Needs
from tests.conformance.systems import System
from workers.backends.interface import Driver


@pytest.fixture(autouse=True)
def _can(needs: Needs) -> None:
    needs("adopt")


def test_what_is_adopted_bears_our_stamp(driver: Driver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    facts = driver.adopt(volume, Claim())
    assert (facts.id, facts.name) == (volume.id, volume.name)
    assert driver.inspect(volume) == facts
    assert [found.id for found in driver.list_volumes()] == [volume.id]
    driver.remove(volume, Claim())
    assert list(driver.list_volumes()) == []


def test_adopting_again_changes_nothing(driver: Driver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    claim = Claim()
    first = driver.adopt(volume, claim)
    assert driver.adopt(volume, claim.again()) == first


def test_what_bears_a_stamp_is_not_adopted(driver: Driver) -> None:
    mine = new_volume("mine")
    driver.create(mine, 2**20, {}, Claim())
    before = driver.inspect(mine)
    with pytest.raises(Conflict):
        driver.adopt(new_volume("mine"), Claim())
    assert driver.inspect(mine) == before


def test_what_is_not_there_is_not_adopted(driver: Driver) -> None:
    with pytest.raises(NotFound):
        driver.adopt(new_volume("nothing"), Claim())


def test_a_late_adoption_does_no_harm(driver: Driver, system: System) -> None:
    volume = new_volume(system.plant_foreign("old"))
    late, later = Claim(), Claim()
    driver.adopt(volume, later)
    with pytest.raises(Conflict):
        driver.adopt(volume, late)
