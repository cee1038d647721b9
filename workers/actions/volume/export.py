"""Write the contents of a volume or a snapshot into a new file."""

from __future__ import annotations

from orchestrator.actions.volume.export import EXPORT
from orchestrator.domain.errors import HostUnavailable
from workers.backends.base.abilities import CanExport
from workers.backends.base.call import Call
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.images import exported
from workers.execution.work import Done, Work


def export(work: Work) -> Done:
    """Write the contents of a volume or a snapshot into a new file."""
    target = work.intent.params["target"]
    source = work.volume if work.intent.snapshot is None else work.snapshot
    _begun_here(work)
    with exported(target, work.here.transfer, work.driver.installation, work) as file:
        size = file.published(work.steps)
        if size is None:
            file.refuse_taken()
            work.intend("export", target=target, host=work.host)
            file.clear()
            with driver_that(work.driver, CanExport).contents(source, work) as contents:
                built = file.build(contents)
            size = built["size_bytes"]
            work.note(f"publish {work.fence}", **built)
            work.checkpoint()
            file.publish()
    told = {"target": target, "size_bytes": size, "host": work.host}
    return Done(result=told, after=told)


def _take_back(work: Work, call: Call) -> None:
    """Leave nothing of an export that failed or was canceled."""
    if work.intended("export") is None:
        return
    _begun_here(work)
    target = work.intent.params["target"]
    with exported(target, work.here.transfer, work.driver.installation, call) as file:
        file.take_back(work.steps)


def _begun_here(work: Work) -> None:
    """Raise `HostUnavailable` where another host has begun: its files are not seen here."""
    step = work.intended("export")
    if step is not None and step.detail["host"] != work.host:
        raise HostUnavailable(
            f"this was begun on host {step.detail['host']}, which may have left a file beside "
            f"{work.intent.params['target']}, or that itself: look there"
        )


HANDLERS = (Handler(EXPORT, export, undo=_take_back),)
