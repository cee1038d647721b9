"""Schedules: made, changed and run by administrators, read by everybody."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from orchestrator.actions.schedules import NAME_OF_SCHEDULES, ScheduleSpec
from orchestrator.api.requesting import (
    Admin,
    Cursor,
    IdempotencyKey,
    Limit,
    NoBody,
    Reader,
    ServiceHere,
    cursor_for,
    position_of,
)
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.schedules import Schedule, ScheduleInDetail, ScheduleRun
from orchestrator.domain.exact import Exact
from orchestrator.schedules import book
from orchestrator.schedules.by_hand import run_now

router = APIRouter(prefix="/v1/schedules", tags=["schedules"], route_class=ExactRoute)

Name = Annotated[str, Path(pattern=NAME_OF_SCHEDULES, description="Name of the schedule.")]


@router.get("", response_model=Page[Schedule])
def list_(
    service: ServiceHere, _actor: Reader, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """List schedules by name."""
    after = position_of(cursor, str)
    found = service.read(
        lambda transaction: book.list_schedules(transaction, after=after, limit=limit)
    )
    more = cursor_for(found[-1]["name"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


@router.get("/{schedule}", response_model=ScheduleInDetail)
def show(service: ServiceHere, _actor: Reader, schedule: Name) -> dict[str, Any]:
    """Read a schedule, and what became of the jobs of its last run."""
    return service.read(lambda transaction: book.schedule_view(transaction, schedule))


@router.put("/{schedule}", response_model=ScheduleInDetail)
def put(
    service: ServiceHere,
    actor: Admin,
    schedule: Name,
    wanted: ScheduleSpec,
    replace: Annotated[
        bool, Query(description="Whether one that is there gets these contents; else 409.")
    ] = True,
) -> dict[str, Any]:
    """Make a schedule, or replace what one does."""
    return service.write(
        lambda transaction: book.put(transaction, schedule, wanted, actor, replace=replace)
    )


class ScheduleChange(Exact):
    """Whether it runs."""

    enabled: bool


@router.patch("/{schedule}", response_model=ScheduleInDetail)
def change(
    service: ServiceHere, actor: Admin, schedule: Name, wanted: ScheduleChange
) -> dict[str, Any]:
    """Enable or disable a schedule. What it misses while disabled is not caught up."""
    return service.write(
        lambda transaction: book.set_enabled(transaction, schedule, wanted.enabled, actor)
    )


@router.delete("/{schedule}", status_code=204, dependencies=[NoBody])
def remove(service: ServiceHere, actor: Admin, schedule: Name) -> Response:
    """Remove a schedule. Its jobs and the snapshots that it made stay."""
    service.write(lambda transaction: book.remove(transaction, schedule, actor))
    return Response(status_code=204)


@router.post("/{schedule}/run", status_code=202, response_model=ScheduleRun)
def run(
    service: ServiceHere, actor: Admin, schedule: Name, key: IdempotencyKey = None
) -> dict[str, Any]:
    """Run a schedule now, enabled or not; its next regular run does not change."""
    return run_now(
        service.database,
        schedule,
        actor,
        max_attempts=service.settings.retry.max_attempts,
        wake=service.wakeups.send,
        key=key,
    )
