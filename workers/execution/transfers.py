"""Contents that come from elsewhere, or go there: copy, import, export."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.domain.errors import HostUnavailable, ImageUnusable
from orchestrator.inventory.changes import set_volume
from orchestrator.jobs.claim import metadata_wanted, size_wanted
from workers.backends.base.abilities import CanExport, CanImport
from workers.backends.base.call import Call
from workers.backends.base.driver import driver_that
from workers.execution.images import exported, opened
from workers.execution.work import Done, Work, made, made_of_source


def copy(work: Work) -> Done:
    """Make a volume with the contents of one on another backend."""
    source = work.source if work.intent.snapshot is None else work.snapshot
    metadata = metadata_wanted(work.claim)
    with driver_that(work.source_driver, CanExport).contents(source, work) as contents:
        facts = driver_that(work.driver, CanImport).load(
            work.volume, size_wanted(work.claim), metadata, contents, work
        )
    return made_of_source(work, facts)


def import_(work: Work) -> Done:
    """Make a volume with the contents of an image."""
    params = work.intent.params
    metadata = params.get("metadata") or {}
    image = opened(
        params["image"],
        work.here.transfer,
        work,
        sha256=params.get("sha256"),
        any_format=params.get("format") == "raw",
    )
    with image as contents:
        size = params.get("size_bytes") or contents.size_bytes
        if size is None:
            raise ImageUnusable(
                f"{params['image']}: the server does not tell how long it is: say the size of the "
                "volume",
                field="params.size_bytes",
            )
        facts = driver_that(work.driver, CanImport).load(
            work.volume, int(size), metadata, contents, work
        )
    record = set_volume(work.volume.id, requested_bytes=int(size))
    done = made(work, facts)
    return replace(done, changes=[*done.changes, record])


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


def take_back(work: Work, call: Call) -> None:
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
