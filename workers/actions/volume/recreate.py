"""Make a lost volume again, empty, under its id."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from orchestrator.actions.volume.recreate import RECREATE
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.states import VolumeState
from orchestrator.resources.volume.changes import set_volume
from orchestrator.store.tables import policies
from workers.actions.volume.lost import not_lost, refuse_held
from workers.actions.volume.settling import policy_found
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import Absent, VolumeFacts, there
from workers.backends.base.references import PolicyRef
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Whole, of_volume
from workers.execution.truth import Seen, not_seen, told_of
from workers.execution.work import Done, Work, made, policy_named, recorded_volume, sizes_of


def recreate(work: Work) -> Done:
    """Make a lost volume anew, empty, under its id; snapshots that are still there stay.

    Nothing that is found there is ever taken away, nor what was begun here.
    """
    record = recorded_volume(work)
    begun = work.intended("recreate") is not None
    look = work.driver.inspect(work.volume)
    if isinstance(look, Absent):
        refuse_held(work)
        work.intend("recreate", size_bytes=record.size_bytes)
        volume = replace(work.volume, policy=_policy(work, record))
        facts = work.driver.create(volume, record.size_bytes, record.metadata, work)
    elif not begun:
        raise not_lost(work, look)
    else:
        facts = there(look, work.volume)
    kept: set[str | None] = {one.id for one in work.driver.list_snapshots(work.volume)}
    lost = [one for one in record.snapshots.values() if one.id not in kept]
    changes = not_seen(work, kept, {one.id for one in lost})
    told = {"state": VolumeState.AVAILABLE, **sizes_of(facts)}
    return Done(
        result={
            **sizes_of(facts),
            "lost_snapshots": [one.name for one in lost],
            "kept_snapshots": [one.name for one in record.snapshots.values() if one.id in kept],
            **told_of(changes),
        },
        changes=[
            set_volume(record.id, detail=None, **told, **policy_found(work, facts)),
            *changes,
        ],
        before={"state": record.state, "snapshots": [*record.snapshots]},
        # What another attempt finds may also be the volume itself, which has come back.
        after={"empty": not begun or facts.used_bytes == 0, **told},
    )


def _policy(work: Work, record: VolumeOutlook) -> PolicyRef | None:
    """The export policy that the volume is to have again, if the storage still has that."""
    if record.policy is None:
        return None
    with work.database.read() as transaction:
        row = transaction.execute(
            select(policies.c.uid, policies.c.native).where(
                policies.c.id == policy_named(work, record.policy)
            )
        ).first()
    if row is None:
        return None
    ref = PolicyRef(row.uid, record.policy, row.native)
    driver = driver_that(work.driver, CanExportByPolicy)
    return None if driver.inspect_policy(ref) is None else ref


def _outcome(work: Work, facts: VolumeFacts, seen: Seen) -> Become:
    record = recorded_volume(work)
    kept = record.snapshots.values()
    lost = not_seen(work, seen.snapshots, {one.id for one in kept})
    told = {
        **sizes_of(facts),
        "lost_snapshots": [one.name for one in kept if one.id not in seen.snapshots],
        "kept_snapshots": [one.name for one in kept if one.id in seen.snapshots],
        **told_of(lost),
    }
    done = made(work, facts)
    changes = [
        *done.changes,
        set_volume(record.id, detail=None, **policy_found(work, facts)),
        *lost,
    ]
    # What is found may also be the volume itself, which has come back.
    after = {"empty": facts.used_bytes == 0, **told}
    return Whole(Done(result=told, changes=changes, after=after))


HANDLERS = (Handler(RECREATE, recreate, outcome=of_volume(_outcome, lambda _: Nothing())),)
