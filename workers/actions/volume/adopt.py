"""Stamp what is on the storage under a name, and take it into the inventory."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import select

from orchestrator.actions.volume.adopt import ADOPT
from orchestrator.domain.errors import Conflict, Problem
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.resources.volume.changes import Adopted
from orchestrator.store.conditions import live
from orchestrator.store.tables import backends, volumes
from workers.backends.base.abilities import CanAdopt, CanExport
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import VolumeFacts
from workers.execution.formats import HEAD, named_by_head
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole
from workers.execution.truth import LastCall, last_intended, usable_as
from workers.execution.work import Done, Work, policy_named, positions, settings_found, sizes_of

log = structlog.get_logger(__name__)


def adopt(work: Work) -> Done:
    """Stamp what is on the storage under this name, and take it into the inventory."""
    work.intend("adopt")
    driver, stamp = driver_that(work.driver, CanAdopt), _stamp_before(work)
    try:
        facts = driver.adopt(work.volume, work, instead_of=stamp)
    except Conflict as problem:
        stamp = _left_stamp(work, problem)
        # Another attempt finds our own stamp, and must know whose it was.
        work.note("take over", stamp=stamp)
        facts = driver.adopt(work.volume, work, instead_of=stamp)
    kept = [found for found in work.driver.list_snapshots(work.volume) if found.id is not None]
    before = _former(work, stamp)
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
        **settings_found(
            facts, {name: one for name, one in settings.items() if one is not None}, path
        ),
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


def _stamp_before(work: Work) -> str | None:
    """The stamp that this job, or one that it repeats, has begun to replace."""
    detail = last_intended(work, "take over")
    return None if detail is None else str(detail["stamp"])


def _former(work: Work, stamp: str | None) -> Any:
    """What the inventory has had of a volume that is taken over, if it ever had it."""
    if stamp is None:
        return None
    with work.database.read() as transaction:
        return transaction.execute(
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
    with work.database.read() as transaction:
        bearer = transaction.execute(
            select(volumes.c.name, backends.c.name.label("backend"))
            .join(backends, backends.c.id == volumes.c.backend_id)
            .where(volumes.c.id == stamp, live(volumes))
        ).first()
    if bearer is not None:
        raise Conflict(
            f"{work.volume.name!r} bears the stamp of volume {bearer.name!r} of backend "
            f"{bearer.backend}: it is that volume, or a link to it or a copy of it",
            volume=bearer.name,
            backend=bearer.backend,
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
    with work.database.read() as transaction:
        found = transaction.execute(
            select(volumes.c.id).where(
                volumes.c.backend_id == work.claim.backend_id,
                volumes.c.junction_path == path,
                live(volumes),
            )
        ).scalar()
    return found is not None


def _outcome(work: Work) -> Become:
    """What bears the stamp is ours, whatever becomes of the job; its snapshots get theirs, too."""
    work.check_identity()
    work.driver.fence_off(work.volume, LastCall(work))
    if isinstance(work.driver.inspect(work.volume), VolumeFacts):
        return Whole(adopt(work))
    taken = [one.name for one in work.driver.list_snapshots(work.volume)]
    if not taken:
        return Nothing()
    told = f"its snapshots {', '.join(taken)} were taken over, and the volume was not"
    return Part(f"{told}: adopt it again, which finishes that", {"snapshots_taken": taken})


HANDLERS = (Handler(ADOPT, adopt, outcome=_outcome),)
