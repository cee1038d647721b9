"""Rename a volume."""

from __future__ import annotations

from orchestrator.actions.volume.rename import RENAME
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.in_use import refuse_while_used
from workers.backends.base.abilities import CanRename
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work


def rename(work: Work) -> Done:
    """Rename a volume."""
    new_name = work.intent.params["new_name"]
    refuse_while_used(work)
    work.intend("rename", new_name=new_name)
    driver_that(work.driver, CanRename).rename(work.volume, new_name, work)
    return Done(
        result={"name": new_name},
        changes=[set_volume(work.volume.id, name=new_name)],
        before={"name": work.volume.name},
        after={"name": new_name},
    )


def _outcome(work: Work, facts: VolumeFacts, _seen: Seen) -> Become:
    old, new = work.volume.name, work.intent.params["new_name"]
    if facts.name == new:
        return Whole(
            Done(
                result={"name": new},
                changes=[set_volume(work.volume.id, name=new)],
                before={"name": old},
                after={"name": new},
            )
        )
    return Nothing() if facts.name == old else Part(f"it is called {facts.name!r}")


HANDLERS = (Handler(RENAME, rename, outcome=of_volume(_outcome)),)
