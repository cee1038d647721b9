"""Remove a volume and its data."""

from __future__ import annotations

from typing import Any

from orchestrator.actions.volume.remove import PURGE, REMOVE
from orchestrator.domain.errors import BackendError
from orchestrator.domain.states import VolumeState
from orchestrator.resources.volume.changes import VolumeGone
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.facts import Absent, VolumeFacts, there
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume


def remove(work: Work) -> Done:
    """Remove a volume and its data."""
    wipe = bool(work.intent.params.get("wipe"))
    refuse_while_used(work)
    again = work.intended("remove") is not None
    work.intend("remove", wiped=wipe)
    removed = work.driver.remove(work.volume, work, wipe=wipe)
    if not removed.found and "absence" in work.driver.capabilities():
        _refuse_unproved(work)
    told: dict[str, Any] = {
        "removed": removed.found,
        "wiped": removed.wiped_bytes > 0,
        "wiped_bytes": removed.wiped_bytes,
    }
    if again and not removed.found:
        # An earlier attempt has removed it, and nobody has heard how far it had wiped before.
        told = {"removed": True, "wiped": None if wipe else False, "wiped_bytes": None}
    before = recorded_volume(work)
    return Done(
        result=told,
        changes=[VolumeGone(work.volume.id)],
        before={"state": before.state, "size_bytes": before.size_bytes},
        after={"state": VolumeState.REMOVED, **told},
    )


def _refuse_unproved(work: Work) -> None:
    """Refuse to strike what is not seen to be gone."""
    look = work.driver.inspect(work.volume)
    if not isinstance(look, Absent):
        facts = there(look, work.volume)
        raise BackendError(
            f"volume {facts.name!r} is still on the storage, which has removed nothing: it stays "
            "in the inventory"
        )


def _removed(work: Work) -> Become:
    before, wipe = recorded_volume(work), bool(work.intent.params.get("wipe"))
    # Nobody has heard how far it was wiped before.
    told = {"removed": True, "wiped": None if wipe else False, "wiped_bytes": None}
    return Whole(
        Done(
            result=told,
            changes=[VolumeGone(before.id)],
            before={"state": before.state, "size_bytes": before.size_bytes},
            after={"state": VolumeState.REMOVED, **told},
        )
    )


def _outcome(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    if work.intent.params.get("wipe"):
        return Part(
            "it is there still, and some or all of its contents may have been wiped already",
            {"wipe_begun": True},
        )
    return Nothing()


HANDLERS = (
    Handler(REMOVE, remove, outcome=of_volume(_outcome, _removed)),
    Handler(PURGE, remove, outcome=of_volume(_outcome, _removed)),
)
