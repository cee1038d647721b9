"""Loading volumes into an outlook, with their snapshots, attachments and locks."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import or_, select

from orchestrator.domain.outlook import (
    AttachmentOutlook,
    Intent,
    Outlook,
    SnapshotOutlook,
    VolumeOutlook,
)
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.resources.snapshot.order import oldest_first
from orchestrator.store.asking import Asked, Question, Rows, one_of
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import live
from orchestrator.store.queries.loading import LiveVolume, VolumesNamed
from orchestrator.store.tables import attachments, backends, locks, policies, snapshots, volumes
from orchestrator.store.transaction import Transaction

Targets = Iterable[tuple[str, str]]

_POLICY_NAMES = Question(select(policies.c.id, policies.c.name).where(one_of(policies.c.id, "ids")))
_MOUNTED = Question(
    select(backends.c.name.label("backend"), volumes.c.junction_path, volumes.c.id)
    .join(backends, backends.c.id == volumes.c.backend_id)
    .where(
        live(volumes),
        one_of(backends.c.name, "backends"),
        one_of(volumes.c.junction_path, "paths"),
    )
)
_SNAPSHOTS = Question(
    select(
        *(snapshots.c.id, snapshots.c.volume_id, snapshots.c.name, snapshots.c.size_bytes),
        *(snapshots.c.state, snapshots.c.position, snapshots.c.created_by_job),
    )
    .where(one_of(snapshots.c.volume_id, "ids"), live(snapshots))
    .order_by(*oldest_first())
)
_ATTACHMENTS = Question(select(attachments).where(one_of(attachments.c.volume_id, "ids")))
_LOCKS = Question(
    select(locks.c.volume_id, locks.c.owner).where(
        one_of(locks.c.volume_id, "ids"),
        or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now()),
    )
)


def volumes_at(targets: Targets) -> Asked[LiveVolume]:
    """Ask for the live volumes of (backend, name) pairs, as they are now; for `take_volumes`."""
    wanted = sorted(set(targets))
    return VolumesNamed([backend for backend, _ in wanted], [name for _, name in wanted])


def take_volumes(
    transaction: Transaction,
    outlook: Outlook,
    rows: Rows,
    targets: Targets,
    *,
    own_jobs: frozenset[int] = frozenset(),
) -> None:
    """Put volumes into the outlook, with their snapshots, attachments and locks.

    Volumes and snapshots that ``own_jobs`` are about to make do not count as there.
    """
    wanted = set(targets)
    by_id: dict[str, VolumeOutlook] = {}
    exported: dict[str, int] = {}
    for row in rows:
        place = row["backend"], row["name"]
        own = row["state"] == VolumeState.PENDING and row["created_by_job"] in own_jobs
        if place not in wanted or own:
            continue
        outlook.volumes[place] = by_id[row["id"]] = VolumeOutlook(
            id=row["id"],
            name=row["name"],
            state=VolumeState(row["state"]),
            size_bytes=row["size_bytes"],
            metadata=dict(row["metadata"]),
            parameters=dict(row["parameters"]),
            settings=dict(row["settings"]),
            created_by_job=row["created_by_job"],
            account=row["account"],
        )
        if row["policy_id"] is not None:
            exported[row["id"]] = row["policy_id"]
    if not by_id:
        return
    if exported:
        [named] = transaction.ask(_POLICY_NAMES(ids=sorted(set(exported.values()))))
        names = {row["id"]: row["name"] for row in named}
        for id_, policy_id in exported.items():
            by_id[id_].policy = names[policy_id]
    ids = list(by_id)
    made, attached, locked = transaction.ask(
        _SNAPSHOTS(ids=ids), _ATTACHMENTS(ids=ids), _LOCKS(ids=ids)
    )
    for row in made:
        if row["state"] == SnapshotState.PENDING and row["created_by_job"] in own_jobs:
            continue
        by_id[row["volume_id"]].snapshots[row["name"]] = SnapshotOutlook(
            id=row["id"],
            name=row["name"],
            size_bytes=row["size_bytes"],
            state=SnapshotState(row["state"]),
            position=row["position"],
        )
    for row in attached:
        by_id[row["volume_id"]].attachments[row["host"]] = AttachmentOutlook(
            device=row["device"],
            boot_id=row["boot_id"],
            read_only=row["read_only"],
            opening=row["opening"],
            possible=row["device"] is None and row["boot_id"] is None and not row["uris"],
        )
    for row in locked:
        by_id[row["volume_id"]].lock_owner = row["owner"]


def load_junctions(transaction: Transaction, outlook: Outlook, intents: Iterable[Intent]) -> None:
    """Load which volumes are at the junction paths that these give."""
    paths = {path for intent in intents if (path := intent.junction) is not None}
    if not paths:
        return
    both = {"backends": sorted({b for b, _ in paths}), "paths": sorted({p for _, p in paths})}
    [rows] = transaction.ask(_MOUNTED(**both))
    for row in rows:
        outlook.junctions[row["backend"], row["junction_path"]] = row["id"]
