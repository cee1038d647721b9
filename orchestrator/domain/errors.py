"""The one vocabulary of errors.

Each class has a stable ``code``, an HTTP status, the command line's exit status, and
whether trying the same thing again may help. The first line of its docstring is the
message when none is given. Everything that people, scripts or the retry policy act on
comes from here; edges only format it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

#: Exit statuses of the command line.
EXIT_DONE = 0
EXIT_JOB_FAILED = 1
EXIT_INVALID = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_NOT_ALLOWED = 5
EXIT_STILL_RUNNING = 6
EXIT_UNREACHABLE = 7


class Problem(Exception):
    """Something went wrong.

    ``detail`` is a sentence for people that says what happened and what to do;
    ``field`` names the part of the request at fault; ``facts`` are further values that
    programs may read (the job that is in the way, the size that is there).
    """

    code: ClassVar[str] = "problem"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = EXIT_JOB_FAILED
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str | None = None, *, field: str | None = None, **facts: Any):
        self.detail = detail or self.title()
        self.field = field
        self.facts = facts
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """The class's own one-line message."""
        return (cls.__doc__ or "Something went wrong.").strip().splitlines()[0]

    def job_error(self) -> dict[str, Any]:
        """What a job records: ``{code, detail, retryable}`` and any facts."""
        return {
            "code": self.code,
            "detail": self.detail,
            "retryable": self.retryable,
            **self.facts,
        }

    def document(self) -> dict[str, Any]:
        """The RFC 9457 body."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.field is not None:
            body["field"] = self.field
        body.update(self.facts)
        return body


# -- the request is wrong -----------------------------------------------------------------


class InvalidInput(Problem):
    """The request is not valid."""

    code = "invalid_input"
    status = 422
    exit_status = EXIT_INVALID


class MalformedBody(InvalidInput):
    """The body could not be read: send well-formed JSON."""

    code = "malformed_body"
    status = 400


class BodyTooLarge(InvalidInput):
    """The body is too large: split the batch."""

    code = "body_too_large"
    status = 413


class HeadTooLarge(InvalidInput):
    """The request's line and headers are too long: send shorter ones."""

    code = "head_too_large"
    status = 431


class SlowRequest(InvalidInput):
    """The request did not arrive in time: send it again, and faster."""

    code = "slow_request"
    status = 408


class MethodNotAllowed(InvalidInput):
    """The method is not one that this path takes: its header Allow names them."""

    code = "method_not_allowed"
    status = 405


class InvalidName(InvalidInput):
    """The name is not allowed."""

    code = "invalid_name"


class InvalidSize(InvalidInput):
    """The size is not allowed."""

    code = "invalid_size"


class MissingField(InvalidInput):
    """A required field is missing."""

    code = "missing_field"


class UnknownField(InvalidInput):
    """The request has a field that is not known."""

    code = "unknown_field"


class UnknownParameter(InvalidInput):
    """The action does not take this parameter."""

    code = "unknown_parameter"


class UnknownAction(InvalidInput):
    """There is no such action."""

    code = "unknown_action"


class Unsupported(InvalidInput):
    """The backend's driver cannot do this."""

    code = "unsupported"


class ShrinkRefused(InvalidInput):
    """Volumes are never made smaller: ask for a size above the present one."""

    code = "shrink_refused"


class DependencyCycle(InvalidInput):
    """The jobs wait for one another in a circle."""

    code = "dependency_cycle"


# -- what is named is not there -----------------------------------------------------------


class NotFound(Problem):
    """There is no such thing."""

    code = "not_found"
    status = 404
    exit_status = EXIT_NOT_FOUND


class UnknownBackend(NotFound):
    """There is no such backend."""

    code = "unknown_backend"


class UnknownVolume(NotFound):
    """There is no such volume."""

    code = "unknown_volume"


class UnknownSnapshot(NotFound):
    """There is no such snapshot."""

    code = "unknown_snapshot"


class UnknownPolicy(NotFound):
    """There is no such export policy."""

    code = "unknown_policy"


class UnknownSchedule(NotFound):
    """There is no such schedule."""

    code = "unknown_schedule"


class UnknownJob(NotFound):
    """There is no such job."""

    code = "unknown_job"


class NotAttached(NotFound):
    """The volume is not attached to this host."""

    code = "not_attached"


class Gone(NotFound):
    """This has been archived and can no longer be read here."""

    code = "gone"
    status = 410


class EpochChanged(Gone):
    """The database was restored: numbers of events from before are not those of now."""

    code = "epoch_changed"


# -- what is there does not allow it ------------------------------------------------------


class Conflict(Problem):
    """What is there does not allow this."""

    code = "conflict"
    status = 409
    exit_status = EXIT_CONFLICT


class AlreadyExists(Conflict):
    """The name is taken."""

    code = "already_exists"


class InUse(Conflict):
    """This is in use."""

    code = "in_use"


class Locked(Conflict):
    """Another host holds the lock."""

    code = "locked"


class NewerSnapshots(Conflict):
    """Newer snapshots would be lost."""

    code = "newer_snapshots"


class WrongState(Conflict):
    """The state it is in does not allow this."""

    code = "wrong_state"


class VolumeReplaced(Conflict):
    """The volume of this name is no longer the one that was meant."""

    code = "volume_replaced"


class InsufficientCapacity(Conflict):
    """The backend does not have this much room."""

    code = "insufficient_capacity"


class QuotaExceeded(Conflict):
    """The account may not have more on this backend."""

    code = "quota_exceeded"


class IdempotencyMismatch(Conflict):
    """This idempotency key was used for a different request: use a new key."""

    code = "idempotency_mismatch"


class IdentityMismatch(Conflict):
    """The storage found is not the storage this backend was set up on."""

    code = "identity_mismatch"


class BackendDisabled(Conflict):
    """The backend is disabled."""

    code = "backend_disabled"


class HostUnavailable(Conflict):
    """No worker is alive on this host."""

    code = "host_unavailable"


class QueueDrained(Conflict):
    """No new jobs are taken: an administrator has drained the queue."""

    code = "queue_drained"


class JobEnded(Conflict):
    """The job has already ended."""

    code = "job_ended"


# -- the caller may not -------------------------------------------------------------------


class NotAuthenticated(Problem):
    """A valid token is needed: send 'Authorization: Bearer TOKEN'."""

    code = "not_authenticated"
    status = 401
    exit_status = EXIT_NOT_ALLOWED


class NotAllowed(Problem):
    """The token's role does not allow this."""

    code = "not_allowed"
    status = 403
    exit_status = EXIT_NOT_ALLOWED


class ForbiddenPlace(NotAllowed):
    """Images are read from and written to configured places only."""

    code = "forbidden_place"


# -- how a job ends without success -------------------------------------------------------


class BackendUnavailable(Problem):
    """The backend does not answer; it is tried again."""

    code = "backend_unavailable"
    status = 503
    retryable = True


class Outage(BackendUnavailable):
    """The backend's storage is out of reach: its jobs wait until it is back.

    All of the backend, not one object on it. No attempt that failed: a job that meets this waits
    (`orchestrator.jobs.outages`), and goes on where it was.
    """

    code = "outage"


class BackendBusy(Problem):
    """The backend is busy with this object; it is tried again."""

    code = "backend_busy"
    status = 503
    retryable = True


class TimedOut(Problem):
    """The backend did not finish in time: whether it took effect is found out first."""

    code = "timed_out"
    status = 504
    retryable = True


class StillWorking(Problem):
    """The backend has taken the work on and has not finished it yet.

    Not an attempt that failed: the job gives up its place at the worker, and the same call is
    made again after ``seconds``.
    """

    code = "still_working"
    status = 503
    retryable = True

    def __init__(self, detail: str | None = None, *, seconds: float = 5.0, **facts: Any):
        super().__init__(detail, **facts)
        self.seconds = seconds


class ImageUnreachable(Problem):
    """The image cannot be read just now; it is tried again."""

    code = "image_unreachable"
    status = 503
    retryable = True


class ImageUnusable(Problem):
    """The image is not what was asked for."""

    code = "image_unusable"
    status = 422


class NoSpace(Problem):
    """The backend is full: free some room or add some, then retry."""

    code = "no_space"
    status = 507
    exit_status = EXIT_CONFLICT


class BackendError(Problem):
    """The backend reported an error."""

    code = "backend_error"
    status = 502


class AccessDenied(BackendError):
    """The worker may not look at this, so nothing is known of it: give its user access."""

    code = "access_denied"


class Drift(Conflict):
    """What is there is not what is recorded: nothing was changed."""

    code = "drift"


class NoDevice(BackendError):
    """What the storage provider has attached has no block device that is there."""

    code = "no_device"


class ScriptFailed(BackendError):
    """A script of the storage provider failed: its log has the reason."""

    code = "script_failed"


class HookFailed(Problem):
    """A hook of this host forbids the action, or failed: its message has the reason."""

    code = "hook_failed"
    status = 409
    exit_status = EXIT_CONFLICT


class DependencyFailed(Problem):
    """A job this one depends on did not succeed."""

    code = "dependency_failed"
    status = 409


class Canceled(Problem):
    """The job was canceled."""

    code = "canceled"
    status = 409


class OutcomeUnknown(Problem):
    """Workers died each time they tried this, so what was done is not known."""

    code = "outcome_unknown"


class InternalError(Problem):
    """The service failed in a way it did not foresee; its log has the details."""

    code = "internal_error"
    exit_status = EXIT_UNREACHABLE


class Unavailable(Problem):
    """The service cannot do this now: try again shortly."""

    code = "unavailable"
    status = 503
    exit_status = EXIT_UNREACHABLE
    retryable = True


def vocabulary() -> Iterator[type[Problem]]:
    """Every error there is, most general first (for documentation and the client)."""
    pending: list[type[Problem]] = [Problem]
    while pending:
        found = pending.pop(0)
        yield found
        pending.extend(found.__subclasses__())


def problem_for(code: str) -> type[Problem]:
    """The class of a code; `Problem` itself for a code that a newer service sent."""
    return next((kind for kind in vocabulary() if kind.code == code), Problem)
