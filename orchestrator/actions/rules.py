"""The rules of actions, as they are asked.

A check raises the `Problem` that names the field at fault and the remedy; it runs at
submission against the outlook, and again at execution against what is there. An effect
plays a successful job forward on the outlook.
"""

from __future__ import annotations

from orchestrator.actions.quotas import take_from_quota
from orchestrator.actions.targets import check_enabled, volume_name
from orchestrator.domain.errors import InsufficientCapacity, Locked, Unsupported
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.sizes import doubt, format_size
from orchestrator.domain.states import BackendState


def check(outlook: Outlook, intent: Intent) -> None:
    """Raise the `Problem` that forbids this, if one does."""
    backend = outlook.backend(intent.backend)
    action = intent.action
    if backend.state == BackendState.DISABLED and not action.administrative:
        check_enabled(outlook, intent)
    known = backend.known_capabilities
    if action.capability is not None and action.capability not in known:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot do {action.name} here: it "
            f"lacks the capability {action.capability}",
            field="action",
        )
    if action.respects_lock:
        _check_lock(outlook, intent)
    action.checks.check(outlook, intent)


def check_room(outlook: Outlook, intent: Intent) -> int:
    """Bytes the intent will take up. Raises `InsufficientCapacity`, `QuotaExceeded`."""
    room = intent.action.checks.room
    wanted = 0 if room is None else max(0, room(outlook, intent))
    backend = outlook.backend(intent.backend)
    if wanted and backend.total_bytes is not None:
        asked = int(intent.params.get("size_bytes") or wanted)
        if asked > backend.total_bytes:
            raise InsufficientCapacity(
                f"backend {backend.name} holds {format_size(backend.total_bytes)} in all, "
                f"less than the {format_size(asked)} asked for",
                field="params.size_bytes",
                total_bytes=backend.total_bytes,
            )
        limit, promised = backend.limit_bytes, backend.promised_bytes
        if limit is not None and promised + wanted > limit:
            raise InsufficientCapacity(
                f"backend {backend.name} may promise {format_size(limit)} "
                f"(overcommit {backend.overcommit:g}) and has promised {format_size(promised)}; "
                f"{format_size(wanted)} more do not fit",
                field="params.size_bytes",
                limit_bytes=limit,
                promised_bytes=promised,
            )
    take_from_quota(outlook, intent, wanted)
    backend.promised_bytes += wanted
    return wanted


def play(outlook: Outlook, intent: Intent) -> None:
    """Change the outlook as the intent will; one that is bound to fail changes nothing."""
    intent.action.checks.effect(outlook, intent)


def notes(outlook: Outlook, intent: Intent) -> list[str]:
    """What the intent will lose, or not take over, and what is doubtful: a sentence each."""
    doubtful = doubt(intent.params.get("size_bytes"))
    told = intent.action.checks.notes(outlook, intent)
    return told if doubtful is None else [*told, doubtful]


def _check_lock(outlook: Outlook, intent: Intent) -> None:
    found = outlook.volume(intent.backend, volume_name(intent))
    if found and found.lock_owner is not None and found.lock_owner != intent.host:
        raise Locked(
            f"host {found.lock_owner} holds the lock on volume {intent.volume!r}: "
            f"{intent.action.verb} waits for its release, or name that host",
            field="volume",
            lock_owner=found.lock_owner,
        )
