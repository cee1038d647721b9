"""What has become of a job that was canceled after it had begun, read off the storage.

The handler of each action that changes what is there has a way to tell. Nothing is begun here: what
happened is told, what happened wholly is the job's success, and what happened in part is told with
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.resources.changes import Change
from workers.backends.base.facts import Absent, PolicyFacts, VolumeFacts
from workers.execution.truth import Seen, gone, look, look_at_policy, recorded, recorded_policy
from workers.execution.work import Done, Work


@dataclass(frozen=True)
class Nothing:
    """Nothing of it happened."""

    changes: Sequence[Change] = ()


@dataclass(frozen=True)
class Whole:
    """All of it happened."""

    done: Done


@dataclass(frozen=True)
class Part:
    """Some of it happened, or may have: what, for people, and as facts."""

    told: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    #: The action can be stopped anywhere: what was done until then stays, as it was to.
    stopped: bool = False


Become = Nothing | Whole | Part

#: Raises whatever keeps it from being seen.
OutcomeOf = Callable[[Work], Become]

#: What is seen of the volume, or of the policy, if it is there.
_Judge = Callable[[Work, VolumeFacts, Seen], Become]

_JudgePolicy = Callable[[Work, PolicyFacts | None], Become]


def of_volume(judge: _Judge, if_gone: Callable[[Work], Become] | None = None) -> OutcomeOf:
    """``if_gone``: what it means that the volume is proved to be gone."""

    def outcome(work: Work) -> Become:
        seen = look(work)
        if if_gone is not None and gone(work, seen):
            return if_gone(work)
        if isinstance(seen.look, VolumeFacts):
            become = judge(work, seen.look, seen)
        else:
            what = "nothing" if isinstance(seen.look, Absent) else seen.look.what
            become = Part(f"{what} is where the volume's storage belongs")
        return _with(become, recorded(work, seen))

    return outcome


def of_policy(judge: _JudgePolicy) -> OutcomeOf:
    def outcome(work: Work) -> Become:
        found = look_at_policy(work)
        become = judge(work, found)
        return become if isinstance(become, Whole) else _with(become, recorded_policy(work, found))

    return outcome


def _with(become: Become, changes: Sequence[Change]) -> Become:
    """The same, with what the inventory has to say of what was seen."""
    match become:
        case Nothing():
            return Nothing(changes)
        case Part(told, facts, stopped=stopped):
            return Part(told, facts, changes, stopped)
    return become
