"""Findings about storage that no record has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select

from orchestrator.actions import repairs
from orchestrator.domain.sizes import format_size
from orchestrator.domain.states import FindingKind, VolumeState
from orchestrator.findings.recording import Finding
from orchestrator.resources.volume.changes import FORGOTTEN
from orchestrator.store.bulk import among
from orchestrator.store.conditions import live
from orchestrator.store.tables import volumes
from orchestrator.store.transaction import Transaction
from workers.backends.base.facts import VolumeFacts
from workers.execution.auditing.seen import Seen, SeenVolume, skipped
from workers.execution.work import Work

_WHOSE = {
    repairs.FOREIGN: "it bears no stamp of ours: somebody else has put it there",
    repairs.UNKNOWN: "it bears a stamp of ours, and is of no volume of the inventory: a copy "
    "perhaps of one that was removed, or the database is older than the storage",
    repairs.FORGOTTEN: "it is of a volume that was forgotten",
    repairs.REMOVED: "it is of a volume that was removed",
    repairs.TWIN: "it bears the stamp of volume {!r}: it is a further name of that one's image (a "
    "hard link), or a copy of it; look who made it, and take it away by hand",
}


def orphans(work: Work, transaction: Transaction, seen: Seen) -> Iterator[Finding]:
    """Volumes of the storage that no live row is about."""
    backend = work.intent.backend
    for page in seen.unmatched():
        stamps = {id_ for one in page if (id_ := one.facts.id or one.facts.bears) is not None}
        known = {
            row.id: row
            for row in transaction.execute(select(volumes).where(among(volumes.c.id, stamps)))
        }
        taken = _taken(work, transaction, {one.facts.name[:255] for one in page})
        copied = seen.several(stamps)
        for one in page:
            row = known.get(one.facts.id or one.facts.bears)
            names = {one.facts.name, row.name if row is not None else one.facts.name}
            if not any(seen.is_busy(f"{backend}/{name}") for name in names):
                where = {"name_taken": one.facts.name in taken, "copies": one.facts.id in copied}
                yield _orphan(one, row, where, work)
            elif one.facts.id is not None:
                seen.note_busy([skipped(one.facts.id)])


def _taken(work: Work, transaction: Transaction, names: set[str]) -> set[str]:
    """Those of these names that a recorded volume has."""
    return set(
        transaction.execute(
            select(volumes.c.name).where(
                volumes.c.backend_id == work.claim.backend_id,
                live(volumes),
                among(volumes.c.name, names),
            )
        ).scalars()
    )


def strays(work: Work, transaction: Transaction, seen: Seen) -> Iterator[Finding]:
    """Snapshots whose volume is neither on the storage nor recorded."""
    backend = work.intent.backend
    for page in seen.stray_volumes():
        known = {
            row.id: row
            for row in transaction.execute(select(volumes).where(among(volumes.c.id, page)))
        }
        taken = _taken(work, transaction, {row.name for row in known.values()})
        for id_ in page:
            row: Any = known.get(id_)
            if row is not None and seen.is_busy(f"{backend}/{row.name}"):
                seen.note_busy([skipped(id_)])
            elif row is None or row.state == VolumeState.REMOVED:
                # What is said of a recorded one is said of the volume.
                yield _stray(
                    id_, row, seen.strays(id_), work, name_taken=bool(row) and row.name in taken
                )


def _stray(id_: str, row: Any, names: list[str], work: Work, *, name_taken: bool) -> Finding:
    whose = _whose_id(row, work.claim.backend_id)
    of = f"volume {row.name!r} ({id_})" if row is not None else f"a volume {id_}"
    return Finding(
        kind=FindingKind.ORPHAN,
        subject=f"snapshots {id_}",
        text=f"{len(names)} snapshots ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}) of "
        f"{of} are on the storage, and the volume is not; {_WHOSE[whose]}",
        volume=None if row is None else row.name,
        volume_id=id_,
        detail={
            "whose": whose,
            "name_taken": name_taken,
            # They are no volume: there is nothing to adopt.
            "volume": False,
            "recorded": None,
            "found": {"snapshots": len(names)},
        },
    )


def _orphan(one: SeenVolume, row: Any, where: Mapping[str, bool], work: Work) -> Finding:
    facts = one.facts
    whose = _whose(row, facts, work.claim.backend_id)
    if where["copies"] and whose == repairs.REMOVED:
        whose = repairs.UNKNOWN
    told: Mapping[str, Any] = {"size_bytes": facts.size_bytes, "snapshots": len(one.snapshots)}
    return Finding(
        kind=FindingKind.ORPHAN,
        subject=(f"stamp {facts.id} {facts.name}" if facts.id else f"name {facts.name}")[:600],
        text=f"{facts.name!r} ({format_size(facts.size_bytes)}) is on the storage and no volume "
        f"of the inventory; {_WHOSE[whose].format(row.name if row is not None else None)}",
        volume=facts.name[:255],
        volume_id=facts.id,
        detail={"whose": whose, **where, "recorded": None, "found": told},
    )


def _whose(row: Any, facts: VolumeFacts, backend_id: int) -> str:
    if facts.id is None:
        if facts.bears is None:
            return repairs.FOREIGN
        lives = row is not None and row.state != VolumeState.REMOVED
        return repairs.TWIN if lives else repairs.UNKNOWN
    whose = _whose_id(row, backend_id)
    # Under another name it is what somebody has made of it, a copy perhaps.
    return repairs.UNKNOWN if whose == repairs.REMOVED and row.name != facts.name else whose


def _whose_id(row: Any, backend_id: int) -> str:
    if row is None or row.backend_id != backend_id or row.state != VolumeState.REMOVED:
        return repairs.UNKNOWN
    return repairs.FORGOTTEN if row.detail == FORGOTTEN else repairs.REMOVED
