"""Vocabularies: states, kinds, roles, and the ways in which an attempt ends."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"  # not runnable yet: lane, dependency, start time or back-off
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


UNFINISHED = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
FINISHED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED)

#: Which states may follow each state of a job.
NEXT_JOB_STATES: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELED}),
    JobState.QUEUED: frozenset(
        {JobState.WAITING, JobState.RUNNING, JobState.FAILED, JobState.CANCELED}
    ),
    JobState.RUNNING: frozenset({JobState.WAITING, JobState.QUEUED, *FINISHED}),
    **dict.fromkeys(FINISHED, frozenset()),
}


class WaitingKind(StrEnum):
    """What a job that does not run yet waits for."""

    EARLIER_JOB = "earlier_job"  # one before it in a lane
    DEPENDENCY = "dependency"
    START_TIME = "start_time"
    BACK_OFF = "back_off"
    LIMIT = "limit"  # of jobs at once, or of the rate
    BACKEND = "backend"  # at work on it, or out of reach
    DRAINING_BACKEND = "draining_backend"
    HOST_DOWN = "host_down"
    NO_WORKER = "no_worker"
    APPROVAL = "approval"


class Ending(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    RETRY = "retried"
    HANDED_BACK = "handed_back"
    LIMITED = "limited"  # it was too early for it: see `orchestrator.jobs.rates`
    OUTAGE = "outage"  # the backend was out of reach: no attempt is used up
    LOST = "lost"  # its worker fell silent


class StepState(StrEnum):
    """Whether a step was done. It is written before it is."""

    INTENDED = "intended"
    DONE = "done"


class VolumeState(StrEnum):
    """What a volume is. Its unfinished jobs say what is being done to it."""

    PENDING = "pending"
    AVAILABLE = "available"
    RESTRICTED = "restricted"
    ERROR = "error"
    REMOVED = "removed"


#: Which states may follow each state of a volume.
NEXT_VOLUME_STATES: dict[VolumeState, frozenset[VolumeState]] = {
    VolumeState.PENDING: frozenset({VolumeState.AVAILABLE, VolumeState.ERROR, VolumeState.REMOVED}),
    VolumeState.AVAILABLE: frozenset(
        {VolumeState.RESTRICTED, VolumeState.ERROR, VolumeState.REMOVED}
    ),
    VolumeState.RESTRICTED: frozenset(
        {VolumeState.AVAILABLE, VolumeState.ERROR, VolumeState.REMOVED}
    ),
    VolumeState.ERROR: frozenset(
        {VolumeState.AVAILABLE, VolumeState.RESTRICTED, VolumeState.REMOVED}
    ),
    VolumeState.REMOVED: frozenset(),
}

#: Volumes in these states take up what their backend has promised.
PROMISED_STATES = (VolumeState.AVAILABLE, VolumeState.RESTRICTED, VolumeState.ERROR)


class Opening(StrEnum):
    """How a host has an attached volume open."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class SnapshotState(StrEnum):
    """What a snapshot is."""

    PENDING = "pending"
    AVAILABLE = "available"
    ERROR = "error"
    REMOVED = "removed"


class PolicyState(StrEnum):
    """What an export policy is."""

    PENDING = "pending"
    AVAILABLE = "available"
    ERROR = "error"
    REMOVED = "removed"


class BackendState(StrEnum):
    """Whether a backend takes work: a draining one finishes what was begun, no more."""

    ENABLED = "enabled"
    DRAINING = "draining"
    DISABLED = "disabled"


class EventKind(StrEnum):
    """What an event is about, if it is not named after the action that was done."""

    ACCESS_REFUSED = "access.refused"
    ARCHIVES_DELETED = "archives.deleted"
    AUTOSIZE_REFUSED = "autosize.refused"
    BACKEND_AVAILABLE = "backend.available"
    BACKEND_UNAVAILABLE = "backend.unavailable"
    DATABASE_ACKNOWLEDGED = "database.acknowledged"
    DATABASE_NEW_LIFE = "database.new_life"
    DATABASE_RESTORED = "database.restored"
    EVENTS_ARCHIVED = "events.archived"
    FINDING_CLOSED = "finding.closed"
    FINDING_OPENED = "finding.opened"
    JOB_APPROVED = "job.approved"
    JOB_CANCEL_REQUESTED = "job.cancel_requested"
    JOB_CANCELED = "job.canceled"
    JOB_FAILED = "job.failed"
    JOB_HANDED_BACK = "job.handed_back"
    JOB_LEASE_LOST = "job.lease_lost"
    JOB_LIMITED = "job.limited"
    JOB_OUTAGE = "job.outage"
    JOB_PRIORITY = "job.priority"
    JOB_RETRIED = "job.retried"
    JOB_STARTED = "job.started"
    JOB_STUCK = "job.stuck"
    JOB_SUBMITTED = "job.submitted"
    JOB_SUCCEEDED = "job.succeeded"
    JOBS_ARCHIVED = "jobs.archived"
    LOCK_BROKEN = "lock.broken"
    LOCK_EXPIRED = "lock.expired"
    LOCK_RELEASED = "lock.released"
    LOCK_RENEWED = "lock.renewed"
    LOCK_TAKEN = "lock.taken"
    LOOK_REFUSED = "look.refused"
    QUEUE_DRAINED = "queue.drained"
    QUEUE_RESUMED = "queue.resumed"
    QUOTA_REMOVED = "quota.removed"
    QUOTA_SET = "quota.set"
    REPAIR_REFUSED = "repair.refused"
    SCHEDULE_CHANGED = "schedule.changed"
    SCHEDULE_CREATED = "schedule.created"
    SCHEDULE_REMOVED = "schedule.removed"
    SCHEDULE_RUN = "schedule.run"
    SNAPSHOT_MISSING = "snapshot.missing"
    SNAPSHOT_STRUCK = "snapshot.struck"
    TOKEN_CREATED = "token.created"  # noqa: S105 - no secret
    TOKEN_REVOKED = "token.revoked"  # noqa: S105


class FindingKind(StrEnum):
    """What a finding is about."""

    ORPHAN = "orphan"  # storage without a row
    GHOST = "ghost"  # a row without storage
    SIZE = "size"
    SNAPSHOT = "snapshot"
    POLICY = "policy"
    ATTACHMENT = "attachment"
    LOCK = "lock"
    METADATA = "metadata"
    STUCK = "stuck"  # a job or a lock older than a limit
    CAPACITY = "capacity"  # promises do not add up


class FindingState(StrEnum):
    """Whether the difference was still there at the latest audit."""

    OPEN = "open"
    CLOSED = "closed"


class Role(StrEnum):
    """What a token may do; each role includes the ones before it."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what ``other`` may."""
        return _RANK[self] >= _RANK[other]


#: Who may do more comes later.
_RANK = {role: rank for rank, role in enumerate(Role)}
