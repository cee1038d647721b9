"""The client's methods for jobs and batches: submit, plan, wait, cancel, retry."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import ARCHIVED, BATCH, EVENT, JOB, PLAN, A, Kind
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given, path_to
from orchestrator.client.waiting import Deadline, ended, until_ended
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.targets import KINDS

if TYPE_CHECKING:
    from orchestrator.contract.events import Event
    from orchestrator.contract.jobs import Archived, Batch, Job, Plan


#: Batches longer than this are sent as NDJSON, which the service reads line by line.
_LONG = 1000
_NDJSON = {"Content-Type": "application/x-ndjson"}
#: A job to submit: ``action``, ``backend``, ``volume``, ``params`` … as in ``POST /v1/jobs``.
JobRequest = Mapping[str, Any]


class JobMethods(Methods):
    """Jobs and batches. A job that fails raises nothing until `Job.raise_for_state` is called."""

    @operation
    def submit(
        self,
        /,
        action: str,
        backend: str | None = None,
        *,
        volume: str | None = None,
        snapshot: str | None = None,
        policy: str | None = None,
        host: str | None = None,
        params: Mapping[str, Any] | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
        reason: str | None = None,
        priority: int | None = None,
        run_at: datetime | str | None = None,
        depends_on: Sequence[int] = (),
        max_attempts: int | None = None,
        after: Literal["success", "end"] | None = None,
        approval: bool = False,
        **more: Any,
    ) -> Steps[Job]:
        """Submit a job; it, as accepted or, with ``wait``, once it has ended.

        The action's parameters are given in ``params`` or by name: ``size="10G"``,
        ``size_bytes=2**30``. ``wait``: at most this many seconds, after which the job is
        returned as it is by then. ``run_at`` needs its time zone. ``approval``: it begins once
        an administrator has said so. Without an
        ``idempotency_key`` one is made, so that sending again after a broken connection
        submits nothing twice. Raises the `Problem` for which the service refuses the job,
        and `Unavailable` if it cannot be reached.
        """
        request = _request(
            action, backend, volume, snapshot, policy, host, params, more,
            reason=reason, priority=priority, run_at=run_at, depends_on=depends_on,
            max_attempts=max_attempts, after=after, approval=approval or None,
        )  # fmt: skip
        call = Request(method="POST", path="/v1/jobs", json=request)
        return self._read(JOB, (yield from accepted(call, "jobs", idempotency_key, wait)))

    @operation
    def plan(
        self,
        /,
        action: str,
        backend: str | None = None,
        *,
        volume: str | None = None,
        snapshot: str | None = None,
        policy: str | None = None,
        host: str | None = None,
        params: Mapping[str, Any] | None = None,
        reason: str | None = None,
        priority: int | None = None,
        run_at: datetime | str | None = None,
        depends_on: Sequence[int] = (),
        max_attempts: int | None = None,
        after: Literal["success", "end"] | None = None,
        approval: bool = False,
        **more: Any,
    ) -> Steps[Plan]:
        """What `submit` would do with the same arguments; nothing is changed.

        Raises the `Problem` for which the service would refuse the job.
        """
        request = _request(
            action, backend, volume, snapshot, policy, host, params, more,
            reason=reason, priority=priority, run_at=run_at, depends_on=depends_on,
            max_attempts=max_attempts, after=after, approval=approval or None,
        )  # fmt: skip
        call = Request(method="POST", path="/v1/jobs", json=request)
        return self._read(PLAN, (yield from planned(call)))

    @operation
    def batch(
        self,
        jobs: Iterable[JobRequest],
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
        reason: str | None = None,
    ) -> Steps[Batch]:
        """Submit many jobs, which are accepted whole or not at all.

        Each is a dictionary as in ``POST /v1/jobs``, with a ``ref`` where another's
        ``depends_on`` names it. ``reason`` is for the jobs that name none. ``wait`` and
        ``idempotency_key`` as in `submit`; ``job_ids`` of the answer are in the order given.
        """
        call = _batch_call(list(jobs), reason)
        return self._read(BATCH, (yield from accepted(call, "batches", idempotency_key, wait)))

    @operation
    def plan_batch(self, jobs: Iterable[JobRequest]) -> Steps[Plan]:
        """What `batch` would do; nothing is changed."""
        return self._read(PLAN, (yield from planned(_batch_call(list(jobs), None))))

    @operation
    def job(self, job: int) -> Steps[Job]:
        """Read a job. Raises `UnknownJob`."""
        return self._read(JOB, (yield from _read(path_to("jobs", job))))

    @listing
    def jobs(
        self,
        /,
        *,
        state: str | Sequence[str] = (),
        action: str | None = None,
        backend: str | None = None,
        volume: str | None = None,
        snapshot: str | None = None,
        policy: str | None = None,
        host: str | None = None,
        submitted_by: str | None = None,
        batch: int | None = None,
        **targets: str | None,
    ) -> Query[Job]:
        """Jobs, newest first. ``state``: one or several, ``("waiting", "queued")``.

        ``targets``: names of further objects, by kind.
        """
        return Query(
            JOB,
            "/v1/jobs",
            given(
                state=state or None, action=action, backend=backend, volume=volume,
                snapshot=snapshot, policy=policy, host=host, submitted_by=submitted_by,
                batch_id=batch, **targets,
            ),
        )  # fmt: skip

    @operation
    def wait(
        self,
        job: int,
        *,
        timeout: float | None = None,
        seen: Callable[[Job], None] | None = None,
    ) -> Steps[Job]:
        """A job once it has ended, or as it is after ``timeout`` seconds (None: no limit).

        ``seen`` is called with the job about twice a second. Broken connections and a
        service that restarts meanwhile are waited through; `Unavailable` is raised if it
        was never there, or is away when the time is over.
        """
        return (yield from self._until_ended(JOB, path_to("jobs", job), timeout, seen))

    @operation
    def wait_batch(
        self,
        batch: int,
        *,
        timeout: float | None = None,
        seen: Callable[[Batch], None] | None = None,
    ) -> Steps[Batch]:
        """A batch once all its jobs have ended; otherwise as `wait`."""
        return (yield from self._until_ended(BATCH, path_to("batches", batch), timeout, seen))

    @listing
    def job_events(self, job: int) -> Query[Event]:
        """The history of a job, oldest first."""
        return Query(EVENT, path_to("jobs", job, "events"))

    @operation
    def cancel(self, job: int) -> Steps[Job]:
        """Cancel a job: at once if it has not begun, else at its next safe point.

        Raises `JobEnded` if it is over.
        """
        answer = yield Request(method="POST", path=path_to("jobs", job, "cancel"))
        return self._read(JOB, answer.body)

    @operation
    def retry(
        self,
        job: int,
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
        reason: str | None = None,
    ) -> Steps[Job]:
        """Submit a failed or canceled job again; the new job. Raises `WrongState`."""
        call = Request(
            method="POST", path=path_to("jobs", job, "retry"), headers=reason_header(reason)
        )
        return self._read(JOB, (yield from accepted(call, "jobs", idempotency_key, wait)))

    @operation
    def approve(self, job: int, *, reason: str | None = None) -> Steps[Job]:
        """Approve a job that waits for it. Needs the role admin.

        Raises `WrongState` if it does not wait for that.
        """
        answer = yield Request(
            method="POST",
            path=path_to("jobs", job, "approve"),
            headers=reason_header(reason),
            repeatable=True,
        )
        return self._read(JOB, answer.body)

    @operation
    def set_priority(self, job: int, priority: int) -> Steps[Job]:
        """Change the priority of a job that has not ended: -20 is first, 19 last."""
        answer = yield Request(
            method="PATCH",
            path=path_to("jobs", job),
            json={"priority": priority},
            repeatable=True,
        )
        return self._read(JOB, answer.body)

    @operation
    def archive_jobs(
        self, jobs: Sequence[int] | None = None, *, ended_before: datetime | str | None = None
    ) -> Steps[Archived]:
        """Have ended jobs moved out of the database into a file: these, or all that ended
        before a time, which needs its zone. Needs the role admin.

        Raises `UnknownJob`, and `WrongState` if one has not ended.
        """
        moment = ended_before.isoformat() if isinstance(ended_before, datetime) else ended_before
        wanted: dict[str, Any] = {"jobs": list(jobs) if jobs else None, "ended_before": moment}
        answer = yield Request(
            method="POST",
            path="/v1/jobs/archive",
            json={name: value for name, value in wanted.items() if value is not None},
            repeatable=True,
        )
        return self._read(ARCHIVED, answer.body)

    @operation
    def read_batch(self, batch: int) -> Steps[Batch]:
        """Read a batch: its state and counts. Raises `UnknownJob`."""
        return self._read(BATCH, (yield from _read(path_to("batches", batch))))

    @listing
    def batch_jobs(self, batch: int) -> Query[Job]:
        """The jobs of a batch, in the order of submission."""
        return Query(JOB, path_to("batches", batch, "jobs"))

    @operation
    def cancel_batch(self, batch: int) -> Steps[Batch]:
        """Cancel those jobs of a batch that have not ended."""
        answer = yield Request(method="POST", path=path_to("batches", batch, "cancel"))
        return self._read(BATCH, answer.body)

    def _until_ended(
        self, kind: Kind[A], path: str, timeout: float | None, seen: Callable[[A], None] | None
    ) -> Steps[A]:
        shown = None if seen is None else lambda document: seen(self._read(kind, document))
        document = yield from until_ended(
            path, Deadline(timeout), answered=lambda: self._answered, seen=shown
        )
        return self._read(kind, document)


def accepted(call: Request, kind: str, key: str | None, wait: float | None) -> Steps[Any]:
    """Submit, and with ``wait`` wait for the end; the job or batch."""
    deadline = Deadline(0 if wait is None else wait)
    preference, held = deadline.preference()
    key = key if key is not None else uuid.uuid4().hex
    answer = yield Request(
        method=call.method,
        path=call.path,
        json=call.json,
        content=call.content,
        headers={**call.headers, **preference, "Idempotency-Key": key},
        held=held,
        repeatable=True,
    )
    document = answer.body
    if wait is None or ended(document) or deadline.left == 0:
        return document
    path = path_to(kind, document["id"])
    found = yield from until_ended(path, deadline, answered=lambda: True)
    if kind == "batches":
        # Only the acceptance says which jobs the batch has.
        found["job_ids"] = document["job_ids"]
    return found


def _request(
    action: str,
    backend: str | None,
    volume: str | None,
    snapshot: str | None,
    policy: str | None,
    host: str | None,
    params: Mapping[str, Any] | None,
    more: Mapping[str, Any],
    *,
    run_at: datetime | str | None,
    depends_on: Sequence[int],
    **options: Any,
) -> dict[str, Any]:
    """The body of a submission: what is not given is left out."""
    when = run_at.isoformat() if isinstance(run_at, datetime) else run_at
    fields = {
        "action": action,
        "backend": backend,
        "volume": volume,
        "snapshot": snapshot,
        "policy": policy,
        "host": host,
        **{kind: more[kind] for kind in KINDS if kind in more},
        "params": {
            **(params or {}),
            **{name: value for name, value in more.items() if name not in KINDS},
        },
        "run_at": when,
        "depends_on": list(depends_on) or None,
        **options,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _batch_call(jobs: list[JobRequest], reason: str | None) -> Request:
    if len(jobs) > _LONG and (reason is None or _plain(reason)):
        lines = "".join(json.dumps(job, separators=(",", ":")) + "\n" for job in jobs)
        return Request(
            method="POST",
            path="/v1/batches",
            content=lines.encode(),
            headers={**_NDJSON, **reason_header(reason)},
        )
    body: dict[str, Any] = {"jobs": jobs}
    if reason is not None:
        body["reason"] = reason
    return Request(method="POST", path="/v1/batches", json=body)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def reason_header(reason: str | None) -> dict[str, str]:
    """The header that tells a reason. Raises `InvalidInput` where a header cannot."""
    if reason is None:
        return {}
    if not _plain(reason):
        raise InvalidInput("a reason that a header tells is plain ASCII text", field="reason")
    return {"Reason": reason}


def planned(call: Request) -> Steps[Any]:
    """What a call that submits would do; nothing is changed."""
    answer = yield Request(
        method=call.method,
        path=call.path,
        json=call.json,
        content=call.content,
        headers=call.headers,
        params={"plan": "true"},
        repeatable=True,
    )
    return answer.body


def _read(path: str) -> Steps[Any]:
    answer = yield Request(method="GET", path=path, repeatable=True)
    return answer.body
