"""Statements about lanes."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.postgresql.conditions import LANE_TAKEN, NEEDS_MORE
from orchestrator.store.queries import lanes as ask

# One short index walk a lane: a lane with ten thousand waiting jobs costs no more. Written so that
# no other index than the one that begins with the lane has this order: the table is empty most of
# the time, and then PostgreSQL would expect it to be small.
_FIRST_OF_LANE = """
SELECT (
    SELECT l.job_id
    FROM job_lanes AS l JOIN jobs AS j ON j.id = l.job_id
    WHERE l.lane >= wanted.lane AND l.lane <= wanted.lane
      AND (l.begun OR j.not_before IS NULL OR j.not_before <= clock_timestamp())
    ORDER BY {order}
    LIMIT 1
) AS head
FROM unnest(CAST(:lanes AS text[])) AS wanted (lane)
"""

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.LockStripes: """
SELECT count(pg_advisory_xact_lock(:kind, stripe)) AS held, clock_timestamp() AS now
FROM unnest(CAST(:stripes AS integer[])) AS stripe
""",
    ask.Heads: _FIRST_OF_LANE.format(order="l.lane, l.job_id"),
    ask.Tails: _FIRST_OF_LANE.format(order="l.lane DESC, l.job_id DESC"),
    ask.HoldUnfinished: """
SELECT id FROM jobs
WHERE id = ANY (CAST(:ids AS bigint[])) AND finished_at IS NULL
ORDER BY id
FOR KEY SHARE
""",
    ask.LockWaiting: """
SELECT id FROM jobs
WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'waiting'
ORDER BY id
FOR NO KEY UPDATE
""",
    ask.Promote: f"""
UPDATE jobs SET state = 'queued', queued_at = clock_timestamp(), not_before = NULL
WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'waiting'
  AND (not_before IS NULL OR not_before <= clock_timestamp())
  AND NOT {NEEDS_MORE}
  AND (begun OR NOT {LANE_TAKEN})
RETURNING queue, id
""",
}
