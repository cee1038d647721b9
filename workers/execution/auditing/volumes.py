"""Findings about a volume that is recorded and there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, exists, select

from orchestrator.audit.findings import Finding
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.sizes import format_size
from orchestrator.domain.states import FindingKind, PolicyState
from orchestrator.jobs.outlook import VolumeOutlook
from orchestrator.store.tables import policies
from workers.backends.interface import VolumeFacts, VolumeRef
from workers.execution.auditing.comparing import Difference, differences
from workers.execution.auditing.seen import SeenVolume
from workers.execution.work import Work


def compare_volume(
    work: Work, connection: Connection, record: VolumeOutlook, there: SeenVolume
) -> Iterator[Finding]:
    """What is recorded of it otherwise than it is."""
    driver = work.claim.driver
    for one in differences(driver, work.driver, record, there.facts, there.snapshots):
        yield _finding(connection, work.claim.backend_id, record, one)
    yield from _use(work, record, there.facts)


def _finding(
    connection: Connection, backend_id: int, record: VolumeOutlook, one: Difference
) -> Finding:
    detail = {"recorded": one.recorded, "found": one.found, **one.facts}
    policy = None
    if one.kind is FindingKind.POLICY:
        policy = one.recorded
        detail["known"] = one.found is None or _is_policy(connection, backend_id, one.found)
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


def _is_policy(connection: Connection, backend_id: int, name: str) -> bool:
    live = (policies.c.backend_id == backend_id, policies.c.state != PolicyState.REMOVED)
    query = select(exists().where(*live, policies.c.name == name))
    return bool(connection.execute(query).scalar_one())


def _text(one: Difference) -> str:
    return f"recorded is {one.part} {one.recorded!r}, and the storage has {one.found!r}"


def _size(one: Difference) -> str:
    lost = "; what was behind is lost" if one.found < one.recorded else ""
    return f"{format_size(one.recorded)} are recorded, and {format_size(one.found)} there{lost}"


def _policy(one: Difference) -> str:
    return f"it is to have {_named(one.recorded)}, and the storage gives it {_named(one.found)}"


def _named(policy: str | None) -> str:
    return "no export policy" if policy is None else f"the export policy {policy!r}"


def _snapshot(one: Difference) -> str:
    if one.found is None:
        return f"snapshot {one.snapshot!r} is recorded, and the storage has none"
    if one.recorded is None:
        return f"snapshot {one.snapshot!r} is on the storage, and not recorded"
    return f"snapshot {one.snapshot!r} is recorded as {one.recorded}, and is {one.found}"


_TEXTS = {
    FindingKind.SIZE: _size,
    FindingKind.POLICY: _policy,
    FindingKind.SNAPSHOT: _snapshot,
}


def _use(work: Work, record: VolumeOutlook, facts: VolumeFacts) -> Iterator[Finding]:
    """Whether it is in use where it is recorded to be, as far as this host can see."""
    if facts.attached is None:
        return
    local = DRIVERS[work.claim.driver].attaches_locally
    recorded = [host for host in record.attachments if host == work.host or not local]
    if facts.attached and not recorded:
        yield _attachment(record, work.host, None, "in use", "it is in use here, and not recorded")
    elif recorded and not facts.attached:
        for host in recorded:
            device = record.attachments[host].device
            text = f"it is recorded as attached to {host}, and is not"
            yield _attachment(record, host, device, None, text)
    elif recorded and local:
        yield from _device(work, record)


def _device(work: Work, record: VolumeOutlook) -> Iterator[Finding]:
    """Whether the device is the recorded one."""
    kept = record.attachments[work.host].device
    there = work.driver.devices(VolumeRef(record.id, record.name))
    paths = [device.path for device in there]
    if kept not in paths:
        text = f"it is recorded as attached to {work.host} as {kept}, and is so as {paths}"
        yield _attachment(record, work.host, kept, paths, text)


def _attachment(
    record: VolumeOutlook, host: str, recorded: str | None, found: Any, text: str
) -> Finding:
    kept = record.attachments.get(host)
    return Finding(
        kind=FindingKind.ATTACHMENT,
        subject=f"volume {record.id} on {host}"[:600],
        text=f"volume {record.name!r}: {text}",
        volume=record.name,
        volume_id=record.id,
        host=host,
        detail={
            "recorded": recorded or (host if kept else None),
            "found": found,
            "read_only": bool(kept and kept.read_only),
        },
    )
