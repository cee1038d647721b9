"""The history of a run, read as it is written, and played on the model.

Events are in the order of their commits, so playing them tells what there must be at each
moment: which jobs are begun, what the succeeded ones have left, whether one that started was
its turn, and whether one that failed had a reason to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from orchestrator.jobs.claim import CHANGES
from orchestrator.store.tables import events, job_dependencies, job_steps, jobs, snapshots, volumes
from orchestrator.store.targets import JOB
from tests.model.inventory import (
    DESTRUCTIVE,
    LOCKABLE,
    MAKERS,
    Inventory,
    Snapshot,
    Volume,
    copied,
    do,
    locked_against,
    names_of,
    refusal,
)
from tests.model.storage import Stored, StoredVolume
from tests.model.world import EVENT_ID, World

#: The codes of what accidents on the storage are told as.
TOLD_AS = {
    "fail": "backend_error",
    "unavailable": "backend_unavailable",
    "lost reply": "timed_out",
}
ENDINGS = {"job.succeeded": "succeeded", "job.failed": "failed", "job.canceled": "canceled"}


@dataclass
class Job:
    """A job as its submission and the history since tell it."""

    row: Mapping[str, Any]
    names: set[str]
    #: It was submitted with a start time ahead.
    later: bool
    #: Jobs that must have succeeded before it starts.
    needs: set[int] = field(default_factory=set)
    begun: bool = False
    ended: str | None = None
    ended_at: int = 0
    fences: list[int] = field(default_factory=list)
    #: Why the model would have refused it when it was last claimed.
    refusal: str | None = None
    #: A foreign lock was on its volume at some time since it began.
    was_locked: bool = False
    lost: int = 0
    #: It ended because workers died each time, so nobody has looked what was done.
    unknown: bool = False

    @property
    def id(self) -> int:
        return int(self.row["id"])

    @property
    def action(self) -> str:
        return str(self.row["action"])

    def __str__(self) -> str:
        return f"job {self.id} ({self.action} {self.row['volume']})"


@dataclass(frozen=True)
class Outside:
    """What happened that leaves no event: the clock jumped, or a user wrote."""

    after_event: int
    seconds: float = 0.0
    volume_id: str = ""
    contents: bytes = b""


class History:
    """What has happened so far, and what there must be because of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: dict[int, Job] = {}
        self.there: Inventory = {}
        #: The database's clock, as far as it jumped.
        self.now = 0.0
        self.went_back = False
        self.seen = 0
        #: Volumes of which only a look at the storage can tell what they are: workers died
        #: each time they changed them, and nobody has looked since.
        self.doubtful: set[str] = set()
        #: Codes of the errors that the storage was told to have.
        self.accidents: set[str] = set()
        self._outside: list[Outside] = []
        self._effects_seen = 0
        #: Jobs that somebody asked to be canceled.
        self.asked: set[int] = set()
        self._kinds: dict[int, list[str]] = {}

    # -- what the test tells ----------------------------------------------------------------

    def jumped(self, seconds: float) -> None:
        """The clock was moved."""
        self.read()
        self._outside.append(Outside(self.seen, seconds=seconds))
        self.read()

    def written(self, volume_id: str, contents: bytes) -> None:
        """A user wrote into a volume that nothing was being done to."""
        self.read()
        self._outside.append(Outside(self.seen, volume_id=volume_id, contents=contents))
        self.read()

    def submitted(self, ids: Sequence[int], before: Sequence[Mapping[str, Any]]) -> None:
        """Jobs were accepted; ``before``: what was unfinished at that moment."""
        ahead = [(row["id"], names_of(row)) for row in before if not row["later"]]
        self.read()
        for job_id in ids:
            job = self.jobs[job_id]
            if job.action in DESTRUCTIVE and job.row["after"] == "success":
                job.needs |= {other for other, names in ahead if names & job.names}
            if not job.later:
                ahead.append((job_id, job.names))

    # -- reading ----------------------------------------------------------------------------

    def read(self) -> None:
        """Read on to the latest event."""
        self._look_for_late_calls()
        found = self.world.rows(
            select(events, EVENT_ID.label("id")).where(self.seen < EVENT_ID).order_by(EVENT_ID)
        )
        new = [event["job_id"] for event in found if event["kind"] == "job.submitted"]
        if new:
            self._meet(new)
        for event in found:
            self._play_outside(event["id"])
            self._play(event)
            self.seen = event["id"]
        self._play_outside(self.seen + 1)
        self._look_for_late_calls()

    def _look_for_late_calls(self) -> None:
        """Nothing may change the storage on behalf of a job that has ended."""
        new = self.world.effects.all[self._effects_seen :]
        self._effects_seen += len(new)
        for effect in new:
            job = self.jobs[effect.job_id]
            if job.ended is None or effect.after_event < job.ended_at:
                continue
            told = f"{job} has {job.ended}, and then came a late {effect.operation}"
            assert job.ended == "failed", told
            in_error = job.action in MAKERS and self._in_error(job)
            assert in_error or job.unknown, told
            if not in_error and job.row["volume_id"] is not None:
                self.doubtful.add(job.row["volume_id"])

    def _in_error(self, job: Job) -> bool:
        ids = {volume.id for volume in self.there.values() if volume.state == "error"}
        ids |= {
            snapshot.id
            for volume in self.there.values()
            for snapshot in volume.snapshots.values()
            if snapshot.state == "error"
        }
        return bool({job.row["volume_id"], job.row["snapshot_id"]} & ids)

    def _meet(self, ids: Sequence[int]) -> None:
        now = self.world.now()
        for row in self.world.jobs(select(*JOB).where(jobs.c.id.in_(ids))):
            later = row["run_at"] is not None and row["run_at"] > now
            self.jobs[row["id"]] = Job(row, names_of(row), later)
        for row in self.world.rows(
            select(job_dependencies).where(
                job_dependencies.c.job_id.in_(ids), job_dependencies.c.kind == "asked"
            )
        ):
            self.jobs[row["job_id"]].needs.add(row["depends_on"])

    def _play_outside(self, next_event: int) -> None:
        while self._outside and self._outside[0].after_event < next_event:
            one = self._outside.pop(0)
            self.now += one.seconds
            self.went_back = self.went_back or one.seconds < 0
            if one.volume_id:
                self._write(one)

    def _write(self, one: Outside) -> None:
        for volume in self.there.values():
            if volume.id == one.volume_id:
                volume.contents = one.contents + volume.contents[len(one.contents) :]

    # -- playing ----------------------------------------------------------------------------

    def _play(self, event: Mapping[str, Any]) -> None:
        kind, job_id = event["kind"], event["job_id"]
        if kind.startswith("lock."):
            self._lock(event)
        if job_id is None:
            return
        job = self.jobs[job_id]
        self._kinds.setdefault(job_id, []).append(kind)
        assert job.ended is None, f"{job} has ended, and then: {kind}"
        if kind == "job.started":
            self._started(job, event)
        elif kind == "job.lease_lost":
            job.lost += 1
        elif kind in ENDINGS:
            job.ended, job.ended_at = ENDINGS[kind], event["id"]
            getattr(self, f"_{job.ended}")(job, event)

    def _lock(self, event: Mapping[str, Any]) -> None:
        volume = self.there.get(event["volume"])
        if volume is None or volume.id != event["volume_id"]:
            assert event["kind"] == "lock.expired", f"{event['kind']} on no volume"
            return
        after = event["data"]["after"]
        end = event["data"].get("expires", float("inf"))
        volume.lock = (after["owner"], end) if after else None
        for job in self.jobs.values():
            if job.begun and not job.ended and job.row["volume"] == event["volume"]:
                job.was_locked |= locked_against(volume, job.row["host"], self.now)

    def lock_ends(self, name: str, end: float) -> None:
        """The lock that was just taken ends by itself."""
        self.read()
        volume = self.there[name]
        assert volume.lock is not None
        volume.lock = (volume.lock[0], end)

    def _started(self, job: Job, event: Mapping[str, Any]) -> None:
        fence = event["data"]["fence"]
        latest = max((max(other.fences, default=0) for other in self.jobs.values()), default=0)
        assert fence > latest, f"{job} got the fencing number {fence} after {latest}"
        job.fences.append(fence)
        attempt, most = event["data"]["attempt"], job.row["max_attempts"]
        assert attempt <= most, f"{job} has {most} attempts, and this is number {attempt}"
        if not job.begun:
            self._its_turn(job)
        job.begun = True
        job.refusal = refusal(self.there, job.row, self.now)
        job.was_locked |= job.refusal == "locked"

    def _its_turn(self, job: Job) -> None:
        for other in self.jobs.values():
            if other is job or other.ended or not other.names & job.names:
                continue
            assert not other.begun, f"{job} started while {other} was at work"
            assert other.id > job.id or other.later, f"{job} started before {other}"
        for needed in job.needs:
            state = self.jobs[needed].ended
            assert state == "succeeded", f"{job} started, but job {needed} is {state}"
        if job.later and not self.went_back:
            [row] = self.world.rows(select(jobs).where(jobs.c.id == job.id))
            assert row["started_at"] >= row["run_at"], f"{job} started before its time"

    # -- endings ----------------------------------------------------------------------------

    def _succeeded(self, job: Job, event: Mapping[str, Any]) -> None:
        assert job.begun, f"{job} succeeded and never started"
        told = self._kinds[job.id].count(job.action)
        assert told == 1, f"history tells {told} times that {job} was done"
        if job.action in LOCKABLE and (volume := self.there.get(job.row["volume"])):
            held = locked_against(volume, job.row["host"], self.now)
            assert not held, f"{job} was done under the lock of {volume.lock}"
        why = refusal(self.there, job.row)
        if not self._doubted(job):
            assert why is None, f"{job} succeeded, though {why}"
        if job.action == "volume.verify" and not self._doubted(job):
            [row] = self.world.rows(select(jobs.c.result).where(jobs.c.id == job.id))
            verified = self.there[job.row["volume"]]
            if verified.state == "error" and row["result"]["agrees"]:
                verified.state = "available"
            elif verified.state != "error":
                assert row["result"]["agrees"], f"{job} found {row['result']}"
        if why is None:
            do(self.there, job.row)
        if self._doubted(job) and job.row["volume_id"] is not None:
            self.doubtful.add(job.row["volume_id"])
        if job.action == "volume.verify":
            self._settled(job)

    def _settled(self, job: Job) -> None:
        """A look at what could not be seen before has found what it is."""
        [row] = self.world.rows(select(jobs.c.result).where(jobs.c.id == job.id))
        settled = row["result"].get("settled")
        if settled == "removed":
            self.there.pop(job.row["volume"], None)
        elif settled is not None and (volume := self._target(job)):
            volume.state = settled

    def _failed(self, job: Job, event: Mapping[str, Any]) -> None:
        code = event["data"]["error"]["code"]
        told = f"{job} failed with {event['data']['error']}"
        if job.refusal is not None and code == job.refusal:
            assert not self._changed_by(job) or job.action in MAKERS, told
        elif code == "locked":
            assert job.was_locked, told
        elif code == "outcome_unknown":
            job.unknown = True
            assert len(job.fences) >= job.row["max_attempts"], told
        elif not self._doubted(job):
            assert code in self.accidents, told
        self._left_by(job)

    def _canceled(self, job: Job, event: Mapping[str, Any]) -> None:
        code = event["data"]["error"]["code"]
        told = f"{job} was canceled with {event['data']['error']}"
        if code == "dependency_failed":
            assert not job.begun, told
            bad = {n for n in job.needs if self.jobs[n].ended in ("failed", "canceled")}
            assert bad, told
        else:
            assert job.id in self.asked, told
            if job.action not in MAKERS:
                assert not self._changed_by(job), told
        self._left_by(job)

    def _changed_by(self, job: Job) -> bool:
        return any(effect.job_id == job.id for effect in self.world.effects.all)

    def _doubted(self, job: Job) -> bool:
        """Whether the job may have come upon something nobody knows for certain."""
        ids = {job.row["volume_id"], job.row["source_id"]}
        ids |= {volume.id for name, volume in self.there.items() if name in job.names}
        names = {
            stored.name for stored in self.world.stored().values() if stored.id in self.doubtful
        }
        return bool(ids & self.doubtful) or bool(names & job.names)

    # -- what a job that ended badly has left -------------------------------------------------

    def _left_by(self, job: Job) -> None:
        if not job.begun or job.action.startswith("backend."):
            return
        stored = self.world.stored()
        if job.action in MAKERS:
            self._left_by_maker(job, stored)
        elif volume := self._target(job):
            self._look_for_errors(volume, stored)
            before = copied({job.row["volume"]: volume})
            if job.unknown:
                self.doubtful.add(volume.id)
                [row] = self.world.rows(select(volumes.c.state).where(volumes.c.id == volume.id))
                if row["state"] == "error":
                    # Nobody could see what it has left: until the engine has checked it again.
                    begun = select(job_steps).where(job_steps.c.job_id == job.id, CHANGES)
                    assert self.world.rows(begun), f"{job} began nothing, and {volume} is in error"
                    volume.state = "error"
            elif self._changed_by(job):
                self._adopt(job, before, stored.get(volume.id))

    def _look_for_errors(self, volume: Volume, stored: Stored) -> None:
        """Whoever looks at a volume may find that a snapshot in error is not there at all."""
        kept = stored[volume.id].snapshots if volume.id in stored else {}
        for name, snapshot in list(volume.snapshots.items()):
            [row] = self.world.rows(select(snapshots).where(snapshots.c.id == snapshot.id))
            if snapshot.state == "error" and row["state"] == "removed":
                assert snapshot.id not in kept, f"snapshot {name} is there, but struck"
                del volume.snapshots[name]

    def _target(self, job: Job) -> Volume | None:
        volume = self.there.get(job.row["volume"])
        return volume if volume and volume.id == job.row["volume_id"] else None

    def _left_by_maker(self, job: Job, stored: Stored) -> None:
        """It is taken away again, or kept in error and told so."""
        if job.action == "snapshot.create":
            made, table = job.row["snapshot_id"], snapshots
            on_storage = any(made in volume.snapshots for volume in stored.values())
        else:
            made, table = job.row["volume_id"], volumes
            on_storage = made in stored
        states = [row["state"] for row in self.world.rows(select(table).where(table.c.id == made))]
        if states not in ([], ["removed"]):
            assert states == ["error"], f"{job} has ended and left something {states}"
            assert job.unknown or self.accidents, f"{job} has not taken away what it made"
            if job.action != "snapshot.create":
                size = job.row["params"].get("size_bytes") or 0
                self.there[job.row["volume"]] = Volume(made, size, state="error")
            elif volume := self._target(job):
                volume.snapshots[job.row["snapshot"]] = Snapshot(made, volume.size, b"", "error")
        else:
            assert not on_storage, f"{job} has ended and left what it made"

    def _adopt(self, job: Job, before: Inventory, stored: StoredVolume | None) -> None:
        """What exists was changed or not; partly only where newer snapshots go one by one."""
        name, volume_id = job.row["volume"], job.row["volume_id"]
        after = copied(before)
        do(after, job.row)
        outcomes = [before, after]
        if job.action == "volume.rollback":
            names = list(before[name].snapshots)
            for kept in range(names.index(job.row["snapshot"]) + 1, len(names)):
                partly = copied(after)
                partly[name].snapshots = {
                    one: before[name].snapshots[one] for one in names[: kept + 1]
                }
                outcomes.append(partly)
        told = [outcome for outcome in outcomes if not differences(outcome, volume_id, stored)]
        assert told, f"{job} failed and left {stored}, not one of {outcomes}"
        self.there.pop(name)
        self.there.update(told[0])


def differences(there: Inventory, volume_id: str, stored: StoredVolume | None) -> list[str]:
    """What the storage holds of a volume otherwise than the model says."""
    named = next(((n, v) for n, v in there.items() if v.id == volume_id), None)
    if named is None or stored is None:
        return [] if named is None and stored is None else [f"{volume_id}: there is {stored}"]
    name, volume = named
    expected = (
        name,
        volume.size,
        volume.metadata,
        volume.contents,
        {
            (one.id, snapshot, one.size, one.contents)
            for snapshot, one in volume.snapshots.items()
            if one.state == "available"
        },
        bool(volume.attached),
    )
    unsure = {one.id for one in volume.snapshots.values() if one.state == "error"}
    found = (
        stored.name,
        stored.size,
        stored.metadata,
        stored.contents,
        {
            (one.id, one.name, one.size, one.contents)
            for one in stored.snapshots.values()
            if one.id not in unsure
        },
        stored.attached is not None,
    )
    return [] if expected == found else [f"{name}: expected {expected}, the storage has {found}"]
