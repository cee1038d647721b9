"""The types of the contract that answers are read into.

They are imported when the first answer is read: that takes a while, and a `DocumentClient`,
which reads none, does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.domain.errors import Unavailable

if TYPE_CHECKING:
    from orchestrator.contract import (
        events,
        findings,
        inventory,
        jobs,
        quotas,
        reports,
        schedules,
        service,
    )
    from orchestrator.contract.answers import Answer, Page

A = TypeVar("A", bound="Answer")


class Kind(Generic[A]):
    """A type of the contract, by its module and its name."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self.name = name

    def load(self) -> type[A]:
        """The type itself."""
        found: type[A] = getattr(import_module(f"orchestrator.contract.{self._module}"), self.name)
        return found

    def read(self, document: Any) -> A:
        """The answer that a document holds. Raises `Unavailable` if it holds none."""
        kind = self.load()
        try:
            return kind.model_validate(document)
        except ValueError as error:
            raise Unavailable(
                f"the service's answer is no {self.name} to this version of the client: {error}"
            ) from None

    @property
    def page(self) -> Kind[Page[A]]:
        """The type of a page of these."""
        return _PageKind(self)


class _PageKind(Kind["Page[A]"]):
    def __init__(self, kind: Kind[A]) -> None:
        super().__init__("answers", "Page")
        self._kind = kind

    def load(self) -> type[Page[A]]:
        page: Any = super().load()
        of_kind: type[Page[A]] = page[self._kind.load()]
        return of_kind


ACCOUNT: Kind[quotas.Account] = Kind("quotas", "Account")
ACTION_DESCRIPTION: Kind[service.ActionDescription] = Kind("service", "ActionDescription")
ARCHIVED: Kind[jobs.Archived] = Kind("jobs", "Archived")
ATTACHMENT: Kind[inventory.Attachment] = Kind("inventory", "Attachment")
BACKEND: Kind[inventory.Backend] = Kind("inventory", "Backend")
BATCH: Kind[jobs.Batch] = Kind("jobs", "Batch")
EVENT: Kind[events.Event] = Kind("events", "Event")
EVENT_PAGE: Kind[events.EventPage] = Kind("events", "EventPage")
FINDING: Kind[findings.Finding] = Kind("findings", "Finding")
FOLLOWED_EVENT: Kind[events.FollowedEvent] = Kind("events", "FollowedEvent")
HELD_LOCK: Kind[inventory.HeldLock] = Kind("inventory", "HeldLock")
JOB: Kind[jobs.Job] = Kind("jobs", "Job")
LOCK: Kind[inventory.Lock] = Kind("inventory", "Lock")
NEW_TOKEN: Kind[service.NewToken] = Kind("service", "NewToken")
PLAN: Kind[jobs.Plan] = Kind("jobs", "Plan")
QUEUE: Kind[service.Queue] = Kind("service", "Queue")
QUOTA: Kind[quotas.Quota] = Kind("quotas", "Quota")
REPORT: Kind[reports.Report] = Kind("reports", "Report")
RESTORED: Kind[findings.Restored] = Kind("findings", "Restored")
SCHEDULE: Kind[schedules.Schedule] = Kind("schedules", "Schedule")
SCHEDULE_IN_DETAIL: Kind[schedules.ScheduleInDetail] = Kind("schedules", "ScheduleInDetail")
SCHEDULE_RUN: Kind[schedules.ScheduleRun] = Kind("schedules", "ScheduleRun")
SNAPSHOT: Kind[inventory.Snapshot] = Kind("inventory", "Snapshot")
STATUS: Kind[service.Status] = Kind("service", "Status")
TOKEN: Kind[service.Token] = Kind("service", "Token")
VOLUME: Kind[inventory.Volume] = Kind("inventory", "Volume")
