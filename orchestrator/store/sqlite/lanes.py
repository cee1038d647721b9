"""Statements about lanes."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import lanes as ask
from orchestrator.store.sqlite.conditions import LANE_TAKEN, NEEDS_MORE, NOW

_FIRST_OF_LANE = f"""
SELECT (
    SELECT l.job_id
    FROM job_lanes AS l JOIN jobs AS j ON j.id = l.job_id
    WHERE l.lane = wanted.value AND (l.begun OR j.not_before IS NULL OR j.not_before <= {NOW})
    ORDER BY l.job_id {{order}}
    LIMIT 1
) AS head
FROM json_each(:lanes) AS wanted
"""

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.LockStripes: f"SELECT 0 AS held, {NOW} AS now",
    ask.Heads: _FIRST_OF_LANE.format(order="ASC"),
    ask.Tails: _FIRST_OF_LANE.format(order="DESC"),
    ask.HoldUnfinished: """
SELECT id FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND finished_at IS NULL
ORDER BY id
""",
    ask.LockWaiting: """
SELECT id FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'waiting'
ORDER BY id
""",
    ask.Promote: f"""
UPDATE jobs SET state = 'queued', queued_at = {NOW}, not_before = NULL
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'waiting'
  AND (not_before IS NULL OR not_before <= {NOW})
  AND NOT {NEEDS_MORE}
  AND (begun OR NOT {LANE_TAKEN})
RETURNING queue, id
""",
}
