"""The hand-written statement that claims work, once for each database.

Its invariant: a job goes to ``running`` only from ``queued``, in one step with its new
fencing number, which is larger than any given before, and with its lease; its lanes become
begun in the same transaction, which a unique index allows to one job at a time.
"""

from __future__ import annotations

# A job may be claimed again after its last attempt, to find out what that has left
# (`orchestrator.jobs.claim.last_step`). A job that was claimed before is claimed alone: if it
# is what kills workers, it takes no others of a group with it.
_UPDATE = """
WITH head AS {materialized} (
    SELECT j.id, j.priority, j.turn,
           CASE WHEN j.claims > 0 THEN :budget ELSE j.cost END AS cost
    FROM jobs AS j
    WHERE j.state = 'queued' AND j.queue = :queue
      AND ({backends})
      AND (j.begun OR j.queue = :control
           OR j.backend_id IN (SELECT id FROM backends WHERE state = 'enabled'))
      AND ({slow} OR j.cost < :budget)
    ORDER BY j.priority, j.turn, j.id
    LIMIT :most
    {lock}
), counted AS (
    SELECT id,
           sum(cost) OVER (ORDER BY priority, turn, id) - cost AS before,
           cost,
           row_number() OVER (ORDER BY priority, turn, id) AS place
    FROM head
){taken}
UPDATE jobs
SET state = 'running', begun = {true}, attempt = {least}(attempt + 1, max_attempts),
    claims = claims + 1, worker = :worker,
    fence = {fence}, lease_expires_at = {lease}, started_at = coalesce(started_at, {now}),
    progress = NULL
FROM counted
WHERE jobs.id = counted.id AND (counted.before = 0 OR counted.before + counted.cost <= :budget)
RETURNING jobs.id, jobs.action, jobs.backend_id, jobs.volume, jobs.snapshot, jobs.policy,
          jobs.host, jobs.params, jobs.volume_id, jobs.snapshot_id, jobs.policy_id,
          jobs.source_id, jobs.account, jobs.fence,
          jobs.attempt, jobs.max_attempts, jobs.batch_id, jobs.submitted_by, jobs.reason,
          jobs.queue, jobs.cancel_requested_at, jobs.claims, {now} AS now
"""

_COUNTED = """), noted AS (
    SELECT set_config('orchestrator.claimed', CAST(array_agg(name) AS text), true)
    FROM taken, unnest(ARRAY[volume, params ->> 'source', params ->> 'new_name']) AS name
)
SELECT taken.*, (SELECT count(*) FROM head) AS seen, (SELECT * FROM noted) AS noted FROM taken
"""

#: The names of the volumes that the jobs just claimed are about, for a statement that travels
#: with the claim and cannot be told; null if none.
CLAIMED_POSTGRESQL = "CAST(nullif(current_setting('orchestrator.claimed', true), '') AS text[])"

# SKIP LOCKED lets several workers claim side by side. MATERIALIZED keeps the planner from
# running the limited, locking query once for each row. NO KEY UPDATE does not collide with
# submissions that hold a job until they have queued behind it (KEY SHARE).
CLAIM_POSTGRESQL = (
    _UPDATE.format(
        materialized="MATERIALIZED",
        backends="j.backend_id = ANY(:backends)",
        slow=":slow",
        lock="FOR NO KEY UPDATE SKIP LOCKED",
        taken=", taken AS (",
        true="true",
        least="least",
        fence="nextval('fences_numbers')",
        lease="clock_timestamp() + make_interval(secs => :lease)",
        now="clock_timestamp()",
    )
    + _COUNTED
)

# One transaction writes at a time, and it has raised the counter of fencing numbers by
# :most before this runs; :fences is the last number given out before.
CLAIM_SQLITE = _UPDATE.format(
    materialized="",
    backends="j.backend_id IN (SELECT value FROM json_each(:backends))",
    slow=":slow",
    lock="",
    taken="",
    true="1",
    least="min",
    fence=":fences + counted.place",
    lease="strftime('%Y-%m-%d %H:%M:%f000', 'now', :lease || ' seconds')",
    now="strftime('%Y-%m-%d %H:%M:%f000', 'now')",
)
