"""Give a volume an export policy, or take its own away."""

from __future__ import annotations

from orchestrator.actions.policy.targets import target_policy, usable_policy
from orchestrator.actions.targets import target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Need, Takes
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.targets import TargetRole


def _check(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent)
    if intent.policy is not None:
        usable_policy(outlook, intent)


def play_assign(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        play_unassign(outlook, volume)
        volume.policy = intent.policy
        if policy := target_policy(outlook, intent):
            policy.used_by[volume.id] = volume.name


def play_unassign(outlook: Outlook, volume: VolumeOutlook) -> None:
    for policy in outlook.policies.values():
        policy.used_by.pop(volume.id, None)
    volume.policy = None


ASSIGN = Action(
    name="policy.assign",
    order=340,
    summary="Assign an export policy to a volume, or remove its own if none is named.",
    audit="gave volume {volume} the export policy {policy}",
    checks=Checks(check=_check, effect=play_assign),
    takes=(Takes("volume"), Takes("policy", Need.OPTIONAL, TargetRole.ASSIGNED)),
    capability="policy",
    respects_lock=True,
    frees=True,
    route=("PUT", "/volumes/{volume}/policy"),
)
