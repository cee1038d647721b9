"""The client's methods for findings and their repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.client.binding import listing, operation
from orchestrator.client.jobs import planned, reason_header
from orchestrator.client.kinds import FINDING, JOB, PLAN, RESTORED
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given, path_to
from orchestrator.client.waiting import Deadline, ended, until_ended

if TYPE_CHECKING:
    from orchestrator.contract.findings import Finding, Restored
    from orchestrator.contract.jobs import Job, Plan


class AuditMethods(Methods):
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
        return Query(FINDING, "/v1/findings", given(backend=backend, kind=kind, state=state))

    @operation
    def finding(self, finding: int) -> Steps[Finding]:
        """One finding, with the repairs that are possible. Raises `NotFound`."""
        path = path_to("findings", finding)
        answer = yield Request(method="GET", path=path, repeatable=True)
        return self._read(FINDING, answer.body)

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
        found = answer.body
        if wait is not None and not ended(found):
            path = path_to("jobs", found["id"])
            found = yield from until_ended(path, deadline, answered=lambda: True)
        return self._read(JOB, found)

    @operation
    def plan_repair(self, finding: int, repair: str) -> Steps[Plan]:
        """What `repair` would do; nothing is changed."""
        call = _repair(finding, repair, False, None)
        return self._read(PLAN, (yield from planned(call)))

    @operation
    def restored(self) -> Steps[Restored]:
        """When the database was found to be older than it had been, if that is not seen to."""
        answer = yield Request(method="GET", path="/v1/audit/restored", repeatable=True)
        return self._read(RESTORED, answer.body)

    @operation
    def acknowledge_restored(self, *, reason: str | None = None) -> Steps[Restored]:
        """Let rules repair findings again in a database that was restored. Needs the role admin."""
        answer = yield Request(
            method="POST",
            path="/v1/audit/acknowledge",
            headers=reason_header(reason),
            repeatable=True,
        )
        return self._read(RESTORED, answer.body)


def _repair(
    finding: int, repair: str, approval: bool, reason: str | None, key: str | None = None
) -> Request:
    return Request(
        method="POST",
        path=path_to("findings", finding, "repair"),
        json={"repair": repair, "approval": approval},
        headers={
            **reason_header(reason),
            **({} if key is None else {"Idempotency-Key": key}),
        },
        repeatable=True,
    )
