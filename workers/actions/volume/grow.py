"""Grow a volume."""

from __future__ import annotations

from orchestrator.actions.volume.grow import GROW
from orchestrator.domain.errors import BackendError
from orchestrator.resources.volume.changes import set_volume
from workers.backends.base.abilities import CanGrow
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume, sizes_of


def grow(work: Work) -> Done:
    """Grow a volume."""
    wanted = int(work.intent.params["size_bytes"])
    work.intend("grow", size_bytes=wanted)
    facts = driver_that(work.driver, CanGrow).grow(work.volume, wanted, work)
    if facts.size_bytes < wanted:
        raise BackendError(
            f"after growing to {wanted} bytes the volume has {facts.size_bytes}: "
            "the backend did not do what it said"
        )
    return Done(
        result=sizes_of(facts),
        changes=[set_volume(work.volume.id, requested_bytes=wanted, **sizes_of(facts))],
        before={"size_bytes": recorded_volume(work).size_bytes},
        after=sizes_of(facts),
    )


def _outcome(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    wanted, before = int(work.intent.params["size_bytes"]), recorded_volume(work).size_bytes
    if facts.size_bytes >= wanted:
        return Whole(
            Done(
                result=sizes_of(facts),
                changes=[set_volume(work.volume.id, requested_bytes=wanted, **sizes_of(facts))],
                before={"size_bytes": before},
                after=sizes_of(facts),
            )
        )
    if facts.size_bytes > before:
        return Part(f"it has {facts.size_bytes} bytes, of {wanted} asked for", sizes_of(facts))
    return Nothing()


HANDLERS = (Handler(GROW, grow, outcome=of_volume(_outcome)),)
