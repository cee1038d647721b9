"""Snapshot the current contents of a volume."""

from __future__ import annotations

from orchestrator.actions.snapshot.create import CREATE
from orchestrator.domain.states import SnapshotState
from orchestrator.resources.snapshot.changes import set_snapshot
from workers.backends.base.abilities import CanSnapshot
from workers.backends.base.call import Call
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, recorded_volume, refuse_written_elsewhere


def create_snapshot(work: Work) -> Done:
    """Keep the present contents under a name."""
    refuse_written_elsewhere(work, recorded_volume(work))
    facts = driver_that(work.driver, CanSnapshot).create_snapshot(work.snapshot, work)
    told = {"size_bytes": facts.size_bytes, "used_bytes": facts.used_bytes}
    kept = {"state": SnapshotState.AVAILABLE, "position": facts.order or None, **told}
    return Done(
        result={"id": work.snapshot.id, **told},
        changes=[set_snapshot(work.snapshot.id, **kept)],
        after={"state": SnapshotState.AVAILABLE, **told},
    )


def _discard(work: Work, call: Call) -> None:
    work.driver.discard(work.snapshot, call)


HANDLERS = (Handler(CREATE, create_snapshot, undo=_discard),)
