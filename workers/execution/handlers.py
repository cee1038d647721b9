"""What is done for each action: a table of handlers, each a few calls of the driver.

Every handler may run again after a crash at any point: driver calls are idempotent and act
on immutable ids, and the inventory changes only when the outcome is written.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import select

from orchestrator.actions.volume.rollback import newer_snapshots
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import (
    BackendError,
    Conflict,
    HostUnavailable,
    IdentityMismatch,
    InUse,
    Problem,
)
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.sizes import round_up
from orchestrator.domain.states import (
    BackendState,
    FindingKind,
    SnapshotState,
    VolumeState,
)
from orchestrator.inventory.changes import (
    Adopted,
    Change,
    Detached,
    Opened,
    SnapshotGone,
    SnapshotMissing,
    VolumeGone,
    set_backend,
    set_snapshot,
    set_volume,
)
from orchestrator.inventory.hosts import refuse_living
from orchestrator.jobs.claim import metadata_wanted, size_wanted
from orchestrator.store.tables import backends, volumes
from workers.backends.base.abilities import (
    CanAdopt,
    CanAttach,
    CanAttachReadOnly,
    CanClone,
    CanDiagnose,
    CanExport,
    CanGrow,
    CanListClientLocks,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanWipe,
)
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import Absent, SnapshotFacts, VolumeFacts, there
from workers.backends.base.references import SnapshotRef
from workers.execution import exports, repairs, transfers
from workers.execution.auditing import audit
from workers.execution.auditing.comparing import Difference, devices_of, odd, oddities, use
from workers.execution.auditing.comparing import differences as compared
from workers.execution.auditing.written import snapshots_written, written_behind
from workers.execution.formats import HEAD, named_by_head
from workers.execution.refresh import look_at
from workers.execution.settling import come_back, settle, usable_again, verify_policy
from workers.execution.truth import newer_than, not_seen, told_of, usable_as
from workers.execution.work import (
    Done,
    Handler,
    Part,
    Undo,
    Work,
    attached_as,
    exports_of,
    made,
    made_of_source,
    policy_named,
    positions,
    recorded_source,
    recorded_volume,
    refuse_written_elsewhere,
    sizes_of,
)

log = structlog.get_logger(__name__)


def create(work: Work) -> Done:
    """Make an empty volume."""
    metadata = work.intent.params.get("metadata") or {}
    facts = work.driver.create(work.volume, size_wanted(work.claim), metadata, work)
    return made(work, facts)


def clone(work: Work) -> Done:
    """Make a volume with the contents of another or of a snapshot."""
    refuse_written_elsewhere(work, recorded_source(work))
    source = work.source if work.intent.snapshot is None else work.snapshot
    size, metadata = size_wanted(work.claim), metadata_wanted(work.claim)
    return made_of_source(
        work, driver_that(work.driver, CanClone).clone(work.volume, source, size, metadata, work)
    )


def grow(work: Work) -> Done:
    """Make a volume larger."""
    wanted = int(work.intent.params["size_bytes"])
    work.intend("grow", size_bytes=wanted)
    facts = driver_that(work.driver, CanGrow).grow(work.volume, wanted, work)
    if facts.size_bytes < wanted:
        raise BackendError(
            f"after growing to {wanted} bytes the volume has {facts.size_bytes}: "
            "the backend did not do what it said"
        )
    return Done(
        result=sizes_of(facts),
        changes=[set_volume(work.volume.id, requested_bytes=wanted, **sizes_of(facts))],
        before={"size_bytes": recorded_volume(work).size_bytes},
        after=sizes_of(facts),
    )


def update(work: Work) -> Done:
    """Change entries of the metadata, and settings."""
    changed: dict[str, str | None] = work.intent.params.get("metadata") or {}
    done = _set_metadata(work, changed) if changed else Done()
    return exports.configured(work, done) if work.intent.settings else done


def set_info(work: Work) -> Done:
    """Keep another system's text with the volume."""
    return _set_metadata(work, {"info": work.intent.params["info"]})


def _set_metadata(work: Work, changed: dict[str, str | None]) -> Done:
    before = recorded_volume(work).metadata
    merged = {**before, **changed}
    after = {key: text for key, text in merged.items() if text is not None}
    work.intend("set_metadata")
    driver_that(work.driver, CanSetMetadata).set_metadata(work.volume, after, work)
    return Done(
        result={"metadata": after},
        changes=[set_volume(work.volume.id, metadata=after)],
        before={"metadata": before},
        after={"metadata": after},
    )


def rename(work: Work) -> Done:
    """Give a volume another name."""
    new_name = work.intent.params["new_name"]
    _refuse_while_used(work)
    work.intend("rename", new_name=new_name)
    driver_that(work.driver, CanRename).rename(work.volume, new_name, work)
    return Done(
        result={"name": new_name},
        changes=[set_volume(work.volume.id, name=new_name)],
        before={"name": work.volume.name},
        after={"name": new_name},
    )


def rollback(work: Work) -> Done:
    """Put a volume back to a snapshot; then newer ones go, if that was asked for."""
    volume = recorded_volume(work)
    _refuse_while_used(work)
    if work.intended("rollback") is None:
        # What is left is told afterwards: where that cannot be seen, nothing is begun.
        work.driver.list_snapshots(work.volume)
    work.intend("rollback", snapshot=work.snapshot.id)
    facts = driver_that(work.driver, CanRollBack).rollback(work.volume, work.snapshot, work)
    if work.intent.snapshot in volume.snapshots:
        for newer in reversed(newer_snapshots(volume, work.intent.snapshot)):
            driver_that(work.driver, CanSnapshot).delete_snapshot(
                SnapshotRef(newer.id, newer.name, work.volume), work
            )
    # Some storage deletes what is newer by itself.
    left = {one.id for one in work.driver.list_snapshots(work.volume)}
    told, changes = rolled_back(work, facts, left)
    return Done(
        result=told,
        changes=changes,
        before={"size_bytes": volume.size_bytes, "snapshots": [*volume.snapshots]},
        after={"restored": work.intent.snapshot, **told},
    )


def rolled_back(
    work: Work, facts: VolumeFacts, left: Container[str | None]
) -> tuple[dict[str, Any], list[Change]]:
    """What is told and recorded of a volume that was put back, which has these snapshots left."""
    record = recorded_volume(work)
    lost = not_seen(work, left, newer_than(record, work.snapshot.id))
    kept = [one.name for one in record.snapshots.values() if one.id in left]
    struck = [one.name for one in lost if isinstance(one, SnapshotGone)]
    missing = told_of([one for one in lost if isinstance(one, SnapshotMissing)])
    told = {"snapshots_kept": kept, "snapshots_deleted": struck, **missing}
    changes: list[Change] = [set_volume(record.id, **sizes_of(facts)), *lost]
    return {**sizes_of(facts), **told}, changes


#: A wipe is written down in parts, at most this many, so that another attempt goes on behind
#: the last; a part is at least this large.
_WIPED_IN_PARTS = 64
_LEAST_PART = 2**30


def wipe(work: Work) -> Done:
    """Overwrite a volume, or a range of it, with zeroes; go on where an earlier attempt ended."""
    _refuse_while_used(work)
    params = work.intent.params
    begin, length = params.get("offset_bytes", 0), params.get("length_bytes")
    size = recorded_volume(work).size_bytes
    end = size if length is None else begin + length
    part = max(_LEAST_PART, round_up(-(-(end - begin) // _WIPED_IN_PARTS), _LEAST_PART))
    work.intend("wipe", offset_bytes=begin, length_bytes=end - begin)
    facts, done = None, 0
    try:
        for offset in range(begin, end, part):
            last = offset + part >= end
            # Of a volume that has more than is recorded, all is wiped.
            much = None if last and length is None else min(part, end - offset)
            behind = min(end, offset + part)
            if last or work.intended(f"wiped to {behind}") is None:
                at = Part(work, offset - begin, end - begin)
                facts = driver_that(work.driver, CanWipe).wipe(
                    work.volume, at, offset=offset, length=much
                )
            done = behind - begin
            if not last:
                work.note(f"wiped to {behind}")
    except Problem as problem:
        raise type(problem)(
            f"{problem.detail}; of the {end - begin} bytes from {begin} on, at least the first "
            f"{done} are wiped",
            **{**problem.facts, "wiped_bytes": done},
        ) from problem
    assert facts is not None  # noqa: S101 - a range is never empty
    return Done(
        result={**sizes_of(facts), "wiped_bytes": done},
        changes=[set_volume(work.volume.id, **sizes_of(facts))],
        after={"wiped": True, "offset_bytes": begin, "length_bytes": done},
    )


def restrict(work: Work) -> Done:
    """Hide a volume; its data stays."""
    _refuse_while_used(work)
    work.intend("restrict")
    work.driver.restrict(work.volume, work)
    return _state(work, VolumeState.RESTRICTED)


def unrestrict(work: Work) -> Done:
    """Bring a hidden volume back, if its data is still there."""
    there(work.driver.inspect(work.volume), work.volume)
    work.intend("unrestrict")
    work.driver.unrestrict(work.volume, work)
    return _state(work, VolumeState.AVAILABLE)


def _state(work: Work, state: VolumeState) -> Done:
    return Done(
        result={"state": state},
        changes=[set_volume(work.volume.id, state=state)],
        before={"state": recorded_volume(work).state},
        after={"state": state},
    )


def remove(work: Work) -> Done:
    """Remove a volume and its data."""
    wipe = bool(work.intent.params.get("wipe"))
    _refuse_while_used(work)
    again = work.intended("remove") is not None
    work.intend("remove", wiped=wipe)
    removed = work.driver.remove(work.volume, work, wipe=wipe)
    if not removed.found and "absence" in work.driver.capabilities():
        _refuse_unproved(work)
    told: dict[str, Any] = {
        "removed": removed.found,
        "wiped": removed.wiped_bytes > 0,
        "wiped_bytes": removed.wiped_bytes,
    }
    if again and not removed.found:
        # An earlier attempt has removed it, and nobody has heard how far it had wiped before.
        told = {"removed": True, "wiped": None if wipe else False, "wiped_bytes": None}
    before = recorded_volume(work)
    return Done(
        result=told,
        changes=[VolumeGone(work.volume.id)],
        before={"state": before.state, "size_bytes": before.size_bytes},
        after={"state": VolumeState.REMOVED, **told},
    )


def _refuse_unproved(work: Work) -> None:
    """Refuse to strike what is not seen to be gone."""
    look = work.driver.inspect(work.volume)
    if not isinstance(look, Absent):
        facts = there(look, work.volume)
        raise BackendError(
            f"volume {facts.name!r} is still on the storage, which has removed nothing: it stays "
            "in the inventory"
        )


def _refuse_while_used(work: Work) -> None:
    """Refuse what is in use on this host, also where nobody recorded it."""
    devices = [device.path or ", ".join(device.uris) for device in work.driver.devices(work.volume)]
    if devices:
        raise InUse(
            f"volume {work.volume.name!r} is in use on {work.host} as {'; '.join(devices)}: "
            "detach it first"
        )


def forget(work: Work) -> Done:
    """Strike a volume from the inventory; the storage is not touched."""
    record = recorded_volume(work)
    struck: dict[str, Any] = {
        "lost": False,
        "snapshots": [*record.snapshots],
        "attached_to": sorted(record.attachments),
    }
    if work.intent.params.get("lost"):
        work.check_identity()
        repairs.refuse_unless_lost(work)
        left = {one.id for one in work.driver.list_snapshots(work.volume)}
        kept = [one.name for one in record.snapshots.values() if one.id in left]
        struck |= {"lost": True, "snapshots_left": kept}
    return Done(
        result=struck,
        changes=[VolumeGone(work.volume.id, forgotten=True)],
        before={"state": record.state, "size_bytes": record.size_bytes},
        after={"state": VolumeState.REMOVED, "forgotten": True, **struck},
    )


def adopt(work: Work) -> Done:
    """Stamp what is on the storage under this name, and take it into the inventory."""
    work.intend("adopt")
    try:
        facts = driver_that(work.driver, CanAdopt).adopt(work.volume, work)
    except Conflict as problem:
        stamp = _left_stamp(work, problem)
        # Another attempt finds our own stamp, and must know whose it was.
        work.note("take over", stamp=stamp)
        facts = driver_that(work.driver, CanAdopt).adopt(work.volume, work, instead_of=stamp)
    kept = [found for found in work.driver.list_snapshots(work.volume) if found.id is not None]
    before = _former(work)
    settings = {} if before is None else dict(before.settings)
    path = facts.settings.get("junction_path")
    if path is not None and _is_mounted(work, path):
        path = None
    # A path that was the volume's own is taken back only if the storage has it there.
    settings["junction_path"] = path
    metadata = dict(facts.metadata)
    if "metadata" in work.driver.cannot_tell:
        metadata = {} if before is None else dict(before.metadata)
    policy = _known_policy(work, facts.policy)
    volume = {
        "id": work.volume.id,
        "backend_id": work.claim.backend_id,
        "name": work.volume.name,
        "requested_bytes": facts.size_bytes,
        "state": usable_as(facts, VolumeState.AVAILABLE),
        "metadata": metadata,
        "parameters": {} if before is None else dict(before.parameters),
        "account": work.claim.account,
        "policy_id": policy,
        **sizes_of(facts),
        **exports_of(facts, {name: one for name, one in settings.items() if one is not None}, path),
    }
    snapshots = [
        {
            "id": found.id,
            "volume_id": work.volume.id,
            "name": found.name,
            "size_bytes": found.size_bytes,
            "used_bytes": found.used_bytes,
            "position": place,
            "state": SnapshotState.AVAILABLE,
            "created_by_job": work.job_id,
        }
        for found, place in zip(kept, positions(kept), strict=True)
    ]
    result = {
        "id": work.volume.id,
        **sizes_of(facts),
        "metadata": metadata,
        "snapshots": [found.name for found in kept],
        "taken_over": None if before is None else before.id,
    }
    if facts.policy is not None:
        result |= {"policy": facts.policy, "policy_known": policy is not None}
    what = _no_raw_disk(work)
    if what is not None:
        result["note"] = f"it is {what}: its bytes are the volume's, as they are"
    return Done(
        result=result,
        changes=[Adopted(volume, snapshots)],
        after={"state": volume["state"], **result},
    )


def _no_raw_disk(work: Work) -> str | None:
    """What was adopted is, if it is recognisably no raw disk; None also where it cannot be read."""
    try:
        with driver_that(work.driver, CanExport).contents(work.volume, work) as contents:
            offset, data = next(iter(contents.parts), (0, b""))
    except Problem as problem:
        log.info("adopt.not_read", job=work.job_id, why=problem.detail)
        return None
    return named_by_head(data[:HEAD]) if offset == 0 and data else None


def _former(work: Work) -> Any:
    """What the inventory has had of a volume that is taken over, if it ever had it."""
    step = work.intended("take over")
    if step is None:
        return None
    stamp = step.detail["stamp"]
    with work.database.read() as connection:
        return connection.execute(
            select(volumes).where(
                volumes.c.id == stamp, volumes.c.backend_id == work.claim.backend_id
            )
        ).first()


def _known_policy(work: Work, name: str | None) -> int | None:
    """The row of the export policy that a volume has, if the inventory has that."""
    if name is None:
        return None
    return policy_named(work, name)


def _left_stamp(work: Work, problem: Conflict) -> str:
    """The stamp that a volume bears, if it is to be taken over and nobody here has it."""
    stamp = problem.facts.get("stamp")
    if stamp is None:
        raise problem
    with work.database.read() as connection:
        live = connection.execute(
            select(volumes.c.name, backends.c.name.label("backend"))
            .join(backends, backends.c.id == volumes.c.backend_id)
            .where(volumes.c.id == stamp, volumes.c.state != VolumeState.REMOVED)
        ).first()
    if live is not None:
        raise Conflict(
            f"{work.volume.name!r} bears the stamp of volume {live.name!r} of backend "
            f"{live.backend}: it is that volume, or a link to it or a copy of it",
            volume=live.name,
            backend=live.backend,
        ) from problem
    if not work.intent.params.get("take_over"):
        raise Conflict(
            f"volume {work.volume.name!r} bears the stamp {stamp}, which no volume of the "
            "inventory has: if nobody else manages it, say take_over=true",
            stamp=stamp,
        ) from problem
    return str(stamp)


def _is_mounted(work: Work, path: str) -> bool:
    """Whether a volume of the inventory is at this path."""
    with work.database.read() as connection:
        found = connection.execute(
            select(volumes.c.id).where(
                volumes.c.backend_id == work.claim.backend_id,
                volumes.c.junction_path == path,
                volumes.c.state != VolumeState.REMOVED,
            )
        ).scalar()
    return found is not None


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
    with work.database.read() as connection:
        written = [
            odd("written", f"{one.last:%FT%TZ}", f"{one.at:%FT%TZ}", name)
            for name, one in snapshots_written(connection, work.intent.backend, record, snapshots)
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
    if not DRIVERS[work.claim.driver].attaches_locally:
        return {}
    others = sorted(set(record.attachments) - {work.host})
    return {"hosts_not_seen": others} if others else {}


def _written(work: Work, record: VolumeOutlook, facts: VolumeFacts) -> dict[str, Any]:
    """When the image was last written, and whether that was behind our back."""
    if facts.written_at is None:
        return {}
    told: dict[str, Any] = {"written_at": f"{datetime.fromtimestamp(facts.written_at, UTC):%FT%TZ}"}
    if not record.attachments and not work.driver.devices(work.volume):
        with work.database.read() as connection:
            behind = written_behind(connection, work.intent.backend, record, facts.written_at)
        if behind is not None:
            told["written_by_hand_after"] = f"{behind.last:%FT%TZ}"
    return told


def client_locks(work: Work) -> Done:
    """Ask the storage which clients hold locks in the volume."""
    return Done(
        result={
            "locks": [
                asdict(lock)
                for lock in driver_that(work.driver, CanListClientLocks).client_locks(work.volume)
            ]
        }
    )


# -- use by hosts -------------------------------------------------------------------------


def _host(work: Work) -> str:
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    return work.intent.host


def _here(work: Work) -> None:
    """Refuse to touch devices of a host that this is not."""
    if work.claim.queue.startswith("host.") and _host(work) != work.host:
        raise HostUnavailable(f"this worker runs on {work.host}, not on {_host(work)}")


def attach(work: Work) -> Done:
    """Make a volume usable on the host, and verify that it is."""
    _here(work)
    work.intend("attach")
    read_only = bool(work.intent.params.get("read_only"))
    if read_only:
        device = driver_that(work.driver, CanAttachReadOnly).attach(
            work.volume, work, read_only=True
        )
    else:
        device = driver_that(work.driver, CanAttach).attach(work.volume, work)
    told = {"device": device.path, "uris": list(device.uris), "host": _host(work)}
    return Done(result=told, changes=[attached_as(work.volume.id, _host(work), device)], after=told)


def detach(work: Work) -> Done:
    """Take a volume away from the host; by force, only strike the record of a dead one."""
    forced = bool(work.intent.params.get("force"))
    if forced:
        with work.database.read() as connection:
            refuse_living(connection, _host(work))
    else:
        _here(work)
        work.intend("detach")
        driver_that(work.driver, CanAttach).detach(work.volume, work)
    return Done(
        result={"forced": forced},
        changes=[Detached(work.volume.id, _host(work))],
        after={"host": _host(work), "forced": forced},
    )


def open_(work: Work) -> Done:
    """Let the host use the volume."""
    _here(work)
    exclusive = bool(work.intent.params.get("exclusive"))
    work.intend("open", exclusive=exclusive)
    driver_that(work.driver, CanOpen).open(work.volume, work, exclusive=exclusive)
    return _opened(work, "exclusive" if exclusive else "shared")


def close(work: Work) -> Done:
    """End the host's use of the volume."""
    _here(work)
    work.intend("close")
    driver_that(work.driver, CanOpen).close(work.volume, work)
    return _opened(work, None)


def _opened(work: Work, opening: str | None) -> Done:
    return Done(
        result={"opening": opening},
        changes=[Opened(work.volume.id, _host(work), opening)],
        after={"host": _host(work), "opening": opening},
    )


# -- snapshots ----------------------------------------------------------------------------


def create_snapshot(work: Work) -> Done:
    """Keep the present contents under a name."""
    refuse_written_elsewhere(work, recorded_volume(work))
    facts = driver_that(work.driver, CanSnapshot).create_snapshot(work.snapshot, work)
    told = {"size_bytes": facts.size_bytes, "used_bytes": facts.used_bytes}
    kept = {"state": SnapshotState.AVAILABLE, "position": facts.order or None, **told}
    return Done(
        result={"id": work.snapshot.id, **told},
        changes=[set_snapshot(work.snapshot.id, **kept)],
        after={"state": SnapshotState.AVAILABLE, **told},
    )


def delete_snapshot(work: Work) -> Done:
    """Delete a snapshot."""
    work.intend("delete_snapshot", snapshot=work.snapshot.id)
    driver_that(work.driver, CanSnapshot).delete_snapshot(work.snapshot, work)
    return Done(changes=[SnapshotGone(work.snapshot.id)], after={"state": SnapshotState.REMOVED})


# -- backends -----------------------------------------------------------------------------


def refresh(work: Work) -> Done:
    """Read capacity and use anew."""
    work.check_identity()
    return _looked(work)


def verify_backend(work: Work) -> Done:
    """Check the marker, and what the storage itself can check; with ``accept_identity``, take
    the storage over."""
    wanted = work.claim.identity
    if "identity" in work.driver.cannot_tell:
        work.driver.read_identity()  # it is there
        found = wanted or uuid.uuid4().hex
    elif work.intent.params.get("accept_identity"):
        found = _accepted(work)
    else:
        found = _verified(work)
    work.driver.check(work)
    looked = _looked(work)
    marker = set_backend(work.claim.backend_id, identity=found, identity_written=True, error=None)
    return Done(
        result={"identity": found, **looked.result},
        changes=[marker, *looked.changes],
        before={"identity": wanted},
        after={"identity": found},
    )


def _verified(work: Work) -> str:
    """The marker, which is this backend's own."""
    found = work.driver.read_identity()
    if found is None or found != work.claim.identity:
        what = "no identity marker" if found is None else "another marker"
        raise IdentityMismatch(
            f"the storage bears {what}. Make sure that it is the right storage; then "
            f"'orchestrator backend verify {work.intent.backend} accept_identity=true' "
            "takes it as this backend's own"
        )
    work.here.storage.check(work.claim.backend_id, work.claim.leases)
    return found


def _accepted(work: Work) -> str:
    """The marker that the storage bears once it was taken over, a new one if it was not ours.

    Whoever wrote there before finds neither its marker nor its lease any more.
    """
    backend_id, storage = work.claim.backend_id, work.here.storage
    empty = False
    try:
        found = work.driver.read_identity()
    except IdentityMismatch:
        pass  # a copy of another storage
    else:
        empty = found is None
        if found is not None and found == work.claim.identity and storage.is_ours(backend_id):
            storage.check(backend_id, work.claim.leases)
            return found
        _refuse_shared(work, found)
    marker = uuid.uuid4().hex
    if empty:
        # There is no room for a lease before something is set up. Refused if somebody else was
        # quicker.
        work.driver.write_identity(marker)
    storage.take_over(backend_id, "an administrator has accepted it", work.checkpoint)
    if not empty:
        work.driver.write_identity(marker, replace=True)
    return marker


def _refuse_shared(work: Work, marker: str | None) -> None:
    """Refuse storage that is another backend's: each would take the other's volumes for its own."""
    if marker is None:
        return
    query = select(backends.c.name).where(
        backends.c.identity == marker,
        backends.c.id != work.claim.backend_id,
        backends.c.configured,
    )
    other = work.database.look(lambda connection: connection.execute(query).scalar())
    if other is not None:
        raise Conflict(
            f"the storage is that of backend {other}: two backends must not share storage. Give "
            f"backend {work.intent.backend} storage of its own, or take {other} out of the "
            "configuration first"
        )


def _looked(work: Work) -> Done:
    facts, changes = look_at(work.driver, work.database, work.claim.backend_id, work)
    return Done(result=facts, changes=changes)


def diagnose(work: Work) -> Done:
    """Look at whatever could serve the backend on this host."""
    found = [
        {
            **asdict(one),
            "faults": list(one.faults),
            "usable": not one.faults and one.hidden_by is None,
        }
        for one in driver_that(work.driver, CanDiagnose).diagnose()
    ]
    return Done(result={"host": work.host, "found": found})


def drain(work: Work) -> Done:
    """Start nothing more on the backend."""
    return _backend_state(work, BackendState.DRAINING)


def resume(work: Work) -> Done:
    """Let the backend take work again."""
    return _backend_state(work, BackendState.ENABLED)


def _backend_state(work: Work, state: BackendState) -> Done:
    return Done(
        result={"state": state},
        changes=[set_backend(work.claim.backend_id, state=state)],
        after={"state": state},
    )


#: Every action's handler.
HANDLERS: dict[str, Handler] = {
    "volume.create": create,
    "volume.clone": clone,
    "volume.copy": transfers.copy,
    "volume.import": transfers.import_,
    "volume.export": transfers.export,
    "volume.grow": grow,
    "volume.update": update,
    "volume.set_info": set_info,
    "volume.rename": rename,
    "volume.rollback": rollback,
    "volume.wipe": wipe,
    "volume.restrict": restrict,
    "volume.unrestrict": unrestrict,
    "volume.remove": remove,
    "volume.purge": remove,
    "volume.forget": forget,
    "volume.adopt": adopt,
    "volume.reconcile": repairs.reconcile,
    "volume.recreate": repairs.recreate,
    "volume.remove_orphan": repairs.remove_orphan,
    "volume.break_lock": repairs.break_lock,
    "volume.verify": verify,
    "volume.attach": attach,
    "volume.detach": detach,
    "volume.open": open_,
    "volume.close": close,
    "snapshot.create": create_snapshot,
    "snapshot.delete": delete_snapshot,
    "policy.create": exports.create_policy,
    "policy.remove": exports.remove_policy,
    "policy.add_rule": exports.change_rules,
    "policy.remove_rule": exports.change_rules,
    "policy.set_rules": exports.change_rules,
    "policy.reapply": exports.change_rules,
    "policy.assign": exports.assign_policy,
    "policy.verify": verify_policy,
    "volume.client_locks": client_locks,
    "backend.refresh": refresh,
    "backend.verify": verify_backend,
    "backend.audit": audit,
    "backend.recount": repairs.recount,
    "backend.diagnose": diagnose,
    "backend.drain": drain,
    "backend.resume": resume,
}

#: How to take away what an action has made elsewhere than on the backend, where it failed.
UNDOING: dict[str, Undo] = {"volume.export": transfers.take_back}

#: Actions that concern the inventory alone, or check the marker in their own way.
WITHOUT_STORAGE = frozenset(
    {
        "volume.forget",
        "volume.break_lock",
        "backend.recount",
        "backend.refresh",
        "backend.verify",
        "backend.diagnose",
        "backend.drain",
        "backend.resume",
    }
)
