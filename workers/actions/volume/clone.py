"""Make a volume with the contents of another or of a snapshot."""

from __future__ import annotations

from orchestrator.actions.volume.clone import CLONE, own_metadata
from orchestrator.resources.volume.resource import size_wanted
from workers.backends.base.abilities import CanClone
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import (
    Done,
    Work,
    discard_volume,
    made_of_source,
    recorded_source,
    refuse_written_elsewhere,
)


def clone(work: Work) -> Done:
    """Make a volume with the contents of another or of a snapshot."""
    refuse_written_elsewhere(work, recorded_source(work))
    source = work.source if work.intent.snapshot is None else work.snapshot
    size, metadata = size_wanted(work.claim), own_metadata(work.intent, work.claim.source)
    return made_of_source(
        work, driver_that(work.driver, CanClone).clone(work.volume, source, size, metadata, work)
    )


HANDLERS = (Handler(CLONE, clone, undo=discard_volume),)
