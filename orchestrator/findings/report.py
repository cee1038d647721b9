"""The report of a period: how full backends were, how jobs went, what failed, differed and went.

All of it is read from the views that docs/sql.md tells, and added up by the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    bindparam,
    select,
    text,
)

from orchestrator.actions.registry import REMOVING
from orchestrator.contract.reports import MOST_CAUSES, MOST_DAYS, MOST_REMOVALS
from orchestrator.domain.errors import InvalidInput, UnknownBackend
from orchestrator.inventory.capacity import present
from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.queries.reports import CapacityDays
from orchestrator.store.tables import backends
from orchestrator.store.transaction import Transaction

#: The period, if nobody names one.
USUAL_DAYS = 30

#: What the statements have in common. States and kinds are said as the indexes say them, word for
#: word: SQLite takes those for nothing else.
_PARTS = {
    "of_backend": "(CAST(:backend AS varchar(63)) IS NULL OR backend = :backend)",
    "unsuccessful": "state IN ('failed', 'canceled')",
    "removed": (
        f"kind IN ({', '.join(map(repr, REMOVING))})"
        " AND kind NOT IN ('job.submitted', 'job.started', 'job.succeeded')"
    ),
}
# Percentiles lie between two durations as `percentile_cont` has it: place 1 + share * (n - 1),
# here in hundredths, so that both databases count in integers.
_JOBS = """
SELECT action, state, max(jobs) AS jobs, max(duration_seconds) AS longest_seconds,
    {median} AS median_seconds, {p95} AS p95_seconds
FROM (
    SELECT action, state, duration_seconds,
        count(*) OVER of_kind AS jobs, count(duration_seconds) OVER of_kind AS timed,
        row_number() OVER (
            PARTITION BY action, state ORDER BY duration_seconds IS NULL, duration_seconds
        ) AS place
    FROM audit_jobs
    WHERE {of_backend} AND finished_at >= :since AND finished_at < :until
    WINDOW of_kind AS (PARTITION BY action, state)
) AS ended
GROUP BY action, state
ORDER BY action, state
"""


def _percentile(hundredths: int) -> str:
    reach = f"({hundredths} * (timed - 1))"
    return (
        f"sum(CASE WHEN place <= timed AND place = 1 + {reach} / 100"
        f" THEN duration_seconds * (1 - {reach} % 100 / 100.0)"
        f" WHEN place <= timed AND place = 2 + {reach} / 100"
        f" THEN duration_seconds * ({reach} % 100 / 100.0) END)"
    )


_FAILURES = """
SELECT error_code, failures, job_id, action, backend, volume, error_detail, finished_at
FROM (
    SELECT *, count(*) OVER (PARTITION BY error_code) AS failures,
        row_number() OVER (PARTITION BY error_code ORDER BY finished_at DESC, job_id DESC) AS place
    FROM audit_jobs
    WHERE {unsuccessful} AND state = 'failed' AND {of_backend}
        AND finished_at >= :since AND finished_at < :until
) AS failed
WHERE place = 1
ORDER BY failures DESC, error_code
LIMIT {most}
"""

_FINDINGS = """
SELECT kind,
    sum(CASE WHEN first_seen_at >= :since AND first_seen_at < :until THEN 1 ELSE 0 END) AS opened,
    sum(CASE WHEN closed_at >= :since AND closed_at < :until THEN 1 ELSE 0 END) AS closed,
    sum(CASE WHEN findings.state = 'open' THEN 1 ELSE 0 END) AS open_now
FROM findings
JOIN (SELECT id, name AS backend FROM backends) AS named ON named.id = findings.backend_id
WHERE {of_backend}
GROUP BY kind
ORDER BY kind
"""

_REMOVALS = """
SELECT number, at, actor, kind, backend, volume, volume_id, snapshot, policy, job_id, reason
FROM audit_who
WHERE {removed} AND {of_backend} AND at >= :since AND at < :until
ORDER BY commit_id DESC, seq DESC
LIMIT {most}
"""
_REMOVALS_COUNTED = """
SELECT count(*) FROM events
WHERE {removed} AND {of_backend} AND at >= :since AND at < :until
"""


def report(
    transaction: Transaction,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    backend: str | None = None,
) -> dict[str, Any]:
    """The report of a period, by default the last 30 days; of one backend, or of all.

    A backend that is no longer configured has its history. Raises `InvalidInput` and
    `UnknownBackend`.
    """
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    until = until or now
    since = since or _before(until)
    if since >= until:
        raise InvalidInput("the period must begin before it ends", field="from")
    if backend is not None:
        known = select(backends.c.id).where(backends.c.name == backend)
        if transaction.execute(known).first() is None:
            raise UnknownBackend(f"there never was a backend {backend!r}", field="backend")
    transaction.read_many()
    period = {"since": since, "until": until, "backend": backend}
    return {
        "from": since,
        "to": until,
        "backend": backend,
        "made_at": now,
        "capacity": _capacity(transaction, period, now),
        "jobs": _rows(transaction, period, _JOBS, median=_percentile(50), p95=_percentile(95)),
        "failures": [
            _failure(row) for row in _rows(transaction, period, _FAILURES, most=str(MOST_CAUSES))
        ],
        "findings": _rows(transaction, period, _FINDINGS),
        "removals": {
            "total": transaction.execute(_asked(_REMOVALS_COUNTED), period).scalar_one(),
            "items": _rows(transaction, period, _REMOVALS, most=str(MOST_REMOVALS)),
        },
    }


def _before(until: datetime) -> datetime:
    try:
        return until - timedelta(days=USUAL_DAYS)
    except OverflowError:
        raise InvalidInput("there is no time before that: name both ends", field="to") from None


def _capacity(
    transaction: Transaction, period: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """The days of each backend, or the last one of every few; of a period that has not ended
    yet, the present as its last."""
    first = period["since"].date()
    last = (period["until"] - timedelta(microseconds=1)).date()
    found: dict[str, list[dict[str, Any]]] = {}
    every = ((last - first).days + 1 + MOST_DAYS - 1) // MOST_DAYS
    [rows] = transaction.ask(CapacityDays(period["backend"], first, last, every))
    for row in rows:
        day: dict[str, Any] = {**row}
        found.setdefault(day.pop("backend"), []).append(day)
    if period["since"] <= now <= period["until"]:
        today = (now.date() - first).days // every
        for name, day in present(transaction, now).items():
            if period["backend"] in (None, name):
                days = found.setdefault(name, [])
                if days and (days[-1]["day"] - first).days // every == today:
                    days.pop()
                days.append(day)
    return [{"backend": name, "days": found[name]} for name in sorted(found)]


def _failure(row: dict[str, Any]) -> dict[str, Any]:
    """One cause, with its latest job."""
    code, failures = row.pop("error_code"), row.pop("failures")
    return {"code": code, "failures": failures, "latest": row}


def _rows(
    transaction: Transaction, given: Mapping[str, Any], query: str, **parts: str
) -> list[dict[str, Any]]:
    found = transaction.execute(_asked(query, **parts), given).mappings()
    return [dict(row) for row in found]


#: What the statements take and give, in each database's own form.
_TAKEN: dict[str, Any] = {
    "since": UtcDateTime(),
    "until": UtcDateTime(),
}
_GIVEN: dict[str, Any] = {"at": UtcDateTime(), "finished_at": UtcDateTime()}


def _asked(query: str, **parts: str) -> Any:
    filled = query.format(**_PARTS, **parts)
    taken = [bindparam(name, type_=kind) for name, kind in _TAKEN.items() if f":{name}" in filled]
    return text(filled).bindparams(*taken).columns(**_GIVEN)
