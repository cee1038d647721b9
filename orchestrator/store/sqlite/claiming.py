"""Statements of workers."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import claiming as ask
from orchestrator.store.sqlite.conditions import NOW, TARGETS

#: Nothing is drawn and nothing written while there is nothing to do.
IS_ANY_QUEUED = """
SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'queued' LIMIT 1
"""

#: That a job, `j`, can be claimed from this queue.
_CLAIMABLE = """j.queue = :queue
      AND j.backend_id IN (SELECT value FROM json_each(:backends))
      AND (j.begun OR j.queue = :control
           OR j.backend_id IN (SELECT id FROM backends WHERE state = 'enabled'))
      AND (:slow OR j.cost < :budget)"""

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.QueuesWithJobs: """
SELECT wanted.value AS queue
FROM json_each(:queues) AS wanted
WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND queue = wanted.value)
""",
    ask.NextJobs: f"""
SELECT j.id FROM jobs AS j
WHERE j.state = 'queued' AND {_CLAIMABLE}
ORDER BY j.priority, j.turn, j.id
LIMIT :most
""",
    # One transaction writes at a time, and it has drawn :most fencing numbers before this runs;
    # they end with what the counter has now.
    ask.ClaimJobs: f"""
WITH head AS (
    SELECT j.id, j.priority, j.turn,
           CASE WHEN j.claims > 0 THEN :budget ELSE j.cost END AS cost
    FROM jobs AS j
    WHERE j.id IN (SELECT value FROM json_each(:ids)) AND j.state = 'queued'
      AND {_CLAIMABLE}
    ORDER BY j.priority, j.turn, j.id
    LIMIT :most
), counted AS (
    SELECT id,
           sum(cost) OVER (ORDER BY priority, turn, id) - cost AS before,
           cost,
           row_number() OVER (ORDER BY priority, turn, id) AS place
    FROM head
)
UPDATE jobs
SET state = 'running', begun = 1, attempt = min(attempt + 1, max_attempts),
    claims = claims + 1, worker = :worker,
    fence = (SELECT value FROM counters WHERE name = 'fences') - :most + counted.place,
    lease_expires_at = strftime('%Y-%m-%d %H:%M:%f000', 'now', :lease || ' seconds'),
    started_at = coalesce(started_at, {NOW}),
    progress = NULL
FROM counted
WHERE jobs.id = counted.id AND (counted.before = 0 OR counted.before + counted.cost <= :budget)
RETURNING jobs.id, jobs.action, jobs.backend_id, jobs.volume, jobs.snapshot,
          jobs.host, jobs.params, jobs.volume_id, jobs.snapshot_id, jobs.account, jobs.fence,
          {TARGETS} AS targets,
          jobs.attempt, jobs.max_attempts, jobs.batch_id, jobs.submitted_by, jobs.reason,
          jobs.queue, jobs.cancel_requested_at, jobs.claims, {NOW} AS now,
          :most AS seen, NULL AS noted
""",
    ask.VolumesClaimed: """
SELECT backends.name AS backend, volumes.id, volumes.name, volumes.state, volumes.size_bytes,
       volumes.metadata, volumes.parameters, volumes.settings, volumes.policy_id,
       volumes.created_by_job, volumes.account
FROM volumes JOIN backends ON backends.id = volumes.backend_id
WHERE volumes.state <> 'removed'
  AND volumes.backend_id IN (SELECT value FROM json_each(:backends))
  AND volumes.name IN (
    SELECT claimed.value
    FROM jobs, json_each(json_array(jobs.volume, json_extract(jobs.params, '$.source'),
                                    json_extract(jobs.params, '$.new_name'))) AS claimed
    WHERE jobs.state = 'running'
      AND jobs.fence > (SELECT value - :most FROM counters WHERE name = 'fences')
)
""",
    ask.BeginLanes: """
UPDATE job_lanes SET begun = 1
WHERE job_id IN (SELECT value FROM json_each(:ids)) AND NOT begun
""",
    ask.LockRunning: """
SELECT id FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'running'
ORDER BY id
""",
    ask.RunningJobs: """
SELECT id, fence, cancel_requested_at FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'running'
""",
    ask.RenewLeases: """
UPDATE jobs
SET lease_expires_at = strftime('%Y-%m-%d %H:%M:%f000', 'now', :seconds || ' seconds')
WHERE id IN (SELECT value FROM json_each(:ids))
""",
    ask.SeeWorker: """
INSERT INTO workers (id, host, pid, boot_id, queues, started_at, seen_at)
VALUES (:worker, :host, :pid, :boot_id, :queues,
        strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', 'now'))
ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, seen_at = excluded.seen_at
""",
}
