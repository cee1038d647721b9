"""What is suggested for a name that is not known, and what never is."""

import pytest

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.nearest import did_you_mean, loses, nearest


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("volume.craete", "volume.create"),
        ("volume.Grow", "volume.grow"),
        ("volume.set-info", "volume.set_info"),
        ("volumes.clone", "volume.clone"),
        ("snapshot.creat", "snapshot.create"),
        ("backend.refesh", "backend.refresh"),
        # The nearest takes something away, and what comes next is not meant.
        ("volume.move", None),
        ("volume.remov", None),
        ("volume.pruge", None),
        ("volume.roll_back", None),
        ("snapshot.delet", None),
        ("volume.explode", None),
        ("", None),
        ("grow", None),
    ],
)
def test_a_mistyped_action_names_the_nearest_that_loses_nothing(
    written: str, meant: str | None
) -> None:
    assert nearest(written, ACTIONS) == meant


def test_each_action_that_destroys_is_known_to_lose_something() -> None:
    assert [a.name for a in ACTIONS.values() if a.destructive and not loses(a.name)] == []


def test_a_sentence_goes_on_with_what_was_meant_or_with_something_else() -> None:
    assert did_you_mean("fasst", ["fast", "ram"]) == ": did you mean 'fast'?"
    assert did_you_mean("x", ["fast", "ram"]) == ""
    assert did_you_mean("x", ["fast", "ram"], "; there are fast, ram") == "; there are fast, ram"
