"""Statements of reports."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import reports as ask

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.CapacityDays: """
SELECT backend, day, at, total_bytes, free_bytes, promised_bytes, volumes, volume_bytes,
       used_bytes, snapshots
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY backend, CAST(julianday(day) - julianday(:first) AS integer) / :every
        ORDER BY day DESC
    ) AS place
    FROM audit_capacity_daily
    WHERE (:backend IS NULL OR backend = :backend) AND day >= :first AND day <= :last
) AS looked
WHERE place = 1
ORDER BY backend, day
""",
}
