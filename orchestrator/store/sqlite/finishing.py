"""Statements about jobs that end."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import finishing as ask

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.HoldJobs: """
SELECT id, state, fence, cancel_requested_at, worker, promised_bytes,
       strftime('%Y-%m-%d %H:%M:%f000', 'now') AS now
FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids))
ORDER BY id
""",
    ask.Dependents: """
SELECT job_id, depends_on FROM job_dependencies
WHERE depends_on IN (SELECT value FROM json_each(:ids))
""",
    ask.OthersInLanes: """
SELECT job_id AS id FROM job_lanes
WHERE lane IN (SELECT value FROM json_each(:lanes))
  AND NOT job_id IN (SELECT value FROM json_each(:ids))
LIMIT 1
""",
    ask.CloseJournals: """
UPDATE job_steps SET state = 'done' WHERE job_id IN (SELECT value FROM json_each(:ids))
""",
    ask.ReleaseLanes: """
DELETE FROM job_lanes WHERE job_id IN (SELECT value FROM json_each(:ids))
""",
    ask.CountEnded: """
UPDATE batches
SET succeeded = succeeded + :succeeded,
    failed = failed + :failed,
    canceled = canceled + :canceled,
    finished_at = CASE
        WHEN total = succeeded + :succeeded + failed + :failed + canceled + :canceled
        THEN :now
    END
WHERE id = :batch_id
RETURNING id, finished_at
""",
    # Of two that do this at once, the second finds the version of the first, which is higher.
    ask.AddPromised: """
UPDATE promises
SET promised_bytes = promised_bytes + :bytes, limit_bytes = CAST(:most AS bigint),
    version = version + 1
WHERE backend_id = :backend_id AND version >= (
    SELECT latest.version FROM promises AS latest
    WHERE latest.backend_id = :backend_id
    ORDER BY latest.version DESC
    LIMIT 1
)
""",
}
