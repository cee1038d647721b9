"""Whose account an action counts for, and what its quota allows."""

from __future__ import annotations

from orchestrator.domain.action import Action
from orchestrator.domain.errors import QuotaExceeded
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.sizes import format_size

#: What a quota may limit.
COUNTED = ("bytes", "volumes", "snapshots")


def account_of(action: Action, volume: VolumeOutlook | None, submitter: str) -> str:
    """Whose storage the action makes: what is added to a volume counts for that one's owner,
    whoever asks; anything new for who asks."""
    if volume is None or volume.account is None or action.made == "volume" or not action.adds:
        return submitter
    return volume.account


def take_from_quota(outlook: Outlook, intent: Intent, room: int) -> None:
    """Note what the intent adds to its account. Raises `QuotaExceeded`."""
    quota = outlook.quotas.get((intent.account or "", intent.backend))
    if quota is None or not intent.action.adds:
        return
    asked = {
        "bytes": room,
        "volumes": int(intent.action.made == "volume"),
        "snapshots": int(intent.action.made == "snapshot"),
    }
    for counted in COUNTED:
        limit, more = quota.limits.get(counted), asked[counted]
        used, promised = quota.used[counted], quota.promised[counted]
        if limit is None or more <= 0 or used + promised + more <= limit:
            continue
        raise QuotaExceeded(
            f"account {intent.account} may have {_told(counted, limit)} on backend "
            f"{intent.backend}; it has {_told(counted, used)}, unfinished jobs will add "
            f"{_told(counted, promised)}, and {_told(counted, more)} more do not fit: remove what "
            "is not needed, or have an administrator raise the quota; "
            f"'orchestrator quota show {intent.account}' lists all that counts",
            field="params.size_bytes" if counted == "bytes" else intent.action.kind,
            account=intent.account,
            backend=intent.backend,
            counted=counted,
            limit=limit,
            used=used,
            promised=promised,
            asked=more,
        )
    for counted in COUNTED:
        quota.promised[counted] += asked[counted]


def _told(counted: str, amount: int) -> str:
    return format_size(amount) if counted == "bytes" else f"{amount} {counted}"
