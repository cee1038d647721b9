"""Hide a volume, whose data stays; bring it back."""

from __future__ import annotations

from orchestrator.actions.volume.restrict import RESTRICT, UNRESTRICT
from orchestrator.domain.states import VolumeState
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.facts import VolumeFacts, there
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, OutcomeOf, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume


def restrict(work: Work) -> Done:
    """Hide a volume; its data stays."""
    refuse_while_used(work)
    work.intend("restrict")
    work.driver.restrict(work.volume, work)
    return _state(work, VolumeState.RESTRICTED)


def unrestrict(work: Work) -> Done:
    """Bring a hidden volume back, if its data is still there."""
    there(work.driver.inspect(work.volume), work.volume)
    work.intend("unrestrict")
    work.driver.unrestrict(work.volume, work)
    return _state(work, VolumeState.AVAILABLE)


def _state(work: Work, state: VolumeState) -> Done:
    return Done(
        result={"state": state},
        changes=[set_volume(work.volume.id, state=state)],
        before={"state": recorded_volume(work).state},
        after={"state": state},
    )


def _restriction(wanted: bool, state: VolumeState) -> OutcomeOf:
    def judge(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
        # None: the storage takes no part in it, so that only the inventory would have changed.
        if facts.restricted is not wanted:
            return Nothing()
        return Whole(
            Done(
                result={"state": state},
                changes=[set_volume(work.volume.id, state=state)],
                before={"state": recorded_volume(work).state},
                after={"state": state},
            )
        )

    return of_volume(judge)


HANDLERS = (
    Handler(RESTRICT, restrict, outcome=_restriction(True, VolumeState.RESTRICTED)),
    Handler(UNRESTRICT, unrestrict, outcome=_restriction(False, VolumeState.AVAILABLE)),
)
