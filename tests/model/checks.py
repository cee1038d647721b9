"""What must hold once everything has come to rest."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import func, select

from orchestrator.store.tables import (
    attachments,
    batches,
    event_commits,
    events,
    job_lanes,
    jobs,
    locks,
    snapshots,
    volumes,
)
from tests.model.history import ENDINGS, History, differences
from tests.model.inventory import MAKERS
from tests.model.world import World


def check_all(world: World, history: History) -> None:
    """Everything that is true of a system at rest, whatever has happened to it."""
    check_jobs(world, history)
    check_events(world, history)
    check_batches(world)
    check_inventory(world, history)
    check_storage(world, history)
    check_effects(world, history)


def check_jobs(world: World, history: History) -> None:
    """Every accepted job has ended, as history says, and holds nothing any more."""
    rows = {row["id"]: row for row in world.rows(select(jobs))}
    assert rows.keys() == history.jobs.keys()
    for job in history.jobs.values():
        row = rows[job.id]
        assert row["state"] == job.ended, f"{job} is {row['state']}, history says {job.ended}"
        assert row["finished_at"] is not None and row["lease_expires_at"] is None
        if job.fences and row["state"] in ("succeeded", "failed"):
            assert row["outcome_fence"] == row["fence"] >= job.fences[-1]
    assert world.rows(select(job_lanes)) == []


def check_events(world: World, history: History) -> None:
    """Numbers are complete, and each job was submitted once and ended once."""
    number = (event_commits.c.base + events.c.seq).label("number")
    rows = world.rows(
        select(events, number)
        .join(event_commits, event_commits.c.id == events.c.commit_id)
        .order_by(number)
    )
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    kinds = Counter((row["job_id"], row["kind"]) for row in rows if row["job_id"] is not None)
    for job in history.jobs.values():
        assert kinds[job.id, "job.submitted"] == 1
        assert sum(kinds[job.id, ending] for ending in ENDINGS) == 1
        assert kinds[job.id, job.action] == (job.ended == "succeeded")


def check_batches(world: World) -> None:
    """A batch's counts are those of its jobs."""
    states = {
        (row["batch_id"], row["state"]): row["count"]
        for row in world.rows(
            select(jobs.c.batch_id, jobs.c.state, func.count().label("count")).group_by(
                jobs.c.batch_id, jobs.c.state
            )
        )
    }
    for row in world.rows(select(batches)):
        counts = {state: states.get((row["id"], state), 0) for state in ENDINGS.values()}
        assert {state: row[state] for state in counts} == counts
        assert sum(counts.values()) == row["total"] and row["finished_at"] is not None


def check_inventory(world: World, history: History) -> None:
    """The database has what the model has."""
    assert recorded(world, history) == expected(history)
    live = {row["id"] for row in world.rows(select(volumes)) if row["state"] != "removed"}
    for table in (locks, attachments):
        assert {row["volume_id"] for row in world.rows(select(table))} <= live
    parts = world.rows(select(snapshots).where(snapshots.c.state != "removed"))
    assert {row["volume_id"] for row in parts} <= live


def recorded(world: World, history: History) -> dict[str, Any]:
    """The inventory in the database, in a form that can be compared."""
    found: dict[str, Any] = {}
    for row in world.rows(select(volumes).where(volumes.c.state != "removed")):
        kept = world.rows(
            select(snapshots).where(
                snapshots.c.volume_id == row["id"], snapshots.c.state != "removed"
            )
        )
        used = world.rows(select(attachments).where(attachments.c.volume_id == row["id"]))
        [held] = world.rows(select(locks).where(locks.c.volume_id == row["id"])) or [None]
        vague = row["state"] == "error" or row["id"] in history.doubtful
        found[row["name"]] = (
            row["id"],
            row["state"],
            None if vague else row["size_bytes"],
            None if vague else row["metadata"],
            None if vague else {one["name"]: (one["id"], one["state"]) for one in kept},
            None if vague else {one["host"]: one["read_only"] for one in used},
            held["owner"] if held else None,
        )
    return found


def expected(history: History) -> dict[str, Any]:
    """The model's inventory, in the same form."""
    return {
        name: (
            volume.id,
            volume.state,
            *(
                (None, None, None, None)
                if volume.state == "error" or volume.id in history.doubtful
                else (
                    volume.size,
                    volume.metadata,
                    {one: (kept.id, kept.state) for one, kept in volume.snapshots.items()},
                    volume.attached,
                )
            ),
            volume.lock[0] if volume.lock and volume.lock[1] > history.now else None,
        )
        for name, volume in history.there.items()
    }


def check_storage(world: World, history: History) -> None:
    """The storage holds what the model has, and nothing else."""
    stored = world.stored()
    unsure = {volume.id for volume in history.there.values() if volume.state == "error"}
    unsure |= history.doubtful
    known = {volume.id for volume in history.there.values()}
    for volume_id in sorted((stored.keys() | known) - unsure):
        found = differences(history.there, volume_id, stored.get(volume_id))
        assert found == [], found
    assert stored.keys() - known <= history.doubtful


def check_effects(world: World, history: History) -> None:
    """What was made was made once."""
    appeared: Counter[str] = Counter()
    for effect in world.effects.all:
        before = {*effect.before, *(s for v in effect.before.values() for s in v.snapshots)}
        after = {*effect.after, *(s for v in effect.after.values() for s in v.snapshots)}
        appeared.update(after - before)
    for job in history.jobs.values():
        if job.action in MAKERS and job.ended == "succeeded":
            made = job.row["snapshot_id" if job.action == "snapshot.create" else "volume_id"]
            assert appeared[made] == 1, f"{job} was done {appeared[made]} times"
