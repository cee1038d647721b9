"""Make a volume usable on a host, and verify that it is."""

from __future__ import annotations

from orchestrator.actions.volume.attach import ATTACH
from workers.actions.volume.hosts import host, refuse_elsewhere
from workers.backends.base.abilities import CanAttach, CanAttachReadOnly
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Whole, of_volume
from workers.execution.truth import Seen
from workers.execution.work import Done, Work, attached_as


def attach(work: Work) -> Done:
    """Make a volume usable on the host, and verify that it is."""
    refuse_elsewhere(work)
    work.intend("attach")
    read_only = bool(work.intent.params.get("read_only"))
    if read_only:
        device = driver_that(work.driver, CanAttachReadOnly).attach(
            work.volume, work, read_only=True
        )
    else:
        device = driver_that(work.driver, CanAttach).attach(work.volume, work)
    told = {"device": device.path, "uris": list(device.uris), "host": host(work)}
    return Done(result=told, changes=[attached_as(work.volume.id, host(work), device)], after=told)


def _outcome(work: Work, _facts: VolumeFacts, seen: Seen) -> Become:
    if not seen.devices:
        return Nothing()
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    device, host = seen.devices[0], work.intent.host
    told = {"device": device.path, "uris": list(device.uris), "host": host}
    attached = attached_as(work.volume.id, host, device)
    return Whole(Done(result=told, changes=[attached], after=told))


HANDLERS = (Handler(ATTACH, attach, outcome=of_volume(_outcome)),)
