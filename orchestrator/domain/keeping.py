"""Retention: which of the snapshots that a schedule made are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.exact import Exact

_Count = Annotated[int, Field(ge=0, le=10_000)]


class Keep(Exact):
    """How many snapshots of each volume are kept. What any of the four keeps is kept."""

    model_config = ConfigDict(frozen=True)

    last: _Count = Field(default=0, description="The newest ones.")
    hourly: _Count = Field(
        default=0, description="The newest of each of the latest hours that have one."
    )
    daily: _Count = Field(default=0, description="The same for days (UTC).")
    weekly: _Count = Field(default=0, description="The same for weeks (ISO 8601, UTC).")

    @model_validator(mode="after")
    def _something(self) -> Keep:
        if not (self.last or self.hourly or self.daily or self.weekly):
            raise PydanticCustomError(
                "invalid_input", "keep at least one: give last, hourly, daily or weekly"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Made:
    """A snapshot: the job that made it, its place on the storage, and the time it stands for."""

    id: str
    job_id: int
    due: datetime
    #: None: the storage does not say, or it is not made yet.
    position: int | None = None

    @property
    def age(self) -> tuple[bool, int, int]:
        """Grows from older to newer ones."""
        return self.position is None, self.position or 0, self.job_id


def surplus(keep: Keep, made: Iterable[Made]) -> list[Made]:
    """Those that are not kept, oldest first.

    Which one is newer is told by the storage, and else by the jobs: clocks may go back.
    """
    newest_first = sorted(made, key=lambda one: one.age, reverse=True)
    kept = {one.id for one in newest_first[: keep.last]}
    for bucket, count in (
        (_hour, keep.hourly),
        (datetime.date, keep.daily),
        (_week, keep.weekly),
    ):
        kept |= _newest_of_each(newest_first, bucket, count)
    return [one for one in reversed(newest_first) if one.id not in kept]


def _newest_of_each(
    newest_first: list[Made], bucket: Callable[[datetime], Hashable], count: int
) -> set[str]:
    """The newest one in each of the latest ``count`` buckets."""
    first: dict[Hashable, str] = {}
    for one in newest_first:
        place = bucket(one.due)
        if len(first) < count:
            first.setdefault(place, one.id)
    return set(first.values())


def _hour(moment: datetime) -> Hashable:
    return (moment.date(), moment.hour)


def _week(moment: datetime) -> Hashable:
    return moment.isocalendar()[:2]
