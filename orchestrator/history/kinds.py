"""The kinds of events there are, beside those that are named after the action that was done."""

from __future__ import annotations

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.nearest import did_you_mean

#: Every kind of event of this version; history may hold others, of earlier ones.
EVENT_KINDS = frozenset(
    {
        *ACTIONS,
        "access.refused",
        *("archives.deleted", "events.archived", "jobs.archived"),
        "autosize.refused",
        *("backend.available", "backend.unavailable"),
        *("database.acknowledged", "database.new_life", "database.restored"),
        *("finding.closed", "finding.opened"),
        *("job.approved", "job.cancel_requested", "job.canceled", "job.failed", "job.handed_back"),
        *("job.lease_lost", "job.limited", "job.outage", "job.priority", "job.retried"),
        *("job.started", "job.stuck", "job.submitted", "job.succeeded"),
        *("lock.broken", "lock.expired", "lock.released", "lock.renewed", "lock.taken"),
        *("look.refused", "repair.refused"),
        *("queue.drained", "queue.resumed"),
        *("quota.removed", "quota.set"),
        *("schedule.changed", "schedule.created", "schedule.removed", "schedule.run"),
        *("snapshot.missing", "snapshot.struck"),
        *("token.created", "token.revoked"),
    }
)


def check_kind(kind: str | None) -> None:
    """Raise `InvalidInput` if no event is of this kind."""
    if kind is not None and kind not in EVENT_KINDS:
        raise InvalidInput(
            f"there are no events of the kind {kind!r}"
            + did_you_mean(
                kind, EVENT_KINDS, "; there are actions such as volume.grow, and job.failed …"
            ),
            field="kind",
        )
