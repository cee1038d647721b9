"""Make a volume with the contents of one on another backend."""

from __future__ import annotations

from orchestrator.actions.volume.clone import own_metadata
from orchestrator.actions.volume.copy import COPY
from orchestrator.resources.volume.resource import size_wanted
from workers.backends.base.abilities import CanExport, CanImport
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, discard_volume, made_of_source


def copy(work: Work) -> Done:
    """Make a volume with the contents of one on another backend."""
    source = work.source if work.intent.snapshot is None else work.snapshot
    metadata = own_metadata(work.intent, work.claim.source)
    with driver_that(work.source_driver, CanExport).contents(source, work) as contents:
        facts = driver_that(work.driver, CanImport).load(
            work.volume, size_wanted(work.claim), metadata, contents, work
        )
    return made_of_source(work, facts)


HANDLERS = (Handler(COPY, copy, undo=discard_volume),)
