"""Compare a volume's record with the storage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.actions.volume.verify import VERIFY
from orchestrator.domain.drivers import Reach
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.states import FindingKind, VolumeState
from orchestrator.resources.volume.changes import set_volume
from workers.actions.volume.settling import come_back, settle, usable_again
from workers.backends.base.facts import Absent, SnapshotFacts, VolumeFacts
from workers.execution.auditing.comparing import Difference, devices_of, odd, oddities, use
from workers.execution.auditing.comparing import differences as compared
from workers.execution.auditing.written import snapshots_written, written_behind
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, recorded_volume, sizes_of


def verify(work: Work) -> Done:
    """Compare a volume's record with the storage; one in error that agrees is usable again.

    Snapshots that differ are findings, and keep nobody from the volume. One whose true state
    could not be seen becomes what it is.
    """
    if (settled := settle(work)) is not None:
        return settled
    record = recorded_volume(work)
    facts = work.driver.inspect(work.volume)
    if not isinstance(facts, VolumeFacts):
        found = (
            "there is none"
            if isinstance(facts, Absent)
            else f"{facts.what} stands in its place and does not bear its stamp"
        )
        return Done(result={"agrees": False, "differences": {"storage": found}})
    snapshots = work.driver.list_snapshots(work.volume)
    contents = list(compared(work.claim.driver, work.driver, record, facts, snapshots))
    differences = _differing(record, contents, snapshots)
    # What hosts do with it is no fault of what it holds.
    devices = devices_of(work.driver, work.volume)
    with work.database.read() as transaction:
        written = [
            odd("written", f"{one.last:%FT%TZ}", f"{one.at:%FT%TZ}", name)
            for name, one in snapshots_written(transaction, work.intent.backend, record, snapshots)
        ]
    differences |= {
        one.part: {"recorded": one.recorded, "found": one.found}
        for one in (*oddities(record, facts, snapshots), *written, *use(work, record, devices))
    }
    result = {
        "agrees": not differences,
        "differences": differences,
        **sizes_of(facts),
        **_not_seen(work, record),
        **_written(work, record, facts),
    }
    back = come_back(work, snapshots)
    if back:
        names = {one.id: name for name, one in record.snapshots.items()}
        result["snapshots_usable_again"] = [names[str(one.id)] for one in back]
    differs = any(one.kind is not FindingKind.SNAPSHOT for one in contents)
    if record.state is not VolumeState.ERROR or differs:
        return Done(result=result, changes=back)
    state = usable_again(work, facts)
    return Done(
        result=result,
        changes=[set_volume(work.volume.id, state=state, detail=None), *back],
        before={"state": VolumeState.ERROR},
        after={"state": state},
    )


def _differing(
    record: VolumeOutlook, contents: Sequence[Difference], snapshots: Sequence[SnapshotFacts]
) -> dict[str, Any]:
    """What `verify` says of these differences: of snapshots, by name, what each of them is."""
    told: dict[str, Any] = {}
    for one in contents:
        both = {"recorded": one.recorded, "found": one.found}
        if one.kind is not FindingKind.SNAPSHOT:
            told[one.part] = both
        elif one.snapshot is not None and None not in both.values():
            told[f"snapshots.{one.snapshot}"] = both
        else:
            names = [found.name for found in snapshots]
            told["snapshots"] = {"recorded": [*record.snapshots], "found": names}
    return told


def _not_seen(work: Work, record: VolumeOutlook) -> dict[str, Any]:
    """The hosts whose devices only a worker there can look at."""
    if DRIVERS[work.claim.driver].reach is not Reach.HOST:
        return {}
    others = sorted(set(record.attachments) - {work.host})
    return {"hosts_not_seen": others} if others else {}


def _written(work: Work, record: VolumeOutlook, facts: VolumeFacts) -> dict[str, Any]:
    """When the image was last written, and whether that was behind our back."""
    if facts.written_at is None:
        return {}
    told: dict[str, Any] = {"written_at": f"{datetime.fromtimestamp(facts.written_at, UTC):%FT%TZ}"}
    if not record.attachments and not work.driver.devices(work.volume):
        with work.database.read() as transaction:
            behind = written_behind(transaction, work.intent.backend, record, facts.written_at)
        if behind is not None:
            told["written_by_hand_after"] = f"{behind.last:%FT%TZ}"
    return told


HANDLERS = (Handler(VERIFY, verify),)
