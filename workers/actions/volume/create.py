"""Make an empty volume."""

from __future__ import annotations

from orchestrator.actions.volume.create import CREATE
from orchestrator.resources.volume.resource import size_wanted
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, discard_volume, made


def create(work: Work) -> Done:
    """Make an empty volume."""
    metadata = work.intent.params.get("metadata") or {}
    facts = work.driver.create(work.volume, size_wanted(work.claim), metadata, work)
    return made(work, facts)


HANDLERS = (Handler(CREATE, create, undo=discard_volume),)
