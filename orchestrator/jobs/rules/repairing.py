"""What is asked of jobs that repair what audits find, and what they leave."""

from __future__ import annotations

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
    volume_there(outlook, intent, *(state for state in VolumeState if state != VolumeState.REMOVED))


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
