"""The client's methods for findings and their repairs."""

from __future__ import annotations

from typing import cast

from orchestrator.client.binding import listing, operation
from orchestrator.client.jobs import planned, reason_header
from orchestrator.client.listings import Query
from orchestrator.client.shapes import Finding, Job, Plan, Restored
from orchestrator.client.steps import Call, Steps, given, path_to
from orchestrator.client.waiting import Deadline, ended, until_ended


class AuditMethods:
    """What audits have found."""

    @listing
    def findings(
        self,
        *,
        backend: str | None = None,
        kind: str | None = None,
        state: str | None = None,
    ) -> Query[Finding]:
        """Findings, newest first; ``state`` is ``open`` or ``closed``."""
        return Query("/v1/findings", given(backend=backend, kind=kind, state=state))

    @operation
    def finding(self, finding: int) -> Steps[Finding]:
        """One finding, with the repairs that are possible. Raises `NotFound`."""
        path = path_to("findings", finding)
        answer = yield Call(method="GET", path=path, repeatable=True)
        return cast(Finding, answer.body)

    @operation
    def repair(
        self,
        finding: int,
        repair: str,
        *,
        wait: float | None = None,
        approval: bool = False,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Steps[Job]:
        """Submit the job that repairs a finding; it, or with ``wait`` as it has ended.

        The same repair after the same audit is one job, so it may be asked for twice; with an
        ``idempotency_key`` also after the finding was closed by it. Raises
        `InvalidInput` if that repair is not possible, `WrongState` if the finding is closed.
        """
        deadline = Deadline(0 if wait is None else wait)
        answer = yield _repair(finding, repair, approval, reason, idempotency_key)
        job = cast(Job, answer.body)
        if wait is None or ended(job):
            return job
        found = yield from until_ended(path_to("jobs", job["id"]), deadline, answered=lambda: True)
        return cast(Job, found)

    @operation
    def plan_repair(self, finding: int, repair: str) -> Steps[Plan]:
        """What `repair` would do; nothing is changed."""
        return (yield from planned(_repair(finding, repair, False, None)))

    @operation
    def restored(self) -> Steps[Restored]:
        """When the database was found to be older than it had been, if that is not seen to."""
        answer = yield Call(method="GET", path="/v1/audit/restored", repeatable=True)
        return cast(Restored, answer.body)

    @operation
    def acknowledge_restored(self, *, reason: str | None = None) -> Steps[Restored]:
        """Let rules repair findings again in a database that was restored. Needs the role admin."""
        answer = yield Call(
            method="POST",
            path="/v1/audit/acknowledge",
            headers=reason_header(reason),
            repeatable=True,
        )
        return cast(Restored, answer.body)


def _repair(
    finding: int, repair: str, approval: bool, reason: str | None, key: str | None = None
) -> Call:
    return Call(
        method="POST",
        path=path_to("findings", finding, "repair"),
        json={"repair": repair, "approval": approval},
        headers={
            **reason_header(reason),
            **({} if key is None else {"Idempotency-Key": key}),
        },
        repeatable=True,
    )
