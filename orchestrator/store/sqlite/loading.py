"""Statements that load volumes and unfinished jobs. CROSS JOIN makes SQLite join in this order."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import loading as ask
from orchestrator.store.sqlite.conditions import NOW, TARGETS

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.JobsInLanes: f"""
SELECT job_lanes.lane, jobs.id, jobs.action, jobs.backend_id, jobs.volume, jobs.snapshot,
       jobs.host, jobs.params, jobs.reason, jobs.volume_id, jobs.snapshot_id, jobs.account,
       jobs.after, {TARGETS} AS targets, jobs.not_before,
       jobs.begun OR jobs.not_before IS NULL OR jobs.not_before <= {NOW} AS blocks
FROM job_lanes CROSS JOIN jobs ON jobs.id = job_lanes.job_id
WHERE job_lanes.lane IN (SELECT value FROM json_each(:lanes))
ORDER BY jobs.id
""",
    ask.VolumesNamed: """
SELECT backends.name AS backend, volumes.id, volumes.name, volumes.state, volumes.size_bytes,
       volumes.metadata, volumes.parameters, volumes.settings, volumes.policy_id,
       volumes.created_by_job, volumes.account
FROM backends CROSS JOIN volumes ON volumes.backend_id = backends.id
WHERE backends.name IN (SELECT value FROM json_each(:backends))
  AND volumes.name IN (SELECT value FROM json_each(:names))
  AND volumes.state <> 'removed'
""",
    ask.VolumesRecorded: """
SELECT volumes.id, volumes.name, volumes.state,
       EXISTS (SELECT 1 FROM attachments WHERE attachments.volume_id = volumes.id) AS attached,
       json_array(
           volumes.name, volumes.size_bytes, json(volumes.metadata), json(volumes.settings),
           (SELECT policies.name FROM policies WHERE policies.id = volumes.policy_id),
           json((
               SELECT json_group_array(json_array(kept.id, kept.name, kept.size_bytes))
               FROM (
                   SELECT snapshots.id, snapshots.name, snapshots.size_bytes FROM snapshots
                   WHERE snapshots.volume_id = volumes.id AND snapshots.state <> 'removed'
                   ORDER BY snapshots.state = 'pending', snapshots.position IS NULL,
                       coalesce(snapshots.position, 0), coalesce(snapshots.created_by_job, 0),
                       snapshots.created_at, snapshots.id
               ) AS kept
           ))
       ) AS written
FROM volumes
WHERE volumes.backend_id = :backend_id AND volumes.state <> 'removed' AND volumes.name > :after
ORDER BY volumes.name
LIMIT :most
""",
}
