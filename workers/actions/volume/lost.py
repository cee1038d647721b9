"""Whether the storage of a recorded volume is seen to be gone."""

from __future__ import annotations

from orchestrator.domain.errors import Conflict, InUse
from workers.backends.base.facts import Absent, NotOurs, VolumeFacts, there
from workers.execution.work import Work


def refuse_unless_lost(work: Work) -> None:
    """Raise `Conflict` unless the storage of a recorded volume is seen to be gone."""
    look = work.driver.inspect(work.volume)
    if not isinstance(look, Absent):
        raise not_lost(work, look)
    refuse_held(work)


def refuse_held(work: Work) -> None:
    """Raise `InUse` if a device of this host still holds a volume that is not in its place."""
    if held := work.driver.devices(work.volume):
        raise InUse(
            f"the storage of volume {work.volume.name!r} is not in its place, and {held[0].path} "
            "still holds it: it is not lost. Save what is on the device, or put the image back"
        )


def not_lost(work: Work, look: VolumeFacts | NotOurs) -> Conflict:
    name = there(look, work.volume).name
    return Conflict(
        f"the storage of volume {work.volume.name!r} is there, as {name!r}: it is not lost; "
        "'volume.verify' compares it with its record"
    )
