"""The table of rules, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.domain.errors import BackendDisabled, InsufficientCapacity, Locked, Unsupported
from orchestrator.domain.sizes import doubt, format_size
from orchestrator.domain.states import BackendState, VolumeState
from orchestrator.jobs.outlook import Intent, Outlook
from orchestrator.jobs.rules.changing import (
    becomes,
    check_grow,
    check_remove,
    check_rename,
    check_rollback,
    check_unrestrict,
    check_update,
    check_wipe,
    grow_room,
    lost_by_rollback,
    play_grow,
    play_remove,
    play_rename,
    play_rollback,
    play_update,
)
from orchestrator.jobs.rules.exports import (
    check_assign,
    check_create_policy,
    check_reapply,
    check_remove_policy,
    check_rules,
    play_assign,
    play_create_policy,
    play_reapply,
    play_remove_policy,
    play_rules,
)
from orchestrator.jobs.rules.hosts import (
    check_attach,
    check_detach,
    check_open,
    play_attach,
    play_close,
    play_detach,
    play_open,
)
from orchestrator.jobs.rules.making import (
    check_adopt,
    check_clone,
    check_copy,
    check_create,
    check_export,
    check_import,
    clone_size,
    import_room,
    not_copied,
    play_adopt,
    play_clone,
    play_create,
    play_import,
    sized_by_image,
    taken_as_raw,
)
from orchestrator.jobs.rules.quotas import take_from_quota
from orchestrator.jobs.rules.repairing import (
    check_forget,
    check_recreate,
    check_remove_orphan,
    play_recreate,
)
from orchestrator.jobs.rules.snapshots import (
    check_delete_snapshot,
    check_snapshot,
    play_delete_snapshot,
    play_snapshot,
)
from orchestrator.jobs.rules.targets import (
    check_any_state,
    check_idle,
    check_there,
    nothing,
    size_asked,
    volume_name,
)


@dataclass(frozen=True)
class Rule:
    """What one action needs, what it leaves, and how much room it will take."""

    check: Callable[[Outlook, Intent], None]
    effect: Callable[[Outlook, Intent], None]
    room: Callable[[Outlook, Intent], int] = lambda _outlook, _intent: 0
    #: What somebody who reads a plan would not expect.
    notes: Callable[[Outlook, Intent], list[str]] = lambda _outlook, _intent: []


def check(outlook: Outlook, intent: Intent) -> None:
    """Raise the `Problem` that forbids this, if one does."""
    backend = outlook.backend(intent.backend)
    action = intent.action
    if backend.state == BackendState.DISABLED and not action.administrative:
        _refuse_disabled(outlook, intent)
    known = backend.known_capabilities
    if action.capability is not None and action.capability not in known:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot do {action.name} here: it "
            f"lacks the capability {action.capability}",
            field="action",
        )
    if action.respects_lock:
        _check_lock(outlook, intent)
    RULES[action.name].check(outlook, intent)


def _refuse_disabled(outlook: Outlook, intent: Intent) -> None:
    """Refuse what only the configuration can allow again."""
    backend = outlook.backend(intent.backend)
    if backend.state == BackendState.DISABLED:
        raise BackendDisabled(
            f"backend {backend.name} is disabled by the configuration: take out enabled = false "
            "there, and restart",
            field="backend",
        )


def check_room(outlook: Outlook, intent: Intent) -> int:
    """Bytes the intent will take up. Raises `InsufficientCapacity`, `QuotaExceeded`."""
    wanted = max(0, RULES[intent.action.name].room(outlook, intent))
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
    RULES[intent.action.name].effect(outlook, intent)


def notes(outlook: Outlook, intent: Intent) -> list[str]:
    """What the intent will lose, or not take over, and what is doubtful: a sentence each."""
    doubtful = doubt(intent.params.get("size_bytes"))
    told = RULES[intent.action.name].notes(outlook, intent)
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


#: Every action's rule.
RULES: dict[str, Rule] = {
    "volume.create": Rule(check_create, play_create, size_asked),
    "volume.clone": Rule(check_clone, play_clone, clone_size, not_copied),
    "volume.copy": Rule(check_copy, play_clone, clone_size, not_copied),
    "volume.import": Rule(check_import, play_import, import_room, sized_by_image),
    "volume.export": Rule(check_export, nothing),
    "volume.grow": Rule(check_grow, play_grow, grow_room),
    "volume.update": Rule(check_update, play_update),
    "volume.set_info": Rule(check_there, nothing),
    "volume.rename": Rule(check_rename, play_rename),
    "volume.rollback": Rule(check_rollback, play_rollback, notes=lost_by_rollback),
    "volume.wipe": Rule(check_wipe, nothing),
    "volume.restrict": Rule(check_idle, becomes(VolumeState.RESTRICTED)),
    "volume.unrestrict": Rule(check_unrestrict, becomes(VolumeState.AVAILABLE)),
    "volume.remove": Rule(check_remove, play_remove),
    "volume.purge": Rule(check_remove, play_remove),
    "volume.forget": Rule(check_forget, play_remove),
    "volume.adopt": Rule(check_adopt, play_adopt, notes=taken_as_raw),
    "volume.reconcile": Rule(check_any_state, nothing),
    "volume.recreate": Rule(check_recreate, play_recreate),
    "volume.remove_orphan": Rule(check_remove_orphan, nothing),
    "volume.break_lock": Rule(check_any_state, nothing),
    "volume.verify": Rule(check_any_state, nothing),
    "volume.attach": Rule(check_attach, play_attach),
    "volume.detach": Rule(check_detach, play_detach),
    "volume.open": Rule(check_open, play_open),
    "volume.close": Rule(check_there, play_close),
    "snapshot.create": Rule(check_snapshot, play_snapshot),
    "snapshot.delete": Rule(check_delete_snapshot, play_delete_snapshot),
    "policy.create": Rule(check_create_policy, play_create_policy),
    "policy.remove": Rule(check_remove_policy, play_remove_policy),
    "policy.add_rule": Rule(check_rules, play_rules),
    "policy.remove_rule": Rule(check_rules, play_rules),
    "policy.set_rules": Rule(check_rules, play_rules),
    "policy.assign": Rule(check_assign, play_assign),
    "policy.reapply": Rule(check_reapply, play_reapply),
    "policy.verify": Rule(check_reapply, nothing),
    "volume.client_locks": Rule(check_any_state, nothing),
    "backend.refresh": Rule(nothing, nothing),
    "backend.verify": Rule(nothing, nothing),
    "backend.audit": Rule(nothing, nothing),
    "backend.recount": Rule(nothing, nothing),
    "backend.diagnose": Rule(nothing, nothing),
    "backend.drain": Rule(_refuse_disabled, nothing),
    "backend.resume": Rule(_refuse_disabled, nothing),
}
