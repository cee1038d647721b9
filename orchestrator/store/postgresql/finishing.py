"""Statements about jobs that end."""

from __future__ import annotations

from typing import Any

from orchestrator.store.asking import Query
from orchestrator.store.queries import finishing as ask

STATEMENTS: dict[type[Query[Any]], str] = {
    ask.HoldJobs: """
SELECT id, state, fence, cancel_requested_at, worker, promised_bytes,
       clock_timestamp() AS now
FROM jobs
WHERE id = ANY (CAST(:ids AS bigint[]))
ORDER BY id
FOR UPDATE
""",
    # See `orchestrator.store.postgresql.lanes` for why they are looked up so.
    ask.Dependents: """
SELECT need.job_id, need.depends_on
FROM unnest(CAST(:ids AS bigint[])) AS ended (id)
JOIN LATERAL (
    SELECT d.job_id, d.depends_on FROM job_dependencies AS d
    WHERE d.depends_on >= ended.id AND d.depends_on <= ended.id
    ORDER BY d.depends_on
    OFFSET 0
) AS need ON true
""",
    ask.OthersInLanes: """
SELECT job_id AS id FROM job_lanes
WHERE lane = ANY (CAST(:lanes AS varchar[]))
  AND NOT job_id = ANY (CAST(:ids AS bigint[]))
LIMIT 1
""",
    ask.CloseJournals: """
UPDATE job_steps SET state = 'done' WHERE job_id = ANY (CAST(:ids AS bigint[]))
""",
    ask.ReleaseLanes: """
DELETE FROM job_lanes WHERE job_id = ANY (CAST(:ids AS bigint[]))
""",
    ask.CountEnded: """
UPDATE batches
SET succeeded = succeeded + CAST(:succeeded AS integer),
    failed = failed + CAST(:failed AS integer),
    canceled = canceled + CAST(:canceled AS integer),
    finished_at = CASE
        WHEN total = succeeded + CAST(:succeeded AS integer)
                   + failed + CAST(:failed AS integer)
                   + canceled + CAST(:canceled AS integer)
        THEN CAST(:now AS timestamptz)
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
