"""The client's methods for schedules."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import SCHEDULE, SCHEDULE_IN_DETAIL, SCHEDULE_RUN
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given, path_to

if TYPE_CHECKING:
    from orchestrator.contract.schedules import Schedule, ScheduleInDetail, ScheduleRun


class ScheduleMethods(Methods):
    """What is done again and again. Changes need the role admin."""

    @listing
    def schedules(self) -> Query[Schedule]:
        """The schedules by name."""
        return Query(SCHEDULE, "/v1/schedules")

    @operation
    def schedule(self, name: str) -> Steps[ScheduleInDetail]:
        """Read a schedule, and what became of its last run. Raises `UnknownSchedule`."""
        answer = yield Request(method="GET", path=path_to("schedules", name), repeatable=True)
        return self._read(SCHEDULE_IN_DETAIL, answer.body)

    @operation
    def put_schedule(
        self,
        name: str,
        cron: str,
        action: str,
        *,
        backend: str | None = None,
        volumes: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        keep: Mapping[str, int] | None = None,
        enabled: bool = True,
        reason: str | None = None,
        replace: bool = True,
    ) -> Steps[ScheduleInDetail]:
        """Make a schedule, or replace what the one of this name does.

        Without ``replace`` that raises `AlreadyExists`.
        """
        wanted = {
            **{"cron": cron, "action": action, "backend": backend, "params": params},
            **{"volumes": None if volumes is None else list(volumes), "keep": keep},
            **{"enabled": enabled, "reason": reason},
        }
        answer = yield Request(
            method="PUT",
            path=path_to("schedules", name),
            params=given(replace=replace),
            json={field: value for field, value in wanted.items() if value is not None},
            repeatable=replace,
        )
        return self._read(SCHEDULE_IN_DETAIL, answer.body)

    @operation
    def enable_schedule(self, name: str, enabled: bool = True) -> Steps[ScheduleInDetail]:
        """Let a schedule run, or not; what it misses meanwhile is not caught up."""
        answer = yield Request(
            method="PATCH",
            path=path_to("schedules", name),
            json={"enabled": enabled},
            repeatable=True,
        )
        return self._read(SCHEDULE_IN_DETAIL, answer.body)

    @operation
    def run_schedule(self, name: str, *, idempotency_key: str | None = None) -> Steps[ScheduleRun]:
        """Run a schedule now, enabled or not; its next regular run does not change."""
        answer = yield Request(
            method="POST",
            path=path_to("schedules", name, "run"),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeatable=True,
        )
        return self._read(SCHEDULE_RUN, answer.body)

    @operation
    def remove_schedule(self, name: str) -> Steps[None]:
        """Remove a schedule; its jobs and the snapshots that it made stay."""
        yield Request(method="DELETE", path=path_to("schedules", name))
