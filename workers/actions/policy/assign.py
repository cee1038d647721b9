"""Give a volume an export policy, or none."""

from __future__ import annotations

from orchestrator.actions.policy.assign import ASSIGN
from orchestrator.resources.volume.changes import set_volume
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, recorded_volume


def assign_policy(work: Work) -> Done:
    """Give a volume an export policy, or none."""
    record, wanted = recorded_volume(work), work.claim.policy
    work.intend("assign")
    driver_that(work.driver, CanExportByPolicy).assign_policy(
        work.volume, work.policy if wanted else None, work
    )
    after = {"policy": wanted.name if wanted else None}
    return Done(
        result=after,
        changes=[set_volume(record.id, policy_id=wanted.row_id if wanted else None)],
        before={"policy": record.policy},
        after=after,
    )


def _outcome(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    record, wanted = recorded_volume(work), work.claim.policy
    name = wanted.name if wanted else None
    if facts.policy == name:
        return Whole(
            Done(
                result={"policy": name},
                changes=[set_volume(record.id, policy_id=wanted.row_id if wanted else None)],
                before={"policy": record.policy},
                after={"policy": name},
            )
        )
    if facts.policy == record.policy:
        return Nothing()
    return Part(f"it has the export policy {facts.policy!r}", {"policy": facts.policy})


HANDLERS = (Handler(ASSIGN, assign_policy, outcome=of_volume(_outcome)),)
