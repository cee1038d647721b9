"""What each action needs and what it leaves behind: a table of checks and effects.

A check raises the `Problem` that names the field at fault and the remedy; it runs at
submission against the outlook, and again at execution against what is there. An effect
plays a successful job forward on the outlook.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.domain.actions import MAX_METADATA, source_of
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import (
    AlreadyExists,
    BackendDisabled,
    Conflict,
    InsufficientCapacity,
    InUse,
    InvalidInput,
    Locked,
    NewerSnapshots,
    NotAttached,
    ShrinkRefused,
    UnknownBackend,
    UnknownParameter,
    UnknownPolicy,
    UnknownSnapshot,
    UnknownVolume,
    Unsupported,
    VolumeReplaced,
    WrongState,
)
from orchestrator.domain.exports import (
    MAX_RULES,
    parse_rule,
    parse_rules,
    with_rule,
    without_rule,
)
from orchestrator.domain.exports import Rule as ExportRule
from orchestrator.domain.sizes import format_size, round_up
from orchestrator.domain.states import BackendState, PolicyState, SnapshotState, VolumeState
from orchestrator.jobs.outlook import (
    AttachmentOutlook,
    BackendOutlook,
    Intent,
    Outlook,
    PolicyOutlook,
    SnapshotOutlook,
    VolumeOutlook,
)


@dataclass(frozen=True)
class Rule:
    """What one action needs, what it leaves, and how much room it will take."""

    check: Callable[[Outlook, Intent], None]
    effect: Callable[[Outlook, Intent], None]
    room: Callable[[Outlook, Intent], int] = lambda _outlook, _intent: 0


def check(outlook: Outlook, intent: Intent) -> None:
    """Raise the `Problem` that forbids this, if one does."""
    backend = outlook.backend(intent.backend)
    action = intent.action
    if backend.state == BackendState.DISABLED and not action.administrative:
        raise BackendDisabled(
            f"backend {backend.name} is disabled: an administrator can resume it",
            field="backend",
        )
    known = backend.known_capabilities
    if action.capability is not None and action.capability not in known:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot {action.verb} here",
            field="action",
        )
    if action.respects_lock:
        _check_lock(outlook, intent)
    RULES[action.name].check(outlook, intent)


def check_room(outlook: Outlook, intent: Intent) -> int:
    """Bytes the intent will take up. Raises `InsufficientCapacity`."""
    wanted = RULES[intent.action.name].room(outlook, intent)
    if wanted <= 0:
        return 0
    backend = outlook.backend(intent.backend)
    if backend.total_bytes is not None:
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
    backend.promised_bytes += wanted
    return wanted


def play(outlook: Outlook, intent: Intent) -> None:
    """Change the outlook as the intent will; one that is bound to fail changes nothing."""
    RULES[intent.action.name].effect(outlook, intent)


# -- what checks have in common -----------------------------------------------------------


def _named(intent: Intent) -> str:
    assert intent.volume is not None  # noqa: S101 - the request model requires it
    return intent.volume


def _there(outlook: Outlook, intent: Intent, *states: VolumeState) -> VolumeOutlook:
    """The volume the intent means, in one of ``states`` (available if none are given)."""
    name = _named(intent)
    found = outlook.volume(intent.backend, name)
    states = states or (VolumeState.AVAILABLE,)
    if found is None or found.state is VolumeState.REMOVED:
        raise UnknownVolume(
            f"there is no volume {name!r} on backend {intent.backend}, or there will be none "
            "by then",
            field="volume",
        )
    if intent.volume_id is not None and found.id != intent.volume_id:
        raise VolumeReplaced(
            f"volume {name!r} is not the one that was there when this was submitted",
            field="volume",
        )
    if found.state not in states:
        raise WrongState(
            f"volume {name!r} is {found.state}; {intent.action.verb} needs one that is "
            f"{' or '.join(states)}",
            field="volume",
            state=found.state,
        )
    return found


def _free(outlook: Outlook, backend: str, name: str, field: str) -> None:
    found = outlook.volume(backend, name)
    if found is not None:
        raise AlreadyExists(
            f"backend {backend} has a volume {name!r} already, or will have by then: "
            "choose another name",
            field=field,
            volume_id=found.id,
        )


def _check_lock(outlook: Outlook, intent: Intent) -> None:
    found = outlook.volume(intent.backend, _named(intent))
    if found and found.lock_owner is not None and found.lock_owner != intent.host:
        raise Locked(
            f"host {found.lock_owner} holds the lock on volume {intent.volume!r}: "
            f"{intent.action.verb} waits for its release, or name that host",
            field="volume",
            lock_owner=found.lock_owner,
        )


def _not_attached(volume: VolumeOutlook) -> None:
    if volume.attachments:
        hosts = ", ".join(sorted(volume.attachments))
        raise InUse(
            f"volume {volume.name!r} is attached to {hosts}: detach it first",
            field="volume",
            hosts=sorted(volume.attachments),
        )


def _snapshot(volume: VolumeOutlook, intent: Intent) -> SnapshotOutlook:
    found = volume.snapshots.get(intent.snapshot or "")
    if found is None or (intent.snapshot_id is not None and found.id != intent.snapshot_id):
        raise UnknownSnapshot(
            f"volume {volume.name!r} has no snapshot {intent.snapshot!r}, or will have none "
            "by then",
            field="snapshot",
        )
    return found


def _usable_snapshot(volume: VolumeOutlook, intent: Intent) -> SnapshotOutlook:
    found = _snapshot(volume, intent)
    if found.state is not SnapshotState.AVAILABLE:
        raise WrongState(
            f"snapshot {found.name!r} of volume {volume.name!r} is {found.state}: it can only be "
            "deleted",
            field="snapshot",
        )
    return found


def _nothing(_outlook: Outlook, _intent: Intent) -> None:
    """For actions that need nothing more, or leave nothing behind."""


def _size(outlook: Outlook, intent: Intent) -> int:
    return round_up(int(intent.params["size_bytes"]), outlook.backend(intent.backend).grain_bytes)


def _target(outlook: Outlook, intent: Intent) -> VolumeOutlook | None:
    return outlook.volume(intent.backend, _named(intent))


# -- create and clone ---------------------------------------------------------------------


def _check_create(outlook: Outlook, intent: Intent) -> None:
    _free(outlook, intent.backend, _named(intent), "volume")
    _check_parameters(outlook, intent)
    _check_settings(outlook, intent, None)
    if intent.policy is not None:
        if "policy" not in outlook.backend(intent.backend).known_capabilities:
            raise Unsupported(f"backend {intent.backend} has no export policies", field="policy")
        _usable_policy(outlook, intent)


#: The settings that every backend has: those that the engine itself sees to.
_SETTINGS_OF_ALL = frozenset({"autosize_enabled", "autosize_max_bytes", "junction_path"})


def _check_settings(outlook: Outlook, intent: Intent, volume: VolumeOutlook | None) -> None:
    """Whether the backend has these settings, and the volume can have them."""
    if not intent.settings:
        return
    backend = outlook.backend(intent.backend)
    has = DRIVERS[backend.driver].settings | _SETTINGS_OF_ALL
    for name in intent.settings:
        if name not in has:
            raise Unsupported(
                f"backend {backend.name} (driver {backend.driver}) has no setting {name!r} for its "
                f"volumes; it has {', '.join(sorted(has))}",
                field=f"params.settings.{name}",
            )
    if intent.settings.get("autosize_enabled") and "grow" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot grow volumes",
            field="params.settings.autosize_enabled",
        )
    merged = {**(volume.settings if volume else {}), **intent.settings}
    if merged.get("autosize_enabled") and merged.get("autosize_max_bytes") is None:
        raise InvalidInput(
            "a volume that grows by itself needs autosize_max_bytes: how large it may become",
            field="params.settings.autosize_max_bytes",
        )
    if intent.junction is not None:
        holder = outlook.junctions.get(intent.junction)
        if holder is not None and (volume is None or holder != volume.id):
            raise AlreadyExists(
                f"backend {backend.name} has a volume at {intent.junction[1]} already, or will "
                "have by then: choose another path",
                field="params.settings.junction_path",
                volume_id=holder,
            )


def _check_parameters(outlook: Outlook, intent: Intent) -> None:
    backend = outlook.backend(intent.backend)
    for name in intent.params.get("parameters") or ():
        if backend.parameters is not None and name not in backend.parameters:
            raise UnknownParameter(
                f"backend {backend.name} has no parameter {name!r} for its volumes; it has "
                f"{', '.join(sorted(backend.parameters)) or 'none'}",
                field=f"params.parameters.{name}",
            )


def _play_create(outlook: Outlook, intent: Intent) -> None:
    _add(outlook, intent, _size(outlook, intent), intent.params.get("parameters") or {})
    _play_settings(outlook, intent)
    _play_assign(outlook, intent)


def _play_settings(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        volume.settings = {**volume.settings, **intent.settings}
        if intent.junction is not None:
            _play_unmount(outlook, volume)
            outlook.junctions[intent.junction] = volume.id


def _play_unmount(outlook: Outlook, volume: VolumeOutlook) -> None:
    for path, holder in list(outlook.junctions.items()):
        if holder == volume.id:
            del outlook.junctions[path]


def _add(outlook: Outlook, intent: Intent, size: int, parameters: dict[str, str]) -> None:
    name = _named(intent)
    outlook.volumes[intent.backend, name] = VolumeOutlook(
        id=intent.volume_id or "",
        name=name,
        state=VolumeState.AVAILABLE,
        size_bytes=size,
        metadata=dict(intent.params.get("metadata") or {}),
        parameters=dict(parameters),
    )


def _source(outlook: Outlook, intent: Intent) -> VolumeOutlook | None:
    place = source_of(intent.backend, intent.params)
    return None if place is None else outlook.volume(*place)


def _clone_source(outlook: Outlook, intent: Intent) -> tuple[VolumeOutlook, int]:
    """The source of a clone or copy, and the size of what is cloned."""
    name, source = intent.params["source"], _source(outlook, intent)
    if source is None:
        raise UnknownVolume(
            f"there is no volume {name!r} to {intent.action.verb} on backend "
            f"{intent.params.get('source_backend', intent.backend)}, or there will be none by then",
            field="params.source",
        )
    if intent.source_id is not None and source.id != intent.source_id:
        raise VolumeReplaced(
            f"volume {name!r} is not the one that was there when this was submitted",
            field="params.source",
        )
    if source.state is not VolumeState.AVAILABLE:
        raise WrongState(
            f"volume {name!r} is {source.state}: {intent.action.verb} needs one that is available",
            field="params.source",
        )
    if intent.snapshot is None:
        return source, source.size_bytes
    return source, _usable_snapshot(source, intent).size_bytes


def _check_clone(outlook: Outlook, intent: Intent) -> None:
    _free(outlook, intent.backend, _named(intent), "volume")
    _check_parameters(outlook, intent)
    _, least = _clone_source(outlook, intent)
    asked = intent.params.get("size_bytes")
    if asked is not None and asked < least:
        raise ShrinkRefused(
            f"the source has {least} bytes: a {intent.action.verb} of it cannot be smaller",
            field="params.size_bytes",
        )


def _clone_size(outlook: Outlook, intent: Intent) -> int:
    _, least = _clone_source(outlook, intent)
    asked = int(intent.params.get("size_bytes") or least)
    return round_up(asked, outlook.backend(intent.backend).grain_bytes)


def _play_clone(outlook: Outlook, intent: Intent) -> None:
    source = _source(outlook, intent)
    if source is not None and (intent.snapshot is None or intent.snapshot in source.snapshots):
        _add(
            outlook,
            intent,
            _clone_size(outlook, intent),
            own_parameters(intent, source),
        )


def own_parameters(intent: Intent, source: VolumeOutlook | None) -> dict[str, str]:
    """A new volume's own values for parameters: of a clone, if it names none, the source's."""
    own = intent.params.get("parameters")
    if own is None and source is not None and "source_backend" not in intent.params:
        return source.parameters
    return dict(own or {})


def _check_copy(outlook: Outlook, intent: Intent) -> None:
    name = intent.params["source_backend"]
    if name == intent.backend:
        raise InvalidInput(
            f"the volume is on backend {name} itself: volume.clone makes another of it there",
            field="params.source_backend",
        )
    try:
        source = outlook.backend(name)
    except UnknownBackend as problem:
        raise UnknownBackend(problem.detail, field="params.source_backend") from None
    if "export" not in source.known_capabilities:
        raise Unsupported(
            f"backend {name} (driver {source.driver}) cannot have its volumes read here",
            field="params.source_backend",
        )
    _check_clone(outlook, intent)
    if intent.snapshot is None:
        volume, _ = _clone_source(outlook, intent)
        _not_written_elsewhere(source, volume, None, "params.source")


def _check_import(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.image(intent.params["image"])
    _check_create(outlook, intent)


def _check_export(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.target(intent.params["target"])
    volume = _there(outlook, intent)
    if intent.snapshot is not None:
        _usable_snapshot(volume, intent)
    else:
        _not_written_elsewhere(outlook.backend(intent.backend), volume, intent.host, "volume")


def _not_written_elsewhere(
    backend: BackendOutlook, volume: VolumeOutlook, host: str | None, field: str
) -> None:
    """Refuse to read what another host may write to, which only that host could see."""
    if not DRIVERS[backend.driver].attaches_locally:
        return
    for other, attachment in volume.attachments.items():
        if other != host and not attachment.read_only:
            raise InUse(
                f"volume {volume.name!r} is attached to {other}, which may write to it meanwhile: "
                "detach it, or take a snapshot and read that",
                field=field,
                hosts=[other],
            )


# -- changes of one volume ----------------------------------------------------------------


def _check_grow(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    if int(intent.params["size_bytes"]) <= volume.size_bytes:
        raise ShrinkRefused(
            f"volume {volume.name!r} has {volume.size_bytes} bytes, or will have by then: ask for "
            "a larger size",
            field="params.size_bytes",
            size_bytes=volume.size_bytes,
        )


def _grow_room(outlook: Outlook, intent: Intent) -> int:
    volume = _target(outlook, intent)
    return _size(outlook, intent) - (volume.size_bytes if volume else 0)


def _play_grow(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        volume.size_bytes = max(volume.size_bytes, _size(outlook, intent))


def _check_there(outlook: Outlook, intent: Intent) -> None:
    _there(outlook, intent)


def _check_update(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    _check_settings(outlook, intent, volume)
    merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
    if sum(text is not None for text in merged.values()) > MAX_METADATA:
        raise InvalidInput(
            f"volume {volume.name!r} would have more than {MAX_METADATA} metadata entries: "
            "remove some with null",
            field="params.metadata",
        )


def _play_update(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        merged = {**volume.metadata, **(intent.params.get("metadata") or {})}
        volume.metadata = {key: text for key, text in merged.items() if text is not None}
        _play_settings(outlook, intent)


def _check_rename(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    _not_attached(volume)
    _free(outlook, intent.backend, intent.params["new_name"], "params.new_name")


def _play_rename(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, _named(intent)), None)
    if volume is not None:
        volume.name = intent.params["new_name"]
        outlook.volumes[intent.backend, volume.name] = volume


def newer_snapshots(volume: VolumeOutlook, snapshot: str) -> list[SnapshotOutlook]:
    """The snapshots taken after the one named, oldest first."""
    names = list(volume.snapshots)
    return [volume.snapshots[name] for name in names[names.index(snapshot) + 1 :]]


def _check_rollback(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    _not_attached(volume)
    snapshot = _usable_snapshot(volume, intent)
    newer = [found.name for found in newer_snapshots(volume, snapshot.name)]
    if newer and not intent.params.get("discard_newer"):
        raise NewerSnapshots(
            f"rolling back to {snapshot.name!r} would lose the newer snapshots "
            f"{', '.join(newer)}: delete them, or say discard_newer",
            field="snapshot",
            snapshots=newer,
        )


def _play_rollback(outlook: Outlook, intent: Intent) -> None:
    volume = _target(outlook, intent)
    if volume is not None and intent.snapshot in volume.snapshots:
        for newer in newer_snapshots(volume, intent.snapshot):
            del volume.snapshots[newer.name]
        volume.size_bytes = volume.snapshots[intent.snapshot].size_bytes


def _check_idle(outlook: Outlook, intent: Intent) -> None:
    _not_attached(_there(outlook, intent))


def _check_wipe(outlook: Outlook, intent: Intent) -> None:
    _check_idle(outlook, intent)
    size = _there(outlook, intent).size_bytes
    offset, length = intent.params.get("offset_bytes", 0), intent.params.get("length_bytes")
    if offset >= size:
        raise InvalidInput(
            f"volume {intent.volume!r} ends at {size} bytes, or will by then: begin before that",
            field="params.offset_bytes",
        )
    if length is not None and offset + length > size:
        raise InvalidInput(
            f"volume {intent.volume!r} has {size - offset} bytes from there on, or will have by "
            f"then, not {length}",
            field="params.length_bytes",
        )


def _check_unrestrict(outlook: Outlook, intent: Intent) -> None:
    _there(outlook, intent, VolumeState.RESTRICTED)


def _becomes(state: VolumeState) -> Callable[[Outlook, Intent], None]:
    def effect(outlook: Outlook, intent: Intent) -> None:
        if volume := _target(outlook, intent):
            volume.state = state

    return effect


def _check_remove(outlook: Outlook, intent: Intent) -> None:
    purge = intent.action.verb == "purge"
    volume = (
        _there(outlook, intent, VolumeState.RESTRICTED)
        if purge
        else _there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR)
    )
    _not_attached(volume)
    if volume.snapshots:
        raise InUse(
            f"volume {volume.name!r} has snapshots ({', '.join(volume.snapshots)}): "
            "delete them first",
            field="volume",
            snapshots=list(volume.snapshots),
        )


def _play_remove(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, _named(intent)), None)
    if volume is not None:
        _play_unmount(outlook, volume)
        _play_unassign(outlook, volume)


def _check_any_state(outlook: Outlook, intent: Intent) -> None:
    _there(outlook, intent, VolumeState.AVAILABLE, VolumeState.RESTRICTED, VolumeState.ERROR)


# -- snapshots ----------------------------------------------------------------------------


def _check_snapshot(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    if intent.snapshot in volume.snapshots:
        raise AlreadyExists(
            f"volume {volume.name!r} has a snapshot {intent.snapshot!r} already, or will have by "
            "then: choose another name",
            field="snapshot",
        )


def _play_snapshot(outlook: Outlook, intent: Intent) -> None:
    volume = _target(outlook, intent)
    if volume is not None and intent.snapshot is not None:
        volume.snapshots[intent.snapshot] = SnapshotOutlook(
            id=intent.snapshot_id or "", name=intent.snapshot, size_bytes=volume.size_bytes
        )


def _check_delete_snapshot(outlook: Outlook, intent: Intent) -> None:
    _snapshot(_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.RESTRICTED), intent)


def _play_delete_snapshot(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        volume.snapshots.pop(intent.snapshot or "", None)


# -- export policies ----------------------------------------------------------------------


def _policy(outlook: Outlook, intent: Intent) -> PolicyOutlook | None:
    place = intent.export_policy
    return None if place is None else outlook.policies.get(place)


def _policy_there(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = _policy(outlook, intent)
    if found is None or (intent.policy_id is not None and found.id != intent.policy_id):
        raise UnknownPolicy(
            f"backend {intent.backend} has no export policy {intent.policy!r}, or will have none "
            "by then: make it with policy.create",
            field="policy",
        )
    return found


def _usable_policy(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = _policy_there(outlook, intent)
    if found.state is not PolicyState.AVAILABLE:
        raise WrongState(
            f"export policy {found.name!r} is {found.state}: reapply it, or remove it",
            field="policy",
        )
    return found


def _check_clients(outlook: Outlook, intent: Intent, written: list[str], field: str) -> None:
    """Whether the backend knows clients that are named so."""
    backend = outlook.backend(intent.backend)
    known = DRIVERS[backend.driver].clients
    for text in written:
        rule = parse_rule(text)
        if rule.kind not in known:
            raise Unsupported(
                f"{rule.written!r} names clients by {rule.kind}; backend {backend.name} (driver "
                f"{backend.driver}) knows them by {', '.join(sorted(known))}",
                field=field,
            )


def _check_create_policy(outlook: Outlook, intent: Intent) -> None:
    if _policy(outlook, intent) is not None:
        raise AlreadyExists(
            f"backend {intent.backend} has an export policy {intent.policy!r} already, or will "
            "have by then: choose another name",
            field="policy",
        )
    _check_clients(outlook, intent, intent.params["rules"], "params.rules")


def _play_create_policy(outlook: Outlook, intent: Intent) -> None:
    assert intent.export_policy is not None  # noqa: S101 - the request model requires it
    outlook.policies[intent.export_policy] = PolicyOutlook(
        id=intent.policy_id or "",
        row_id=None,
        name=intent.export_policy[1],
        rules=parse_rules(intent.params["rules"]),
    )


def _check_remove_policy(outlook: Outlook, intent: Intent) -> None:
    found = _policy_there(outlook, intent)
    if found.used_by:
        names = sorted(found.used_by.values())
        raise InUse(
            f"export policy {found.name!r} is that of {', '.join(names[:10])}"
            f"{f' and {len(names) - 10} more' if len(names) > 10 else ''}: give them another "
            "one first",
            field="policy",
            volumes=names[:10],
        )
    if found.given_by:
        raise InUse(
            f"job {found.given_by[0]} gives export policy {found.name!r} to a volume: wait for its "
            "end",
            field="policy",
            job=found.given_by[0],
        )


def _play_remove_policy(outlook: Outlook, intent: Intent) -> None:
    if intent.export_policy is not None:
        outlook.policies.pop(intent.export_policy, None)


def rules_wanted(intent: Intent, policy: PolicyOutlook) -> tuple[ExportRule, ...]:
    """The rules that a policy shall have after this. Raises `Conflict`."""
    match intent.action.verb:
        case "add_rule":
            return with_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "remove_rule":
            return without_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "set_rules":
            return parse_rules(intent.params["rules"])
    return policy.rules


def _check_rules(outlook: Outlook, intent: Intent) -> None:
    policy = _usable_policy(outlook, intent)
    wanted = rules_wanted(intent, policy)
    if len(wanted) > MAX_RULES:
        raise InvalidInput(
            f"export policy {policy.name!r} would have more than {MAX_RULES} rules: name networks "
            "instead of addresses",
            field="params",
        )
    new = [rule.written for rule in wanted if rule not in policy.rules]
    _check_clients(outlook, intent, new, "params")


def _play_rules(outlook: Outlook, intent: Intent) -> None:
    if policy := _policy(outlook, intent):
        with suppress(Conflict):
            policy.rules = rules_wanted(intent, policy)


def _check_reapply(outlook: Outlook, intent: Intent) -> None:
    _policy_there(outlook, intent)


def _play_reapply(outlook: Outlook, intent: Intent) -> None:
    if policy := _policy(outlook, intent):
        policy.state = PolicyState.AVAILABLE


def _check_assign(outlook: Outlook, intent: Intent) -> None:
    _there(outlook, intent)
    if intent.policy is not None:
        _usable_policy(outlook, intent)


def _play_assign(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        _play_unassign(outlook, volume)
        volume.policy = intent.policy
        if policy := _policy(outlook, intent):
            policy.used_by[volume.id] = volume.name


def _play_unassign(outlook: Outlook, volume: VolumeOutlook) -> None:
    for policy in outlook.policies.values():
        policy.used_by.pop(volume.id, None)
    volume.policy = None


# -- use by hosts -------------------------------------------------------------------------


def _play_attach(outlook: Outlook, intent: Intent) -> None:
    volume = _target(outlook, intent)
    if volume is not None and intent.host is not None:
        volume.attachments.setdefault(
            intent.host,
            AttachmentOutlook(
                device=None,
                boot_id=None,
                read_only=bool(intent.params.get("read_only")),
                opening=None,
            ),
        )


def _check_attach(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    backend = outlook.backend(intent.backend)
    if intent.params.get("read_only") and "attach_read_only" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) attaches volumes for writing only",
            field="params.read_only",
        )
    held = volume.attachments.get(intent.host or "")
    if held is not None and held.read_only != bool(intent.params.get("read_only")):
        raise InUse(
            f"volume {volume.name!r} is attached to {intent.host} "
            f"{'read-only' if held.read_only else 'for writing'}: detach it first",
            field="params.read_only",
        )


def _check_detach(outlook: Outlook, intent: Intent) -> None:
    _there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR)
    if intent.params.get("force"):
        if not intent.params.get("fenced"):
            raise InvalidInput(
                "forced detach leaves a host's device behind: confirm with fenced=true that the "
                "host can no longer write",
                field="params.fenced",
            )
        if not intent.reason:
            raise InvalidInput("forced detach needs a reason", field="reason")


def _play_detach(outlook: Outlook, intent: Intent) -> None:
    if volume := _target(outlook, intent):
        volume.attachments.pop(intent.host or "", None)


def _check_open(outlook: Outlook, intent: Intent) -> None:
    volume = _there(outlook, intent)
    if intent.host not in volume.attachments:
        raise NotAttached(
            f"volume {volume.name!r} is not attached to {intent.host}: attach it first",
            field="host",
        )
    exclusive = bool(intent.params.get("exclusive"))
    for host, other in volume.attachments.items():
        if host == intent.host or other.opening is None:
            continue
        if exclusive or other.opening == "exclusive":
            raise InUse(
                f"volume {volume.name!r} is open on {host} ({other.opening}): close it there "
                "first; if that host is dead and fenced, detach it from there with force=true "
                "fenced=true and a reason",
                field="host",
                hosts=[host],
            )


def _play_open(outlook: Outlook, intent: Intent) -> None:
    volume = _target(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = "exclusive" if intent.params.get("exclusive") else "shared"


def _play_close(outlook: Outlook, intent: Intent) -> None:
    volume = _target(outlook, intent)
    held = volume.attachments.get(intent.host or "") if volume else None
    if held is not None:
        held.opening = None


#: Every action's rule.
RULES: dict[str, Rule] = {
    "volume.create": Rule(_check_create, _play_create, _size),
    "volume.clone": Rule(_check_clone, _play_clone, _clone_size),
    "volume.copy": Rule(_check_copy, _play_clone, _clone_size),
    "volume.import": Rule(_check_import, _play_create, _size),
    "volume.export": Rule(_check_export, _nothing),
    "volume.grow": Rule(_check_grow, _play_grow, _grow_room),
    "volume.update": Rule(_check_update, _play_update),
    "volume.set_info": Rule(_check_there, _nothing),
    "volume.rename": Rule(_check_rename, _play_rename),
    "volume.rollback": Rule(_check_rollback, _play_rollback),
    "volume.wipe": Rule(_check_wipe, _nothing),
    "volume.restrict": Rule(_check_idle, _becomes(VolumeState.RESTRICTED)),
    "volume.unrestrict": Rule(_check_unrestrict, _becomes(VolumeState.AVAILABLE)),
    "volume.remove": Rule(_check_remove, _play_remove),
    "volume.purge": Rule(_check_remove, _play_remove),
    "volume.forget": Rule(_check_any_state, _play_remove),
    "volume.verify": Rule(_check_any_state, _nothing),
    "volume.attach": Rule(_check_attach, _play_attach),
    "volume.detach": Rule(_check_detach, _play_detach),
    "volume.open": Rule(_check_open, _play_open),
    "volume.close": Rule(_check_there, _play_close),
    "snapshot.create": Rule(_check_snapshot, _play_snapshot),
    "snapshot.delete": Rule(_check_delete_snapshot, _play_delete_snapshot),
    "policy.create": Rule(_check_create_policy, _play_create_policy),
    "policy.remove": Rule(_check_remove_policy, _play_remove_policy),
    "policy.add_rule": Rule(_check_rules, _play_rules),
    "policy.remove_rule": Rule(_check_rules, _play_rules),
    "policy.set_rules": Rule(_check_rules, _play_rules),
    "policy.assign": Rule(_check_assign, _play_assign),
    "policy.reapply": Rule(_check_reapply, _play_reapply),
    "backend.refresh": Rule(_nothing, _nothing),
    "backend.verify": Rule(_nothing, _nothing),
    "backend.diagnose": Rule(_nothing, _nothing),
    "backend.drain": Rule(_nothing, _nothing),
    "backend.resume": Rule(_nothing, _nothing),
}
