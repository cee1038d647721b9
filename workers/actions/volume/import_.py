"""Make a volume with the contents of an image."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.actions.volume.import_ import IMPORT
from orchestrator.domain.errors import ImageUnusable
from orchestrator.resources.volume.changes import set_volume
from workers.backends.base.abilities import CanImport
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.images import opened
from workers.execution.work import Done, Work, discard_volume, made


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


HANDLERS = (Handler(IMPORT, import_, undo=discard_volume),)
