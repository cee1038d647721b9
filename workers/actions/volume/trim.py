"""Give the unused blocks of a volume back."""

from __future__ import annotations

from orchestrator.actions.volume.trim import TRIM
from orchestrator.jobs.claim import Step
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.abilities import CanTrim
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts, there
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, sizes_of


def trim(work: Work) -> Done:
    """Give blocks back; what the first attempt found in use says how many."""
    refuse_while_used(work)
    before = there(work.driver.inspect(work.volume), work.volume)
    begun = work.intend("trim", used_bytes=before.used_bytes)
    facts = driver_that(work.driver, CanTrim).trim(work.volume, work)
    freed = _freed(begun, facts)
    return Done(
        result={**sizes_of(facts), "freed_bytes": freed},
        changes=[set_volume(work.volume.id, **sizes_of(facts))],
        after={"used_bytes": facts.used_bytes, "freed_bytes": freed},
    )


def _freed(begun: Step, facts: VolumeFacts) -> int:
    return max(0, int(begun.detail["used_bytes"]) - facts.used_bytes)


def _outcome(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    begun = work.intended("trim")
    if begun is None:
        return Nothing()
    freed = _freed(begun, facts)
    told = f"{freed} bytes were given back by then"
    return Part(told, {"freed_bytes": freed}, stopped=True)


HANDLERS = (Handler(TRIM, trim, outcome=of_volume(_outcome)),)
