"""Volumes in use on this host, also where nobody recorded it."""

from __future__ import annotations

from orchestrator.domain.errors import InUse
from workers.execution.work import Work


def refuse_while_used(work: Work) -> None:
    """Refuse what is in use on this host, also where nobody recorded it."""
    devices = [device.path or ", ".join(device.uris) for device in work.driver.devices(work.volume)]
    if devices:
        raise InUse(
            f"volume {work.volume.name!r} is in use on {work.host} as {'; '.join(devices)}: "
            "detach it first"
        )
