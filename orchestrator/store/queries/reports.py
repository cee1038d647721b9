"""Queries of reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TypedDict

from orchestrator.store.asking import Query


class CapacityDay(TypedDict):
    """How full a backend was on a day."""

    backend: str
    day: date
    at: datetime
    total_bytes: int | None
    free_bytes: int | None
    promised_bytes: int
    volumes: int
    volume_bytes: int
    used_bytes: int
    snapshots: int


@dataclass(frozen=True)
class CapacityDays(Query[CapacityDay]):
    """The last day of ``every`` few of a period, of one backend or of each, in order."""

    backend: str | None
    first: date
    last: date
    every: int
