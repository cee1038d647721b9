"""Statements of workers."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.postgresql.conditions import TARGETS
from orchestrator.store.postgresql.loading import LIVE_VOLUME
from orchestrator.store.queries import claiming as ask

#: That a job, `j`, can be claimed from this queue.
_CLAIMABLE = """j.queue = :queue
      AND j.backend_id = ANY(:backends)
      AND (j.begun OR j.queue = :control
           OR j.backend_id IN (SELECT id FROM backends WHERE state = 'enabled'))
      AND (:slow OR j.cost < :budget)"""

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.QueuesWithJobs: """
SELECT wanted.queue
FROM unnest(CAST(:queues AS text[])) AS wanted (queue)
WHERE (
    SELECT true FROM jobs AS j
    WHERE j.state = 'queued' AND j.queue >= wanted.queue AND j.queue <= wanted.queue
    ORDER BY j.queue
    LIMIT 1
)
""",
    # While somebody has an old snapshot, what has left the queue stays in its index, and this walks
    # over it: it is asked once for many claims.
    ask.NextJobs: f"""
SELECT j.id FROM jobs AS j
WHERE j.state = 'queued' AND {_CLAIMABLE}
ORDER BY j.priority, j.turn, j.id
LIMIT :most
""",
    # All but the ids is compared in a way that no index can be used for. SKIP LOCKED lets several
    # workers claim side by side. MATERIALIZED keeps the planner from running the limited, locking
    # query once for each row. NO KEY UPDATE does not collide with submissions that hold a job until
    # they have queued behind it (KEY SHARE).
    ask.ClaimJobs: f"""
WITH head AS MATERIALIZED (
    SELECT j.id, j.priority, j.turn,
           CASE WHEN j.claims > 0 THEN :budget ELSE j.cost END AS cost
    FROM jobs AS j
    WHERE j.id = ANY (CAST(:ids AS bigint[])) AND (j.state = 'queued' AND {_CLAIMABLE}) IS TRUE
    ORDER BY j.priority, j.turn, j.id
    LIMIT :most
    FOR NO KEY UPDATE SKIP LOCKED
), counted AS (
    SELECT id,
           sum(cost) OVER (ORDER BY priority, turn, id) - cost AS before,
           cost
    FROM head
), taken AS (
UPDATE jobs
SET state = 'running', begun = true, attempt = least(attempt + 1, max_attempts),
    claims = claims + 1, worker = :worker,
    fence = nextval('fences_numbers'),
    lease_expires_at = clock_timestamp() + make_interval(secs => :lease),
    started_at = coalesce(started_at, clock_timestamp()),
    progress = NULL
FROM counted
WHERE jobs.id = counted.id AND (counted.before = 0 OR counted.before + counted.cost <= :budget)
RETURNING jobs.id, jobs.action, jobs.backend_id, jobs.volume, jobs.snapshot,
          jobs.host, jobs.params, jobs.volume_id, jobs.snapshot_id, jobs.account, jobs.fence,
          {TARGETS} AS targets,
          jobs.attempt, jobs.max_attempts, jobs.batch_id, jobs.submitted_by, jobs.reason,
          jobs.queue, jobs.cancel_requested_at, jobs.claims, clock_timestamp() AS now
), noted AS (
    -- For a statement that travels along and cannot be given what this one returns.
    SELECT set_config('orchestrator.claimed', CAST(array_agg(name) AS text), true)
    FROM taken, unnest(ARRAY[volume, params ->> 'source', params ->> 'new_name']) AS name
)
SELECT taken.*, (SELECT count(*) FROM head) AS seen, (SELECT * FROM noted) AS noted FROM taken
""",
    ask.VolumesClaimed: f"""
SELECT named.backend, volume.*
FROM unnest(CAST(nullif(current_setting('orchestrator.claimed', true), '') AS text[]))
    AS wanted (name)
CROSS JOIN unnest(CAST(:backends AS bigint[])) AS its (id)
JOIN LATERAL (
    SELECT backends.name AS backend FROM backends WHERE backends.id = its.id LIMIT 1
) AS named ON true
JOIN LATERAL ({LIVE_VOLUME}) AS volume ON true
""",
    ask.BeginLanes: """
UPDATE job_lanes SET begun = true
WHERE job_id = ANY (CAST(:ids AS bigint[])) AND NOT begun
""",
    ask.LockRunning: """
SELECT id FROM jobs
WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'running'
ORDER BY id
FOR NO KEY UPDATE SKIP LOCKED
""",
    ask.RunningJobs: """
SELECT id, fence, cancel_requested_at FROM jobs
WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'running'
""",
    ask.RenewLeases: """
UPDATE jobs
SET lease_expires_at = clock_timestamp() + make_interval(secs => :seconds)
WHERE id = ANY (CAST(:ids AS bigint[]))
""",
    ask.SeeWorker: """
INSERT INTO workers (id, host, pid, boot_id, queues, started_at, seen_at)
VALUES (:worker, :host, :pid, :boot_id, CAST(:queues AS jsonb),
        clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, seen_at = excluded.seen_at
""",
}
