"""Volumes, snapshots and attachments as readers see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, TextClause, or_, select, text, union_all

from orchestrator.domain.errors import NotAttached, UnknownSnapshot, UnknownVolume
from orchestrator.domain.states import VolumeState
from orchestrator.inventory.backends import backend_id
from orchestrator.resources.snapshot.order import newer_than, oldest_first
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import begins_with, live
from orchestrator.store.tables import (
    RARE_VOLUME,
    RARE_VOLUME_STATES,
    attachments,
    job_lanes,
    jobs,
    locks,
    policies,
    snapshots,
    volumes,
)
from orchestrator.store.transaction import Transaction

View = dict[str, Any]
Condition = ColumnElement[bool] | TextClause


def list_volumes(
    transaction: Transaction,
    backend: str,
    *,
    states: Sequence[VolumeState],
    prefix: str | None,
    junction_path: str | None = None,
    after: str | None,
    limit: int,
) -> list[View]:
    """Live volumes of a backend in the order of their names, above the name ``after``."""
    conditions = [volumes.c.backend_id == backend_id(transaction, backend), live(volumes)]
    if junction_path is not None:
        conditions.append(volumes.c.junction_path == junction_path)
    parts = [
        select(volumes).where(*conditions, *these).order_by(volumes.c.name).limit(limit)
        for these in _named_in_states(transaction, backend, prefix or "", after or "", states)
    ]
    if not parts:
        return []
    found = union_all(*(select(part.subquery()) for part in parts)).subquery()
    query = select(found).order_by(found.c.name).limit(limit) if len(parts) > 1 else parts[0]
    rows = transaction.execute(query).mappings().all()
    return _views(transaction, backend, rows)


def _named_in_states(
    transaction: Transaction, backend: str, prefix: str, after: str, states: Sequence[VolumeState]
) -> list[tuple[Condition, ...]]:
    """Conditions for volumes of these names, in some of these states, or in any if there are none;
    each live volume meets one of them at most."""
    named = _named(volumes.c.name, prefix, after)
    if not states:
        return [named]
    wanted = volumes.c.state.in_(states)
    if VolumeState.AVAILABLE in states:
        return [(wanted, *named)]
    found: list[tuple[Condition, ...]] = []
    if set(states) & set(RARE_VOLUME_STATES):
        # Said twice: the second is what the index is made with.
        found.append((wanted, text(RARE_VOLUME), *named))
    if VolumeState.PENDING in states:
        # A job is making each of them, and has begun in its lane.
        place = f"{backend}/"
        these = _named(job_lanes.c.lane, place + prefix, after and place + after)
        lanes = transaction.execute(select(job_lanes.c.lane).where(text("begun"), *these)).scalars()
        names = among(volumes.c.name, [lane.removeprefix(place) for lane in lanes])
        found.append((volumes.c.state == VolumeState.PENDING, names))
    return found


def _named(name: ColumnElement[str], prefix: str, after: str) -> tuple[Condition, ...]:
    """That a name begins like that, and comes after another; unless these are empty."""
    if prefix:
        return (begins_with(name, prefix, after or None),)
    return (name > after,) if after else ()


def volume_row(transaction: Transaction, backend: str, name: str) -> RowMapping:
    """The live volume of this name. Raises `UnknownBackend`, `UnknownVolume`."""
    return _the_one(transaction, backend, volumes.c.name == name, repr(name))


def volume_at(transaction: Transaction, backend: str, junction_path: str) -> View:
    """The live volume at a junction path. Raises `UnknownBackend`, `UnknownVolume`."""
    at = volumes.c.junction_path == junction_path
    return _views(
        transaction, backend, [_the_one(transaction, backend, at, f"at {junction_path}")]
    )[0]


def _the_one(
    transaction: Transaction, backend: str, is_it: ColumnElement[bool], called: str
) -> RowMapping:
    query = select(volumes).where(
        volumes.c.backend_id == backend_id(transaction, backend),
        is_it,
        live(volumes),
    )
    row = transaction.execute(query).mappings().first()
    if row is None:
        raise UnknownVolume(f"there is no volume {called} on backend {backend}", field="volume")
    return row


def volume_view(transaction: Transaction, backend: str, name: str) -> View:
    """One live volume with its snapshots, attachments, lock and unfinished jobs."""
    return _views(transaction, backend, [volume_row(transaction, backend, name)])[0]


def _views(transaction: Transaction, backend: str, rows: Sequence[RowMapping]) -> list[View]:
    ids = [row["id"] for row in rows]
    held: dict[str, View] = {}
    used: dict[str, list[View]] = defaultdict(list)
    doing: dict[str, list[int]] = defaultdict(list)
    parents: dict[str, str] = {}
    exported: dict[int, str] = {}
    if ids:
        held = {row["volume_id"]: lock_of(row) for row in _locks(transaction, ids)}
        for row in transaction.execute(
            select(attachments)
            .where(among(attachments.c.volume_id, ids))
            .order_by(attachments.c.host)
        ).mappings():
            used[row["volume_id"]].append(_attachment(row))
        lanes = {f"{backend}/{row['name']}": row["id"] for row in rows}
        for lane, job_id in transaction.execute(
            select(job_lanes.c.lane, job_lanes.c.job_id)
            .join(jobs, jobs.c.id == job_lanes.c.job_id)
            .where(among(job_lanes.c.lane, list(lanes)))
            .order_by(job_lanes.c.job_id)
        ):
            doing[lanes[lane]].append(job_id)
        wanted = [row["parent_snapshot_id"] for row in rows if row["parent_snapshot_id"]]
        if wanted:
            parents = dict(
                transaction.execute(
                    select(snapshots.c.id, snapshots.c.name).where(among(snapshots.c.id, wanted))
                ).all()
            )
        if given := {row["policy_id"] for row in rows} - {None}:
            query = select(policies.c.id, policies.c.name)
            found = transaction.execute(query.where(among(policies.c.id, given)))
            exported = dict(found.all())
    return [
        {
            "id": row["id"],
            "backend": backend,
            "name": row["name"],
            "state": row["state"],
            "size_bytes": row["size_bytes"],
            "requested_bytes": row["requested_bytes"],
            "used_bytes": row["used_bytes"],
            "metadata": row["metadata"],
            "parameters": row["parameters"],
            "settings": row["settings"],
            "policy": exported.get(row["policy_id"]),
            "account": row["account"],
            "address": row["address"],
            "snapshot_reserve_used_percent": row["snapshot_reserve_used_percent"],
            "parent_volume_id": row["parent_volume_id"],
            "parent_snapshot": parents.get(row["parent_snapshot_id"] or ""),
            "lock": held.get(row["id"]),
            "attachments": used.get(row["id"], []),
            "jobs": doing.get(row["id"], []),
            "detail": row["detail"],
            "created_at": row["created_at"],
            "changed_at": row["changed_at"],
        }
        for row in rows
    ]


def _locks(transaction: Transaction, ids: list[str]) -> Sequence[RowMapping]:
    return (
        transaction.execute(
            select(locks).where(
                among(locks.c.volume_id, ids),
                or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now()),
            )
        )
        .mappings()
        .all()
    )


def lock_of(row: RowMapping | Mapping[str, Any]) -> View:
    """A lock as readers see it."""
    return {
        "owner": row["owner"],
        "reason": row["reason"],
        "taken_by": row["taken_by"],
        "taken_at": row["taken_at"],
        "expires_at": row["expires_at"],
    }


def _attachment(row: RowMapping) -> View:
    names = ("host", "device", "uris", "read_only", "boot_id", "opening", "attached_at")
    return {name: row[name] for name in names}


def list_attachments(transaction: Transaction, backend: str, volume: str) -> list[View]:
    """The attachments of a volume, by host."""
    found: list[View] = volume_view(transaction, backend, volume)["attachments"]
    return found


def attachment_view(transaction: Transaction, backend: str, volume: str, host: str) -> View:
    """The attachment of a volume to a host. Raises `NotAttached`."""
    for found in list_attachments(transaction, backend, volume):
        if found["host"] == host:
            return found
    raise NotAttached(f"volume {volume!r} is not attached to {host}", field="host")


def list_snapshots(
    transaction: Transaction, backend: str, volume: str, *, after: str | None, limit: int
) -> list[View]:
    """The snapshots of a volume, oldest first, after the one with the id ``after``."""
    row = volume_row(transaction, backend, volume)
    conditions = [snapshots.c.volume_id == row["id"], live(snapshots)]
    if after is not None:
        conditions.append(newer_than(after))
    found = transaction.execute(
        select(snapshots).where(*conditions).order_by(*oldest_first()).limit(limit)
    ).mappings()
    return [_snapshot(backend, volume, snapshot) for snapshot in found]


def snapshot_view(transaction: Transaction, backend: str, volume: str, name: str) -> View:
    """One snapshot. Raises `UnknownSnapshot`."""
    row = volume_row(transaction, backend, volume)
    found = (
        transaction.execute(
            select(snapshots).where(
                snapshots.c.volume_id == row["id"],
                snapshots.c.name == name,
                live(snapshots),
            )
        )
        .mappings()
        .first()
    )
    if found is None:
        raise UnknownSnapshot(f"volume {volume!r} has no snapshot {name!r}", field="snapshot")
    return _snapshot(backend, volume, found)


def _snapshot(backend: str, volume: str, row: RowMapping) -> View:
    told = {name: row[name] for name in ("id", "name", "state", "size_bytes", "used_bytes")}
    return {**told, "backend": backend, "volume": volume, "created_at": row["created_at"]}
