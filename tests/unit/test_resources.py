"""Each kind of thing that jobs make is registered, with all that the engine asks of it."""

from __future__ import annotations

from pkgutil import iter_modules
from typing import Any

import pytest
import typer

from orchestrator import resources
from orchestrator.actions.registry import ACTIONS
from orchestrator.cli import policies
from orchestrator.cli.resources import group_of
from orchestrator.contract.jobs import Job, PlannedJob, naming_targets
from orchestrator.domain.action import Action
from orchestrator.domain.outlook import Intent
from orchestrator.domain.targets import COLUMNS, KINDS, Kind
from orchestrator.resources.registry import RESOURCES, registered
from orchestrator.resources.resource import Resource
from orchestrator.store.tables import jobs

ROOMS = {one.name for one in iter_modules(resources.__path__) if one.ispkg}


def test_every_kind_that_jobs_name_is_a_resource() -> None:
    assert list(RESOURCES) == list(KINDS)
    assert ROOMS - set(KINDS) == set(), "not among KINDS in orchestrator/domain/targets.py"


def test_nothing_starts_with_a_kind_that_is_no_resource() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"orchestrator\.resources\.host"):
        registered([*KINDS, "host"])


@pytest.mark.parametrize("kind", KINDS)
def test_answers_about_jobs_name_every_kind(kind: str) -> None:
    assert kind in Job.model_fields
    assert kind in PlannedJob.model_fields
    assert naming_targets(Job) is Job


def test_a_kind_is_named_by_jobs_without_being_written_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, "label", Kind("label", "label", "labels", "gold"))
    made = naming_targets(PlannedJob)
    job = made.model_validate(
        {"action": "label.create", "backend": "fast", "label": "gold", "params": {}}
        | {"would": "", "notes": [], "waits_for": []}
    )
    assert job.model_dump()["label"] == "gold"
    assert made.__name__ == "PlannedJob"
    assert made.model_json_schema()["properties"]["label"]["default"] is None


def test_a_kind_without_commands_of_its_own_has_the_derived_ones() -> None:
    derived: Any = typer.main.get_command(group_of("policy"))
    written: Any = typer.main.get_command(policies.app)
    assert list(derived.commands) == list(written.commands)


@pytest.mark.parametrize(
    "action", [one for one in ACTIONS.values() if one.creates], ids=lambda one: one.name
)
def test_what_an_action_makes_is_a_resource(action: Action) -> None:
    assert action.kind in RESOURCES
    assert action.subject == action.kind


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=lambda one: one.kind)
def test_jobs_say_which_one_they_mean(resource: Resource) -> None:
    assert all(hasattr(Intent, name) or name in COLUMNS.values() for name in resource.bound)
    assert set(COLUMNS.values()) <= set(jobs.c.keys())
    assert resource.key.name in resource.table.c
    assert resource.id_name not in resource.bound, "a retry makes one of its own"
