"""What is asked of jobs that repair what audits find, and what they leave."""

from __future__ import annotations

from orchestrator.domain.errors import InUse, Unsupported
from orchestrator.domain.states import VolumeState
from orchestrator.jobs.outlook import Intent, Outlook
from orchestrator.jobs.rules.targets import (
    check_any_state,
    name_free,
    not_attached,
    target_volume,
    volume_name,
    volume_there,
)


def check_forget(outlook: Outlook, intent: Intent) -> None:
    """A pending volume that no job makes any more can be forgotten, too."""
    states = (state for state in VolumeState if state != VolumeState.REMOVED)
    volume = volume_there(outlook, intent, *states)
    backend = outlook.backend(intent.backend)
    if intent.params.get("lost") and "absence" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot tell a volume that is lost "
            "from one that it does not see: look yourself, and forget it without 'lost'",
            field="params.lost",
        )
    if volume.attachments and not intent.params.get("force"):
        hosts = sorted(volume.attachments)
        raise InUse(
            f"volume {volume.name!r} is attached to {', '.join(hosts)}: detach it first; with "
            "force=true it is forgotten all the same, and its device stays where it is",
            field="volume",
            hosts=hosts,
        )


def check_recreate(outlook: Outlook, intent: Intent) -> None:
    check_any_state(outlook, intent)
    if volume := target_volume(outlook, intent):
        not_attached(volume)


def play_recreate(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.state = VolumeState.AVAILABLE
        volume.snapshots.clear()


def check_remove_orphan(outlook: Outlook, intent: Intent) -> None:
    """Storage under a name that a volume has is told apart by people, not by us."""
    name_free(outlook, intent.backend, volume_name(intent), "volume")
