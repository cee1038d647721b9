"""Delete a snapshot."""

from __future__ import annotations

from orchestrator.actions.snapshot.delete import DELETE
from orchestrator.domain.states import SnapshotState
from orchestrator.resources.snapshot.changes import SnapshotGone
from workers.backends.base.abilities import CanSnapshot
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import NotOurs, VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work


def delete_snapshot(work: Work) -> Done:
    """Delete a snapshot."""
    work.intend("delete_snapshot", snapshot=work.snapshot.id)
    driver_that(work.driver, CanSnapshot).delete_snapshot(work.snapshot, work)
    return Done(changes=[SnapshotGone(work.snapshot.id)], after={"state": SnapshotState.REMOVED})


def _outcome(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if work.snapshot.id in seen.snapshots:
        return Nothing()
    found = work.driver.inspect_snapshot(work.snapshot)
    if isinstance(found, NotOurs):
        return Part(f"{found.what} stands where the snapshot belongs")
    return Whole(Done(changes=[SnapshotGone(work.snapshot.id)], after={"state": "removed"}))


HANDLERS = (Handler(DELETE, delete_snapshot, outcome=of_volume(_outcome)),)
