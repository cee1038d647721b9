"""States of jobs and objects, and which may follow which."""

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
