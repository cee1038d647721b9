"""One volume's record and what the storage has of it, compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.states import FindingKind, VolumeState
from orchestrator.jobs.outlook import VolumeOutlook
from workers.backends.interface import Driver, SnapshotFacts, VolumeFacts


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


def _of(kind: FindingKind, part: str, recorded: Any, found: Any, **facts: Any) -> Difference:
    return Difference(kind=kind, part=part, recorded=recorded, found=found, facts=facts)
