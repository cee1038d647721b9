"""Statements that load volumes and unfinished jobs.

Each thing is looked up by itself, in a subquery that the planner takes as it is: how it would
join whole tables hangs on statistics, which a new database lacks, and on how large they were when
the plan was made.
"""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.postgresql.conditions import TARGETS
from orchestrator.store.queries import loading as ask

#: The live volume called ``wanted.name`` on the backend ``its``.
LIVE_VOLUME = """
    SELECT volumes.id, volumes.name, volumes.state, volumes.size_bytes, volumes.metadata,
           volumes.parameters, volumes.settings, volumes.policy_id, volumes.created_by_job,
           volumes.account
    FROM volumes
    WHERE volumes.backend_id = its.id AND volumes.name = wanted.name
      AND volumes.state <> 'removed'
    LIMIT 1
"""

STATEMENTS: dict[type[Query[Any]], str] = {
    # See `orchestrator.store.postgresql.lanes` for why a lane is looked up so.
    ask.JobsInLanes: f"""
SELECT held.lane, job.*
FROM unnest(CAST(:lanes AS text[])) AS wanted (lane)
JOIN LATERAL (
    SELECT l.lane, l.job_id FROM job_lanes AS l
    WHERE l.lane >= wanted.lane AND l.lane <= wanted.lane
    ORDER BY l.lane, l.job_id
    OFFSET 0
) AS held ON true
JOIN LATERAL (
    SELECT jobs.id, jobs.action, jobs.backend_id, jobs.volume, jobs.snapshot, jobs.host,
           jobs.params, jobs.reason, jobs.volume_id, jobs.snapshot_id, jobs.account, jobs.after,
           {TARGETS} AS targets, jobs.not_before,
           jobs.begun OR jobs.not_before IS NULL OR jobs.not_before <= clock_timestamp() AS blocks
    FROM jobs WHERE jobs.id = held.job_id
    LIMIT 1
) AS job ON true
ORDER BY job.id
""",
    ask.VolumesNamed: f"""
SELECT wanted.backend, volume.*
FROM unnest(CAST(:backends AS text[]), CAST(:names AS text[])) AS wanted (backend, name)
JOIN LATERAL (
    SELECT backends.id FROM backends WHERE backends.name = wanted.backend LIMIT 1
) AS its ON true
JOIN LATERAL ({LIVE_VOLUME}) AS volume ON true
""",
    ask.VolumesRecorded: """
SELECT volumes.id, volumes.name, volumes.state,
       EXISTS (SELECT FROM attachments WHERE attachments.volume_id = volumes.id) AS attached,
       CAST(json_build_array(
           volumes.name, volumes.size_bytes, volumes.metadata, volumes.settings,
           (SELECT policies.name FROM policies WHERE policies.id = volumes.policy_id),
           (
               SELECT coalesce(json_agg(kept.one), '[]')
               FROM (
                   SELECT json_build_array(snapshots.id, snapshots.name, snapshots.size_bytes)
                   FROM snapshots
                   WHERE snapshots.volume_id = volumes.id AND snapshots.state <> 'removed'
                   ORDER BY snapshots.state = 'pending', snapshots.position IS NULL,
                       coalesce(snapshots.position, 0), coalesce(snapshots.created_by_job, 0),
                       snapshots.created_at, snapshots.id
               ) AS kept (one)
           )
       ) AS text) AS written
FROM volumes
WHERE volumes.backend_id = :backend_id AND volumes.state <> 'removed' AND volumes.name > :after
ORDER BY volumes.name
LIMIT :most
""",
}
