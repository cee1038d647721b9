"""A past for a database: finished jobs with their events, as years of use leave them.

Four jobs a volume: it was created, grown, changed and removed. Half of the volumes' jobs
succeeded at once (four events), half at the second attempt (six); one job in a hundred
failed (five). That is five events a job. Everything is older than anything the product
does afterwards, has ids below, and satisfies every constraint.
"""

from __future__ import annotations

from benchmarks.bulk import connect, drop_indexes, one
from benchmarks.product import RAM

#: What the numbers of jobs mean: parameters of the first statement.
_SHAPE = {"backend": RAM, "of_batch": 1000, "of_volume": 4, "days": 365}

#: Each job of the past, and what follows from its number.
_PAST = """
CREATE TEMPORARY TABLE past AS
SELECT j AS id,
       v,
       step,
       backends.id AS backend_id,
       backends.name AS backend,
       (j - 1) / %(of_batch)s + 1 AS batch_id,
       (ARRAY['volume.create', 'volume.grow', 'volume.update', 'volume.remove'])[step] AS action,
       'tenant' || lpad(mod(v, 500)::text, 3, '0') || '/vol' || lpad(v::text, 7, '0') AS volume,
       md5('volume ' || v) AS volume_id,
       step = 3 AND mod(v, 25) = 0 AS failed,
       mod(v, 2) = 1 OR (step = 3 AND mod(v, 25) = 0) AS retried,
       now() - make_interval(days => %(days)s, hours => 1)
           + j * (make_interval(days => %(days)s) / %(jobs)s::float) AS created_at
FROM (
    SELECT j, (j - 1) / %(of_volume)s AS v, mod(j - 1, %(of_volume)s) + 1 AS step
    FROM generate_series(1, %(jobs)s::bigint) AS j
) AS numbered
JOIN backends ON backends.name = %(backend)s
"""

_BATCHES = """
INSERT INTO batches
    (id, submitted_by, total, succeeded, failed, canceled, created_at, finished_at)
SELECT batch_id,
       'importer',
       count(*),
       count(*) FILTER (WHERE NOT failed),
       count(*) FILTER (WHERE failed),
       0,
       min(created_at),
       max(created_at) + interval '2 seconds'
FROM past
GROUP BY 1
"""

_JOBS = """
INSERT INTO jobs
    (id, action, backend_id, volume, params, volume_id, state, priority, queue, after, cost,
     promised_bytes, begun, claims, attempt, max_attempts, fence, outcome_fence, worker, result,
     error, submitted_by, reason, batch_id, created_at, queued_at, started_at, finished_at)
SELECT id,
       action,
       backend_id,
       volume,
       CASE step
           WHEN 1 THEN '{"metadata": {}, "size_bytes": 1073741824}'::jsonb
           WHEN 2 THEN '{"size_bytes": 2147483648}'::jsonb
           WHEN 3 THEN '{"metadata": {"owner": "tenant"}}'::jsonb
           ELSE '{"wipe": false}'::jsonb
       END,
       volume_id,
       CASE WHEN failed THEN 'failed' ELSE 'succeeded' END,
       0, 'backend.' || backend, 'success', 5,
       CASE WHEN step <= 2 THEN 1073741824 ELSE 0 END,
       true,
       CASE WHEN retried THEN 2 ELSE 1 END,
       CASE WHEN retried THEN 2 ELSE 1 END,
       CASE WHEN failed THEN 2 ELSE 5 END,
       id * 2, id * 2,
       'storage-' || mod(id, 7) || '-1234-0a1b2c3d',
       CASE WHEN NOT failed THEN '{"size_bytes": 2147483648, "used_bytes": 0}'::jsonb END,
       CASE WHEN failed THEN
           '{"code": "backend_error", "detail": "the backend gave up", "retryable": true}'::jsonb
       END,
       'tenant' || mod(v, 50),
       CASE WHEN mod(v, 10) = 0 THEN 'ticket ' || v END,
       batch_id,
       created_at,
       created_at,
       created_at + interval '20 milliseconds',
       created_at + interval '35 milliseconds'
FROM past
ORDER BY id
"""

_STEPS = """
INSERT INTO job_steps (job_id, seq, fence, name, state, detail, at)
SELECT id, 1, id * 2,
       (ARRAY['grow', 'set_metadata', 'remove'])[step - 1],
       CASE WHEN failed THEN 'intended' ELSE 'done' END,
       '{}'::jsonb,
       created_at + interval '30 milliseconds'
FROM past
WHERE step > 1
"""

_ATTEMPTS = """
INSERT INTO job_attempts (job_id, fence, attempt, worker, ended_at, outcome, error)
SELECT id, fence, fence - id * 2 + 2, 'storage-1-1234-0a1b2c3d',
       created_at + interval '25 milliseconds',
       CASE WHEN fence = id * 2 THEN 'failed' ELSE 'retried' END,
       '{"code": "backend_busy", "detail": "the backend is busy", "retryable": true}'::jsonb
FROM past, LATERAL (VALUES (id * 2 - 1), (id * 2)) AS tried (fence)
WHERE retried AND (fence < id * 2 OR failed)
"""

_VOLUMES = """
INSERT INTO volumes
    (id, backend_id, name, requested_bytes, size_bytes, state, metadata, created_by_job,
     created_at, changed_at, removed_at)
SELECT volume_id,
       backend_id,
       volume,
       2147483648, 2147483648, 'removed', '{"owner": "tenant"}'::jsonb, id,
       created_at, created_at + interval '1 minute', created_at + interval '1 minute'
FROM past
WHERE step = 1
ORDER BY id
"""

# Ten jobs at a time were submitted, begun and ended: three commits.
_EVENTS = """
INSERT INTO events
    (commit_id, seq, at, kind, backend, volume, volume_id, job_id, actor, reason, data)
SELECT commit_id,
       row_number() OVER (PARTITION BY commit_id ORDER BY id, place),
       created_at + place * interval '5 milliseconds',
       kind, backend, volume, volume_id, id,
       'tenant' || mod(v, 50),
       CASE WHEN mod(v, 10) = 0 THEN 'ticket ' || v END,
       CASE
           WHEN kind = 'job.submitted'
               THEN jsonb_build_object('action', action, 'params', '{"wipe": false}'::jsonb)
           WHEN kind IN ('job.started', 'job.succeeded', 'job.retried')
               THEN jsonb_build_object('attempt', place / 2 + 1)
           WHEN kind = 'job.failed'
               THEN '{"attempt": 2, "error": {"code": "backend_error"}}'::jsonb
           ELSE jsonb_build_object('text', 'changed volume ' || volume,
                'before', '{"size_bytes": 1073741824}'::jsonb,
                'after', '{"size_bytes": 2147483648}'::jsonb)
       END
FROM past, LATERAL unnest(
    CASE
        WHEN failed THEN ARRAY['job.submitted', 'job.started', 'job.retried', 'job.started',
                               'job.failed']
        WHEN retried THEN ARRAY['job.submitted', 'job.started', 'job.retried', 'job.started',
                                action, 'job.succeeded']
        ELSE ARRAY['job.submitted', 'job.started', action, 'job.succeeded']
    END
) WITH ORDINALITY AS happened (kind, place),
LATERAL (SELECT %(last)s + (id - 1) / 10 * 3 + least(place, 3)) AS written (commit_id)
"""

_COMMITS = """
INSERT INTO event_commits (id, events, base)
SELECT commit_id,
       count(*),
       %(number)s + sum(count(*)) OVER (ORDER BY commit_id) - count(*)
FROM events
WHERE commit_id > %(last)s
GROUP BY commit_id
"""

_SEQUENCES = {
    "jobs_numbers": "SELECT coalesce(max(id), 1) FROM jobs",
    "batches_numbers": "SELECT coalesce(max(id), 1) FROM batches",
    "fences_numbers": "SELECT coalesce(max(fence), 1) FROM jobs",
    "commits_numbers": "SELECT coalesce(max(id), 1) FROM event_commits",
}


def write(url: str, jobs: int) -> int:
    """Write a past of so many jobs into a database that has none yet; how many events it has.

    The product must have been there, for its tables and backends, and be gone.
    """
    with connect(url) as connection:
        connection.execute(_PAST, {**_SHAPE, "jobs": jobs})
        # What the first start has written comes after the past from now on, as is right.
        for statement in (_BATCHES, _JOBS, _STEPS, _ATTEMPTS, _VOLUMES):
            connection.execute(statement)
        last = {
            "last": one(connection, "SELECT coalesce(max(id), 0) FROM event_commits"),
            "number": one(connection, "SELECT coalesce(max(base + events), 0) FROM event_commits"),
        }
        indexes = drop_indexes(connection, "events")
        connection.execute(_EVENTS, last)
        for definition in indexes:
            connection.execute(definition)
        connection.execute(_COMMITS, last)
        for sequence, newest in _SEQUENCES.items():
            connection.execute(f"SELECT setval('{sequence}', ({newest}))")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        return one(connection, "SELECT max(base + events) FROM event_commits") - last["number"]
