"""Let a host use a volume; end that use."""

from __future__ import annotations

from orchestrator.actions.volume.open import CLOSE, OPEN
from orchestrator.resources.volume.changes import Opened
from workers.actions.volume.hosts import host, refuse_elsewhere
from workers.backends.base.abilities import CanOpen
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_volume
from workers.execution.truth import LastCall, Seen
from workers.execution.work import Done, Work, recorded_volume


def open_(work: Work) -> Done:
    """Let the host use the volume."""
    refuse_elsewhere(work)
    exclusive = bool(work.intent.params.get("exclusive"))
    work.intend("open", exclusive=exclusive)
    driver_that(work.driver, CanOpen).open(work.volume, work, exclusive=exclusive)
    return _opened(work, "exclusive" if exclusive else "shared")


def close(work: Work) -> Done:
    """End the host's use of the volume."""
    refuse_elsewhere(work)
    work.intend("close")
    driver_that(work.driver, CanOpen).close(work.volume, work)
    return _opened(work, None)


def _opened(work: Work, opening: str | None) -> Done:
    return Done(
        result={"opening": opening},
        changes=[Opened(work.volume.id, host(work), opening)],
        after={"host": host(work), "opening": opening},
    )


def _open_outcome(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """No storage tells who has a volume open: an opening is new, and is taken back."""
    attachment = recorded_volume(work).attachments.get(work.intent.host or "")
    if attachment is not None and attachment.opening is None:
        driver_that(work.driver, CanOpen).close(work.volume, LastCall(work))
        return Nothing()
    return Part("whether the storage has let the host use it otherwise cannot be seen")


def _close_outcome(work: Work, _facts: VolumeFacts, _seen: Seen) -> Become:
    """Likewise: to close what is closed does nothing, so that it is finished."""
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    driver_that(work.driver, CanOpen).close(work.volume, LastCall(work))
    told = {"host": work.intent.host, "opening": None}
    closed = Opened(work.volume.id, work.intent.host, None)
    return Whole(Done(result={"opening": None}, changes=[closed], after=told))


HANDLERS = (
    Handler(OPEN, open_, outcome=of_volume(_open_outcome)),
    Handler(CLOSE, close, outcome=of_volume(_close_outcome)),
)
