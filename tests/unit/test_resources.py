"""Each kind of thing that jobs make is registered, with all that the engine asks of it."""

from __future__ import annotations

import pytest

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.action import Action
from orchestrator.domain.outlook import Intent
from orchestrator.domain.targets import COLUMNS, KINDS
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.resource import Resource
from orchestrator.store.tables import jobs


def test_every_kind_that_jobs_name_is_a_resource() -> None:
    assert list(RESOURCES) == list(KINDS)


@pytest.mark.parametrize(
    "action", [one for one in ACTIONS.values() if one.creates], ids=lambda one: one.name
)
def test_what_an_action_makes_is_a_resource(action: Action) -> None:
    assert action.kind in RESOURCES
    assert action.subject == action.kind


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=lambda one: one.kind)
def test_jobs_say_which_one_they_mean(resource: Resource) -> None:
    assert resource.id_name == COLUMNS.get(resource.kind, f"{resource.kind}_id")
    assert all(hasattr(Intent, name) or name in COLUMNS.values() for name in resource.bound)
    assert set(COLUMNS.values()) <= set(jobs.c.keys())
    assert resource.key.name in resource.table.c
    assert resource.id_name not in resource.bound, "a retry makes one of its own"
