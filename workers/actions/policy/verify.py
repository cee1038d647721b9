"""Compare an export policy's record with the storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from orchestrator.actions.policy.remove import REMOVE
from orchestrator.actions.policy.verify import VERIFY
from orchestrator.domain.exports import is_ours, written_rules
from orchestrator.domain.states import PolicyState
from orchestrator.jobs.claim import CHANGES
from orchestrator.resources.changes import Change
from orchestrator.resources.policy.changes import PolicyGone, set_policy
from orchestrator.store.tables import job_steps, jobs, policies
from orchestrator.store.targets import names
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.backends.base.references import PolicyRef
from workers.execution.handler import Handler
from workers.execution.truth import LastCall, has_failed, recorded_policy
from workers.execution.work import Done, Work


def verify_policy(work: Work) -> Done:
    """Compare an export policy's record with the storage; one in error becomes what it is.

    Its rules are then those that the storage has, unless it has some we have no words for.
    """
    record = work.claim.policy
    assert record is not None  # noqa: S101 - the rule has checked it
    if record.state is PolicyState.ERROR and (built := never_usable(work)) is not None:
        driver_that(work.driver, CanExportByPolicy).discard_policy(built, LastCall(work))
        if driver_that(work.driver, CanExportByPolicy).inspect_policy(built) is not None:
            # It was published, though nobody heard of that.
            driver_that(work.driver, CanExportByPolicy).remove_policy(built, LastCall(work))
        return _settled(PolicyState.REMOVED, [PolicyGone(record.id)])
    found = driver_that(work.driver, CanExportByPolicy).inspect_policy(work.policy)
    differences: dict[str, Any] = {}
    if found is None:
        if record.state is PolicyState.ERROR and _was_to_go(work):
            return _settled(PolicyState.REMOVED, [PolicyGone(record.id)])
        differences["storage"] = "there is none"
    elif found.rules != record.rules:
        rules = {"recorded": written_rules(record.rules), "found": written_rules(found.rules)}
        differences["rules"] = rules
    told = {"agrees": not differences, "differences": differences}
    if record.state is not PolicyState.ERROR or found is None:
        return Done(result=told)
    if not all(is_ours(rule) for rule in found.rules):
        return Done(result=told)
    changes = recorded_policy(work, found)
    return _settled(
        PolicyState.AVAILABLE, [*changes, set_policy(record.id, state=PolicyState.AVAILABLE)], told
    )


def _settled(
    state: PolicyState, changes: Sequence[Change], told: dict[str, Any] | None = None
) -> Done:
    return Done(
        result={**(told or {"agrees": True, "differences": {}}), "settled": state},
        changes=changes,
        before={"state": PolicyState.ERROR},
        after={"state": state},
    )


def never_usable(work: Work) -> PolicyRef | None:
    """The policy, if the job that was to make it has failed, with the key that it has got."""
    with work.database.read() as transaction:
        maker = transaction.execute(
            select(policies.c.created_by_job).where(policies.c.uid == work.policy.id)
        ).scalar()
    if not has_failed(work, maker):
        return None
    with work.database.read() as transaction:
        steps = select(job_steps.c.detail).where(
            job_steps.c.job_id == maker, job_steps.c.name == "built"
        )
        built = transaction.execute(steps).scalar()
    return work.policy if built is None else replace(work.policy, native=built.get("native"))


def _was_to_go(work: Work) -> bool:
    """Whether the last job that has begun to change the policy was to remove it."""
    steps = job_steps.join(jobs, jobs.c.id == job_steps.c.job_id)
    with work.database.read() as transaction:
        last = transaction.execute(
            select(jobs.c.action)
            .select_from(steps)
            .where(
                jobs.c.backend_id == work.claim.backend_id,
                jobs.c.volume.is_(None),
                names("policy", work.policy.name, work.policy.id),
                CHANGES,
            )
            .order_by(jobs.c.id.desc())
            .limit(1)
        ).scalar()
    return last == REMOVE.name


HANDLERS = (Handler(VERIFY, verify_policy),)
