"""The kinds of events there are, beside those that are named after the action that was done."""

from __future__ import annotations

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.nearest import did_you_mean
from orchestrator.domain.states import EventKind

#: Every kind of event of this version; history may hold others, of earlier ones.
EVENT_KINDS = frozenset({*ACTIONS, *(kind.value for kind in EventKind)})


def check_kind(kind: str | None) -> None:
    """Raise `InvalidInput` if no event is of this kind."""
    if kind is not None and kind not in EVENT_KINDS:
        raise InvalidInput(
            f"there are no events of the kind {kind!r}"
            + did_you_mean(
                kind, EVENT_KINDS, "; there are actions such as volume.grow, and job.failed …"
            ),
            field="kind",
        )
