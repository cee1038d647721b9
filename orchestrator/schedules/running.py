"""A run: the jobs of one schedule for one period, submitted once however often this is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import select

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import parse_request
from orchestrator.actions.schedules import beginnings, fitting, on_volumes
from orchestrator.actions.snapshot.delete import DELETE
from orchestrator.domain.actors import ENGINE, Actor
from orchestrator.domain.errors import Problem
from orchestrator.domain.states import Role, VolumeState
from orchestrator.jobs.queued import Wake, together
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.submit import submit_together
from orchestrator.jobs.turns import Turns
from orchestrator.schedules.pruning import Volume, deletions
from orchestrator.schedules.timing import Schedule
from orchestrator.store.bulk import insert_rows
from orchestrator.store.conditions import begins_with, live
from orchestrator.store.database import Database
from orchestrator.store.tables import schedule_jobs, volumes
from orchestrator.store.transaction import Transaction

T = TypeVar("T")

#: Jobs that are submitted in one transaction.
_TOGETHER = 100
#: Names of volumes that are read at a time.
_PAGE = 500
#: Refusals that are told one by one.
_TOLD = 20

#: Sends wake-ups for what was queued.
SendWake = Callable[[Wake], None]
#: What a transaction that submits does besides, with the period and the ids of the new jobs.
Beside = Callable[[Transaction, datetime, Sequence[int]], None]


@dataclass
class Run:
    """What came of a run."""

    due: datetime
    #: Jobs that do what the schedule is for, whoever submitted them for this period.
    submitted: int = 0
    #: These, and those that delete what is replaced.
    job_ids: list[int] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_in_all: int = 0

    def refuse(self, volume: str | None, snapshot: str | None, problem: Problem) -> None:
        """Note why a job was not submitted."""
        self.refused_in_all += 1
        if len(self.refused) < _TOLD:
            told = {"volume": volume, "snapshot": snapshot, "code": problem.code}
            self.refused.append({**told, "detail": problem.detail})

    def result(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "due_at": written(self.due),
            "submitted": self.submitted,
            "deletions": len(self.job_ids) - self.submitted,
            "refused": self.refused,
            "refused_in_all": self.refused_in_all,
            "jobs": [self.job_ids[0], self.job_ids[-1]] if self.job_ids else None,
        }


def run(
    database: Database,
    schedule: Schedule,
    due: datetime,
    *,
    max_attempts: int,
    wake: SendWake,
    beside: Beside | None = None,
) -> Run:
    """Submit the jobs of a schedule for the period ``due``, some in each transaction.

    Done again, or by two at once, it submits nothing twice: jobs have the period and the
    volume in their keys. One that is refused does not keep the others from being submitted.
    ``beside`` is called in each transaction that submits.
    """
    made = _Run(database, schedule, due, max_attempts, wake, beside)
    action = ACTIONS[schedule.action]
    if not on_volumes(action):
        made.submit([(None, None, made.job(None))])
        return made.finished()
    for some in _in_parts(_fitting_volumes(database, schedule)):
        ids = made.submit([(one.name, made.snapshot, made.job(one)) for one in some])
        if schedule.keep is not None:
            new = [(one, job_id) for one, job_id in zip(some, ids, strict=True) if job_id]
            made.prune(new)
    return made.finished()


def written(moment: datetime) -> str:
    """A moment as answers tell it."""
    return moment.isoformat().replace("+00:00", "Z")


def compact(moment: datetime) -> str:
    """A moment as names have it: 20261122T020000Z."""
    return f"{moment:%Y%m%dT%H%M%SZ}"


class _Run:
    """What the steps of a run have in common."""

    def __init__(
        self,
        database: Database,
        schedule: Schedule,
        due: datetime,
        max_attempts: int,
        wake: SendWake,
        beside: Beside | None,
    ) -> None:
        self._database = database
        self._schedule = schedule
        self._max_attempts = max_attempts
        self._wake = wake
        self._beside = beside
        self._turns = Turns()
        self._due = compact(due)
        self.outcome = Run(due)
        #: What the new snapshots are called, if it makes some.
        self.snapshot = (
            f"{schedule.name}-{self._due}" if ACTIONS[schedule.action].made == "snapshot" else None
        )

    def job(self, volume: Volume | None) -> Submission:
        """The job for a volume, or for the backend."""
        wanted = {
            "action": self._schedule.action,
            "volume": None if volume is None else volume.name,
            "snapshot": self.snapshot,
            "params": self._schedule.params,
        }
        key = f"schedule {self._schedule.id} {self._due} {volume.id if volume else ''}".rstrip()
        bound = {} if volume is None else {"volume_id": volume.id}
        return self._submission(wanted, key, bound)

    def _submission(self, wanted: dict[str, Any], key: str, bound: dict[str, Any]) -> Submission:
        # No more than the action needs: whoever made the schedule had that.
        role: Role = ACTIONS[wanted["action"]].role
        return Submission(
            requests=[parse_request({"backend": self._schedule.backend, **wanted})],
            actor=Actor(ENGINE, role),
            reason=f"schedule {self._schedule.name}",
            idempotency_key=key,
            bound={0: bound},
        )

    def submit(
        self, wanted: Sequence[tuple[str | None, str | None, Submission]]
    ) -> list[int | None]:
        """Submit jobs, each for itself, and note them in the same transaction; their ids."""
        ids = self._commit(wanted)
        self.outcome.submitted += sum(job_id is not None for job_id in ids)
        return ids

    def prune(self, new: Sequence[tuple[Volume, int]]) -> None:
        """Have what is not kept any more deleted, of volumes whose new snapshot has this job."""
        keep, schedule = self._schedule.keep, self._schedule
        assert keep is not None and schedule.backend is not None  # noqa: S101 - who calls knows
        backend, due = schedule.backend, self.outcome.due
        old = self._database.look(
            lambda transaction: deletions(transaction, schedule.id, backend, keep, new, due)
        )
        wanted = [
            (
                one.volume.name,
                one.snapshot,
                self._submission(
                    {
                        "action": DELETE.name,
                        "volume": one.volume.name,
                        "snapshot": one.snapshot,
                        "depends_on": [one.after],
                    },
                    f"schedule prune {one.snapshot_id} {self._due}",
                    {"volume_id": one.volume.id, "snapshot_id": one.snapshot_id},
                ),
            )
            for one in old
        ]
        for some in _in_parts(wanted):
            self._commit(some)

    def finished(self) -> Run:
        """The outcome, with all jobs there are for the period: some may have been there before."""
        query = (
            select(schedule_jobs.c.job_id)
            .where(
                schedule_jobs.c.schedule_id == self._schedule.id,
                schedule_jobs.c.due_at == self.outcome.due,
            )
            .order_by(schedule_jobs.c.job_id)
        )
        with self._database.read() as transaction:
            self.outcome.job_ids = list(transaction.execute(query).scalars())
        return self.outcome

    def _commit(
        self, wanted: Sequence[tuple[str | None, str | None, Submission]]
    ) -> list[int | None]:
        def work(transaction: Transaction) -> list[Accepted | Problem]:
            fates = submit_together(
                transaction,
                [submission for _, _, submission in wanted],
                max_attempts=self._max_attempts,
                turns=self._turns,
            )
            new = [
                job_id
                for fate in fates
                if isinstance(fate, Accepted) and not fate.repeated
                for job_id in fate.job_ids
            ]
            shared = {"schedule_id": self._schedule.id, "due_at": self.outcome.due}
            insert_rows(transaction, schedule_jobs, [{"job_id": one, **shared} for one in new])
            if self._beside is not None:
                self._beside(transaction, self.outcome.due, new)
            return fates

        fates = self._database.transact(work)
        self._wake(together(*(f.wake for f in fates if isinstance(f, Accepted))))
        ids: list[int | None] = []
        for (volume, snapshot, _), fate in zip(wanted, fates, strict=True):
            if isinstance(fate, Problem):
                self.outcome.refuse(volume, snapshot, fate)
                ids.append(None)
            else:
                ids.append(fate.job_ids[0])
        return ids


def _in_parts(found: Iterable[T]) -> Iterator[list[T]]:
    left = iter(found)
    while part := list(islice(left, _TOGETHER)):
        yield part


def _fitting_volumes(database: Database, schedule: Schedule) -> Iterator[Volume]:
    """The volumes whose names fit a pattern of the schedule, by name."""
    patterns = schedule.volumes or ()
    fits = fitting(patterns)
    for beginning in beginnings(patterns):
        for volume in _volumes_beginning(database, schedule.backend_id, beginning):
            if fits.fullmatch(volume.name):
                yield volume


def _volumes_beginning(
    database: Database, backend_id: int | None, beginning: str
) -> Iterator[Volume]:
    """The volumes whose names begin like this, by name."""
    page = (
        select(volumes.c.id, volumes.c.name)
        .where(
            volumes.c.backend_id == backend_id,
            live(volumes),
            volumes.c.state != VolumeState.PENDING,
        )
        .order_by(volumes.c.name)
        .limit(_PAGE)
    )
    after = ""
    while True:
        query = page.where(begins_with(volumes.c.name, beginning, after))
        rows = database.look(lambda transaction: transaction.execute(query).all())  # noqa: B023
        yield from (Volume(row.id, row.name) for row in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1].name
