"""Detach a volume from a host."""

from __future__ import annotations

from orchestrator.actions.volume.detach import DETACH
from orchestrator.inventory.hosts import refuse_living
from orchestrator.resources.volume.changes import Detached
from workers.actions.volume.hosts import host, refuse_elsewhere
from workers.backends.base.abilities import CanAttach
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work


def detach(work: Work) -> Done:
    """Take a volume away from the host; by force, only strike the record of a dead one."""
    forced = bool(work.intent.params.get("force"))
    if forced:
        with work.database.read() as transaction:
            refuse_living(transaction, host(work))
    else:
        refuse_elsewhere(work)
        work.intend("detach")
        driver_that(work.driver, CanAttach).detach(work.volume, work)
    return Done(
        result={"forced": forced},
        changes=[Detached(work.volume.id, host(work))],
        after={"host": host(work), "forced": forced},
    )


def _outcome(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if seen.devices:
        return Nothing()
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    told = {"host": work.intent.host, "forced": False}
    gone_ = Detached(work.volume.id, work.intent.host)
    return Whole(Done(result={"forced": False}, changes=[gone_], after=told))


HANDLERS = (Handler(DETACH, detach, outcome=of_volume(_outcome)),)
