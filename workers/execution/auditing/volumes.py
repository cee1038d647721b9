"""Findings about a volume that is recorded and there."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import exists, select

from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.sizes import format_size
from orchestrator.domain.states import FindingKind
from orchestrator.findings.recording import Finding
from orchestrator.store.conditions import live
from orchestrator.store.tables import policies
from orchestrator.store.transaction import Transaction
from workers.execution.auditing.comparing import Difference, differences, oddities, use
from workers.execution.auditing.seen import SeenVolume
from workers.execution.work import Work


def compare_volume(
    work: Work, transaction: Transaction, record: VolumeOutlook, there: SeenVolume
) -> Iterator[Finding]:
    """What is recorded of it otherwise than it is."""
    driver, facts = work.claim.driver, there.facts
    for one in differences(driver, work.driver, record, facts, there.snapshots):
        yield finding_of(transaction, work.claim.backend_id, record, one)
    for one in oddities(record, facts, there.snapshots):
        yield finding_of(transaction, work.claim.backend_id, record, one)
    if facts.attached is not None and (facts.attached or record.attachments):
        for one in use(work, record, there.devices):
            yield _attachment(record, one)


def finding_of(
    transaction: Transaction, backend_id: int, record: VolumeOutlook, one: Difference
) -> Finding:
    """What is written of a difference."""
    detail = {"recorded": one.recorded, "found": one.found, **one.facts}
    policy = None
    if one.kind is FindingKind.POLICY:
        policy = one.recorded
        detail["known"] = one.found is None or _is_policy(transaction, backend_id, one.found)
    if one.part.startswith("settings."):
        name = one.part.removeprefix("settings.")
        detail |= {"recorded": {name: one.recorded}, "found": {name: one.found}}
    return Finding(
        kind=one.kind,
        subject=f"volume {record.id} {one.part}"[:600],
        text=f"volume {record.name!r}: {_TEXTS.get(one.kind, _text)(one)}",
        volume=record.name,
        volume_id=record.id,
        snapshot=one.snapshot and one.snapshot[:255],
        policy=policy,
        detail=detail,
    )


def _is_policy(transaction: Transaction, backend_id: int, name: str) -> bool:
    here = policies.c.backend_id == backend_id
    query = select(exists().where(here, live(policies), policies.c.name == name))
    return bool(transaction.execute(query).scalar_one())


def _text(one: Difference) -> str:
    return f"recorded is {one.part} {one.recorded!r}, and the storage has {one.found!r}"


def _metadata(one: Difference) -> str:
    odd = _ODD if one.snapshot is None else _ODD_SNAPSHOT
    told = odd.get(one.facts.get("what", ""))
    if told is None:
        return _text(one)
    return told.format(one.found, snapshot=one.snapshot)


#: What an image shows that others may lay hands on.
_ODD = {
    "links": "its image has {} names (hard links): whoever has another of them can read and change "
    "it, so look who made them",
    "owner": "its image belongs to {} (user, group, mode): others than the worker can write to it",
    "written": "its image was last written at {}, though it was not attached then and no job "
    "changed it: somebody may have written to it by hand; 'volume reconcile' says that it is known",
}
_ODD_SNAPSHOT = {
    "links": "the image of snapshot {snapshot!r} has {} names (hard links): whoever has another "
    "of them can read and change it, so look who made them",
    "owner": "the image of snapshot {snapshot!r} belongs to {} (user, group, mode): others than "
    "the worker can write to it",
    "written": "the image of snapshot {snapshot!r} was last written at {}, after it was taken: it "
    "may not hold what the volume held then; 'volume reconcile' says that it is known",
}


def _size(one: Difference) -> str:
    lost = "; what was behind is lost" if one.found < one.recorded else ""
    return f"{format_size(one.recorded)} are recorded, and {format_size(one.found)} there{lost}"


def _policy(one: Difference) -> str:
    return f"it is to have {_named(one.recorded)}, and the storage gives it {_named(one.found)}"


def _named(policy: str | None) -> str:
    return "no export policy" if policy is None else f"the export policy {policy!r}"


def _snapshot(one: Difference) -> str:
    if one.part == "snapshots.order":
        told = (", ".join(names) for names in (one.recorded, one.found))
        return "its snapshots are recorded in the order {}, and were taken in the order {}".format(
            *told
        )
    if one.found is None:
        return f"snapshot {one.snapshot!r} is recorded, and the storage has none"
    if one.recorded is None:
        return f"snapshot {one.snapshot!r} is on the storage, and not recorded"
    return f"snapshot {one.snapshot!r} is recorded as {one.recorded}, and is {one.found}"


_TEXTS = {
    FindingKind.METADATA: _metadata,
    FindingKind.SIZE: _size,
    FindingKind.POLICY: _policy,
    FindingKind.SNAPSHOT: _snapshot,
}


def _attachment(record: VolumeOutlook, one: Difference) -> Finding:
    host = one.facts["host"]
    return Finding(
        kind=FindingKind.ATTACHMENT,
        subject=f"volume {record.id} on {host}"[:600],
        text=f"volume {record.name!r}: {one.facts['text']}",
        volume=record.name,
        volume_id=record.id,
        host=host,
        detail={
            "recorded": one.recorded,
            "found": one.found,
            "read_only": one.facts["read_only"],
        },
    )
