"""Views for audits: stable names and columns, whatever becomes of the tables

A later migration that changes a column of a view, or on SQLite copies a table that one reads,
drops the views first and makes them again.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: As the partial index on the kinds of events says it: SQLite takes the index for nothing else.
_UNUSUAL = "kind NOT IN ('job.submitted', 'job.started', 'job.succeeded')"

#: How each database reads JSON, and the seconds between two times.
_DIALECTS = {
    "postgresql": {
        "text": "events.data ->> 'text'",
        "asked": "events.data ->> 'action'",
        "error": "events.data #>> '{error,detail}'",
        "owner_after": "events.data #>> '{after,owner}'",
        "owner_before": "events.data #>> '{before,owner}'",
        "code": "jobs.error ->> 'code'",
        "detail": "jobs.error ->> 'detail'",
        "seconds": "CAST(extract(epoch FROM %(until)s - %(since)s) AS double precision)",
    },
    "sqlite": {
        "text": "json_extract(events.data, '$.text')",
        "asked": "json_extract(events.data, '$.action')",
        "error": "json_extract(events.data, '$.error.detail')",
        "owner_after": "json_extract(events.data, '$.after.owner')",
        "owner_before": "json_extract(events.data, '$.before.owner')",
        "code": "json_extract(jobs.error, '$.code')",
        "detail": "json_extract(jobs.error, '$.detail')",
        # Whole seconds and what stands behind them apart: days as fractions are not exact.
        "seconds": (
            "round(strftime('%%s', substr(%(until)s, 1, 19))"
            " - strftime('%%s', substr(%(since)s, 1, 19))"
            " + substr(%(until)s, 20) - substr(%(since)s, 20), 6)"
        ),
    },
}

#: Names of backends are joined outwards, though each is there: where nothing asks for a backend,
#: SQLite begins with the jobs then, and not with all jobs of each backend.
_VIEWS = {
    "audit_volume_history": """
SELECT backends.name AS backend, version.name AS volume, version.volume_id, version.version,
    version.state, version.size_bytes, version.requested_bytes, policies.name AS policy,
    version.account, version.metadata, version.valid_from, version.valid_to
FROM volume_versions AS version
LEFT JOIN backends ON backends.id = version.backend_id
LEFT JOIN policies ON policies.id = version.policy_id
""",
    # Parameters and results are left out: what people give to jobs may be meant for them alone.
    "audit_jobs": """
SELECT jobs.id AS job_id, jobs.action, backends.name AS backend, jobs.volume, jobs.volume_id,
    jobs.snapshot, jobs.policy, jobs.host, jobs.state, jobs.submitted_by, jobs.account,
    jobs.reason, jobs.batch_id, jobs.retry_of, jobs.priority, jobs.attempt, jobs.max_attempts,
    jobs.worker, {code} AS error_code, {detail} AS error_detail, jobs.run_at, jobs.created_at,
    jobs.started_at, jobs.finished_at, {waited} AS waited_seconds, {lasted} AS duration_seconds
FROM jobs
LEFT JOIN backends ON backends.id = jobs.backend_id
""",
    # A lock ends with what is heard next of its volume, or with the volume. One that was taken
    # again unheard had run out. Volumes are looked up only where nothing was heard.
    "audit_locks": """
WITH heard AS (
    SELECT events.commit_id, events.at, events.kind, events.backend, events.volume,
        events.volume_id, events.actor, events.reason, {owner_after} AS owner,
        lead(events.kind) OVER later AS end_kind, lead(events.at) OVER later AS end_at,
        lead(events.actor) OVER later AS end_actor, lead(events.reason) OVER later AS end_reason
    FROM events
    WHERE events.kind IN ('lock.taken', 'lock.released', 'lock.broken', 'lock.expired')
        AND events.{unusual}
    WINDOW later AS (PARTITION BY events.volume_id ORDER BY events.commit_id, events.seq)
)
SELECT heard.backend, heard.volume, heard.volume_id, heard.owner, heard.actor AS taken_by,
    heard.at AS taken_at, heard.reason,
    CASE
        WHEN heard.end_kind = 'lock.released' THEN 'released'
        WHEN heard.end_kind = 'lock.broken' THEN 'broken'
        WHEN heard.end_kind IS NOT NULL THEN 'expired'
        WHEN locks.volume_id IS NOT NULL THEN 'held'
        WHEN volumes.removed_at IS NOT NULL THEN 'removed'
        ELSE 'unknown'
    END AS ended,
    coalesce(heard.end_at, volumes.removed_at) AS released_at,
    CASE
        WHEN heard.end_kind IN ('lock.taken', 'lock.expired') THEN 'orchestrator'
        WHEN heard.end_kind IS NOT NULL THEN heard.end_actor
        WHEN volumes.removed_at IS NOT NULL THEN (SELECT actor {removal})
    END AS ended_by,
    CASE
        WHEN heard.end_kind IN ('lock.released', 'lock.broken') THEN heard.end_reason
        WHEN heard.end_kind IS NULL AND volumes.removed_at IS NOT NULL
            THEN (SELECT reason {removal})
    END AS end_reason,
    locks.expires_at
FROM heard
LEFT JOIN locks ON locks.volume_id = heard.volume_id AND locks.taken_at = heard.at
    AND heard.end_kind IS NULL
LEFT JOIN volumes
    ON volumes.id = CASE WHEN heard.end_kind IS NULL THEN heard.volume_id END
WHERE heard.kind = 'lock.taken'
UNION ALL
SELECT backends.name, volumes.name, locks.volume_id, locks.owner, locks.taken_by, locks.taken_at,
    locks.reason, 'held', NULL, NULL, NULL, locks.expires_at
FROM locks
JOIN volumes ON volumes.id = locks.volume_id
JOIN backends ON backends.id = volumes.backend_id
WHERE (locks.volume_id, locks.taken_at) NOT IN (
    SELECT events.volume_id, events.at FROM events
    WHERE events.kind = 'lock.taken' AND events.{unusual} AND events.volume_id IS NOT NULL
)
""",
    "audit_capacity_daily": """
SELECT backends.name AS backend, kept.day, kept.at, kept.total_bytes, kept.free_bytes,
    kept.promised_bytes, kept.volumes, kept.volume_bytes, kept.used_bytes, kept.snapshots
FROM capacity_days AS kept
JOIN backends ON backends.id = kept.backend_id
""",
    # The numbers of commits and places are those of the table's indexes: they sort quickly.
    "audit_who": """
SELECT event_commits.base + events.seq AS number, events.commit_id, events.seq, events.at,
    events.actor, events.kind, events.backend, events.volume, events.volume_id, events.snapshot,
    events.policy, events.job_id, events.reason,
    CASE
        WHEN events.kind = 'job.submitted' THEN 'submitted ' || ({asked})
        WHEN events.kind IN ('lock.taken', 'lock.renewed')
            THEN replace(events.kind, '.', ' ') || ' for ' || ({owner_after})
        WHEN events.kind IN ('lock.released', 'lock.broken', 'lock.expired')
            THEN replace(events.kind, '.', ' ') || ' of ' || ({owner_before})
        ELSE coalesce({text}, {error}, replace(events.kind, '.', ' '))
    END AS what
FROM events
JOIN event_commits ON event_commits.id = events.commit_id
""",
}

#: The event with which a volume went that was locked.
_REMOVAL = f"""
            FROM events AS gone
            WHERE gone.backend = heard.backend AND gone.volume = volumes.name
                AND gone.volume_id = heard.volume_id AND gone.commit_id > heard.commit_id
                AND gone.kind IN ('volume.remove', 'volume.purge', 'volume.forget')
                AND gone.{_UNUSUAL}
            ORDER BY gone.commit_id LIMIT 1"""


def upgrade() -> None:
    """Bring the schema to this revision."""
    connection = op.get_bind()
    parts = dict(_DIALECTS[connection.dialect.name])
    seconds = parts.pop("seconds")
    parts["waited"] = seconds % {"since": "jobs.created_at", "until": "jobs.started_at"}
    parts["lasted"] = seconds % {"since": "jobs.started_at", "until": "jobs.finished_at"}
    for name, query in _VIEWS.items():
        filled = query.format(**parts, unusual=_UNUSUAL, removal=_REMOVAL)
        # As it is: `:` and `%` in it are the database's own.
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {filled}")


def downgrade() -> None:
    """Go back to the revision before."""
    for name in reversed(_VIEWS):
        op.get_bind().exec_driver_sql(f"DROP VIEW {name}")
