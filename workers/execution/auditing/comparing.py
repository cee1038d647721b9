"""One volume's record and what the storage has of it, compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.domain.drivers import Reach
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.states import FindingKind, VolumeState
from workers.backends.base.driver import Driver
from workers.backends.base.facts import SnapshotFacts, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.execution.auditing.seen import SeenDevice
from workers.execution.work import Work


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that is recorded otherwise than it is."""

    kind: FindingKind
    #: Which part of the record: ``size_bytes``, ``settings.compression``, a snapshot's name …
    part: str
    recorded: Any
    found: Any
    snapshot: str | None = None
    #: What a repair must know besides.
    facts: Mapping[str, Any] = field(default_factory=dict)


def differences(
    driver_name: str,
    driver: Driver,
    record: VolumeOutlook,
    facts: VolumeFacts,
    snapshots: Sequence[SnapshotFacts],
) -> Iterator[Difference]:
    """What is recorded otherwise; what the driver cannot tell is left out."""
    if record.size_bytes != facts.size_bytes:
        yield _of(FindingKind.SIZE, "size_bytes", record.size_bytes, facts.size_bytes)
    if record.name != facts.name:
        yield _of(FindingKind.METADATA, "name", record.name, facts.name, what="name")
    found = dict(facts.metadata)
    if record.metadata != found and "metadata" not in driver.cannot_tell:
        yield _of(FindingKind.METADATA, "metadata", record.metadata, found, what="metadata")
    if record.state is not VolumeState.RESTRICTED:
        yield from _exports(driver_name, driver, record, facts)
    yield from _snapshots(record, snapshots)
    yield from _order(record, snapshots)


def _exports(
    driver_name: str, driver: Driver, record: VolumeOutlook, facts: VolumeFacts
) -> Iterator[Difference]:
    """How it is offered to clients; what is restricted is offered to nobody."""
    if "policy" in driver.capabilities() and record.policy != facts.policy:
        yield _of(FindingKind.POLICY, "policy", record.policy, facts.policy)
    for name in sorted(DRIVERS[driver_name].settings & record.settings.keys()):
        kept, there = record.settings[name], facts.settings.get(name)
        if kept != there:
            part = f"settings.{name}"
            yield _of(FindingKind.METADATA, part, kept, there, what="settings")


def _snapshots(record: VolumeOutlook, found: Sequence[SnapshotFacts]) -> Iterator[Difference]:
    there = {one.id: one for one in found if one.id is not None}
    for kept in record.snapshots.values():
        one = there.pop(kept.id, None)
        told = None if one is None else {"name": one.name, "size_bytes": one.size_bytes}
        recorded = {"name": kept.name, "size_bytes": kept.size_bytes}
        if told != recorded:
            yield Difference(
                kind=FindingKind.SNAPSHOT,
                part=f"snapshots.{kept.id}",
                snapshot=kept.name,
                recorded=recorded,
                found=told,
            )
    others = [*there.values(), *(one for one in found if one.id is None and not one.passing)]
    for one in others:
        yield Difference(
            kind=FindingKind.SNAPSHOT,
            part=f"snapshots.{one.id or one.name}",
            snapshot=one.name,
            recorded=None,
            found={"name": one.name, "size_bytes": one.size_bytes},
            facts={"whose": "foreign"} if one.id is None else {"stamp": one.id},
        )


def _order(record: VolumeOutlook, found: Sequence[SnapshotFacts]) -> Iterator[Difference]:
    """Whether the storage has them in another order: rollbacks go by that."""
    if not all(one.order for one in found):
        return
    recorded = {one.id: name for name, one in record.snapshots.items()}
    in_order = [recorded[one.id] for one in found if one.id in recorded]
    kept = [name for name in record.snapshots if name in in_order]
    if kept != in_order:
        yield _of(FindingKind.SNAPSHOT, "snapshots.order", kept, in_order, what="order")


def devices_of(driver: Driver, volume: VolumeRef) -> list[SeenDevice]:
    """How a volume is in use on this host now, as `use` compares it."""
    found = driver.devices(volume)
    return [SeenDevice(one.path, _size_of(one.path) if one.path else None) for one in found]


def use(work: Work, record: VolumeOutlook, devices: Sequence[SeenDevice]) -> Iterator[Difference]:
    """Whether it is in use on this host as it is recorded: through which device, how large.

    ``devices`` were looked at while no job had the volume, or before the record was read. What
    other hosts have is not seen here, unless the storage attaches for all of them.
    """
    local = DRIVERS[work.claim.driver].reach is Reach.HOST
    recorded = {
        host: one for host, one in record.attachments.items() if host == work.host or not local
    }
    if devices and not recorded:
        yield _use(record, work.host, None, "in use", "it is in use here, and not recorded")
    for host, kept in recorded.items():
        sizes = {device.path: device.size_bytes for device in devices}
        paths = list(sizes)
        if not devices:
            yield _use(
                record, host, kept.device, None, f"it is recorded as attached to {host}, and is not"
            )
        elif not local:
            continue
        elif kept.device not in paths:
            text = f"it is recorded as attached to {host} as {kept.device}, and is so as {paths}"
            yield _use(record, host, kept.device, paths, text)
        elif (size := sizes[kept.device]) is not None and size < record.size_bytes:
            text = (
                f"its device {kept.device} on {host} has {size} bytes, and {record.size_bytes} "
                "are recorded"
            )
            yield _use(record, host, kept.device, {"size_bytes": size}, text)


def _use(
    record: VolumeOutlook, host: str, recorded: str | None, found: Any, text: str
) -> Difference:
    kept = record.attachments.get(host)
    return Difference(
        kind=FindingKind.ATTACHMENT,
        part=f"attachments.{host}",
        recorded=recorded or (host if kept else None),
        found=found,
        facts={"host": host, "text": text, "read_only": bool(kept and kept.read_only)},
    )


def _size_of(device: str) -> int | None:
    """None: it is just being taken away, or we may not look."""
    try:
        with Path(device).open("rb") as opened:
            return opened.seek(0, os.SEEK_END)
    except OSError:
        return None


def oddities(
    record: VolumeOutlook, facts: VolumeFacts, snapshots: Sequence[SnapshotFacts]
) -> Iterator[Difference]:
    """What shows that others may lay hands on an image, or could."""
    yield from _odd(facts, owned=not record.attachments)
    names = {one.id: name for name, one in record.snapshots.items()}
    for one in snapshots:
        if one.id in names:
            yield from _odd(one, owned=True, snapshot=names[one.id])


def _odd(
    facts: VolumeFacts | SnapshotFacts, *, owned: bool, snapshot: str | None = None
) -> Iterator[Difference]:
    """``owned``: nobody else has reason to own it, as the user of a guest has."""
    if facts.links is not None and facts.links > 1:
        yield odd("links", 1, facts.links, snapshot)
    if facts.owner is not None and owned and _is_odd(facts.owner):
        yield odd("owner", _OWNER, facts.owner, snapshot)


def odd(what: str, recorded: Any, found: Any, snapshot: str | None = None) -> Difference:
    """Something that is odd about an image, of the volume itself or of one of its snapshots."""
    return Difference(
        kind=FindingKind.METADATA,
        part=what if snapshot is None else f"snapshots.{snapshot}.{what}",
        recorded=recorded,
        found=found,
        snapshot=snapshot,
        facts={"what": what},
    )


#: What the driver gives its images to, unless the worker is somebody else.
_OWNER = f"{os.geteuid()}:{os.getegid()} 0600"


def _is_odd(owner: str) -> bool:
    """Whether others than root and the worker's user own it, or may write to it."""
    ids, mode = owner.split()
    return int(ids.split(":")[0]) not in (0, os.geteuid()) or bool(int(mode, 8) & 0o022)


def _of(kind: FindingKind, part: str, recorded: Any, found: Any, **facts: Any) -> Difference:
    return Difference(kind=kind, part=part, recorded=recorded, found=found, facts=facts)
