"""What may be scheduled, and how that is written."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import Reason, parse_request
from orchestrator.domain.action import Action, Need
from orchestrator.domain.cron import CronText
from orchestrator.domain.errors import InvalidInput, MissingField, UnknownAction
from orchestrator.domain.exact import Exact
from orchestrator.domain.keeping import Keep
from orchestrator.domain.names import BackendName

#: What is no job: the scheduler writes new events to files.
EXPORT = "events.export"
#: Every action that a schedule can have done.
SCHEDULABLE: dict[str, Action] = {name: one for name, one in ACTIONS.items() if one.schedulable}

#: A name begins those of snapshots.
NAME_OF_SCHEDULES = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Pattern = Annotated[
    str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._:/+*?\[\]!-]+$")
]

#: What in a pattern is not literally so.
_WILD = re.compile(r"[*?\[]")


class ScheduleSpec(Exact):
    """What is done again and again."""

    cron: CronText
    action: str = Field(
        max_length=40,
        description="What is done.",
        json_schema_extra={"enum": [*SCHEDULABLE, EXPORT]},
        examples=["snapshot.create"],
    )
    backend: BackendName | None = Field(default=None, description="Where; not for events.export.")
    volumes: Annotated[list[Pattern], Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="Patterns of names (`*`, `?`, `[a-c]`), for actions on volumes and snapshots: "
        "it is done to each volume that one of them fits.",
        examples=[["vm*"]],
    )
    params: dict[str, Any] = Field(default_factory=dict, description="The action's parameters.")
    keep: Keep | None = Field(
        default=None,
        description="Which of the snapshots that it made are kept; all of them, if absent.",
    )
    enabled: bool = True
    reason: Reason | None = Field(default=None, description="What it is for.")


def check_schedule(spec: ScheduleSpec) -> ScheduleSpec:
    """The same with its parameters as jobs keep them. Raises the `Problem` that forbids it."""
    if spec.action == EXPORT:
        for field in ("backend", "volumes", "params", "keep"):
            if getattr(spec, field):
                raise InvalidInput(f"{EXPORT} takes no {field}: leave it out", field=field)
        return spec
    action = SCHEDULABLE.get(spec.action)
    if action is None:
        kind, is_ = (InvalidInput, "is not") if spec.action in ACTIONS else (UnknownAction, "is no")
        raise kind(
            f"{spec.action!r} {is_} an action that can be scheduled; these are: "
            f"{', '.join([*SCHEDULABLE, EXPORT])}",
            field="action",
        )
    if spec.backend is None:
        raise MissingField(f"'backend' is missing: {action.name} is done on one", field="backend")
    if on_volumes(action) and spec.volumes is None:
        raise MissingField(
            "'volumes' is missing: give patterns of names, such as 'vm*', or '*' for all of them",
            field="volumes",
        )
    if not on_volumes(action) and spec.volumes is not None:
        raise InvalidInput(
            f"{action.name} is done on the backend: leave volumes out", field="volumes"
        )
    if spec.keep is not None and action.made != "snapshot":
        raise InvalidInput(
            f"{action.name} makes no snapshots: leave keep out, or schedule snapshot.create",
            field="keep",
        )
    for name in action.by_hand:
        if spec.params.get(name):
            raise InvalidInput(
                f"{name} is for people who have looked, not for schedules: leave it out",
                field=f"params.{name}",
            )
    request = parse_request(
        {
            "action": action.name,
            "backend": spec.backend,
            "volume": "any" if on_volumes(action) else None,
            "snapshot": "any" if action.made == "snapshot" else None,
            "params": spec.params,
        }
    )
    return spec.model_copy(update={"params": request.stored_params()})


def on_volumes(action: Action) -> bool:
    """Whether it is done to volumes, and not to the backend."""
    return action.needs["volume"] is Need.REQUIRED


def fitting(patterns: Iterable[str]) -> re.Pattern[str]:
    """What the names fully match that one of the patterns fits."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


def beginnings(patterns: Iterable[str]) -> list[str]:
    """What the names begin with that a pattern fits, in order; none of these begins another."""
    found: list[str] = []
    for literal in sorted(_WILD.split(pattern, maxsplit=1)[0] for pattern in patterns):
        if not (found and literal.startswith(found[-1])):
            found.append(literal)
    return found
