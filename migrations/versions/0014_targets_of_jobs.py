"""What few jobs are about is rows, and no column of every job"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_POLICY = "policy IS NOT NULL"
#: What the view of jobs says of the policy, and what it said.
_OF_ROWS = (
    "(SELECT CAST(max(job_targets.name) AS varchar(255)) FROM job_targets"
    " WHERE job_targets.job_id = jobs.id AND job_targets.kind = 'policy')"
)
_OF_COLUMN = "jobs.policy"

_TO_ROWS = (
    """
INSERT INTO job_targets (job_id, place, role, kind, object_id, name)
SELECT id, 0,
    CASE WHEN action IN ('policy.assign', 'volume.create') THEN 'assigned' ELSE 'subject' END,
    'policy', policy_id, policy
FROM jobs WHERE policy IS NOT NULL""",
    """
INSERT INTO job_targets (job_id, place, role, kind, object_id, name)
SELECT id, 1, 'source', 'volume', source_id, {source}
FROM jobs WHERE source_id IS NOT NULL OR {source} IS NOT NULL""",
)
_TO_COLUMNS = (
    """
UPDATE jobs SET policy = found.name, policy_id = found.object_id
FROM (SELECT job_id, name, object_id FROM job_targets WHERE kind = 'policy') AS found
WHERE found.job_id = jobs.id""",
    """
UPDATE jobs SET source_id = found.object_id
FROM (SELECT job_id, object_id FROM job_targets WHERE kind = 'volume' AND role = 'source') AS found
WHERE found.job_id = jobs.id""",
)
#: How each database reads JSON, and the seconds between two times.
_DIALECTS = {
    "postgresql": {
        "source": "(params ->> 'source')",
        "code": "jobs.error ->> 'code'",
        "detail": "jobs.error ->> 'detail'",
        "seconds": "CAST(extract(epoch FROM %(until)s - %(since)s) AS double precision)",
    },
    "sqlite": {
        "source": "json_extract(params, '$.source')",
        "code": "json_extract(jobs.error, '$.code')",
        "detail": "json_extract(jobs.error, '$.detail')",
        "seconds": (
            "round(strftime('%%s', substr(%(until)s, 1, 19))"
            " - strftime('%%s', substr(%(since)s, 1, 19))"
            " + substr(%(until)s, 20) - substr(%(since)s, 20), 6)"
        ),
    },
}
_AUDIT_JOBS = """
SELECT jobs.id AS job_id, jobs.action, backends.name AS backend, jobs.volume, jobs.volume_id,
    jobs.snapshot, {policy} AS policy, jobs.host, jobs.state, jobs.submitted_by, jobs.account,
    jobs.reason, jobs.batch_id, jobs.retry_of, jobs.priority, jobs.attempt, jobs.max_attempts,
    jobs.worker, {code} AS error_code, {detail} AS error_detail, jobs.run_at, jobs.created_at,
    jobs.started_at, jobs.finished_at, {waited} AS waited_seconds, {lasted} AS duration_seconds
FROM jobs
LEFT JOIN backends ON backends.id = jobs.backend_id
"""


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "job_targets",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("object_id", sa.String(32), nullable=True),
        sa.Column("name", sa.String(255), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_targets_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "place", name="pk_job_targets"),
    )
    op.create_index("ix_job_targets_named", "job_targets", ["kind", "name", "job_id"])
    source = _DIALECTS[op.get_bind().dialect.name]["source"]
    for statement in _TO_ROWS:
        op.get_bind().exec_driver_sql(statement.format(source=source))
    _view(_OF_ROWS)
    op.drop_index("ix_jobs_policy", "jobs")
    for column in ("policy", "policy_id", "source_id"):
        op.drop_column("jobs", column)


def _view(policy: str) -> None:
    """Have the view of jobs read policies there; on PostgreSQL its readers may read it still."""
    connection = op.get_bind()
    parts = dict(_DIALECTS[connection.dialect.name])
    seconds = parts.pop("seconds")
    parts["waited"] = seconds % {"since": "jobs.created_at", "until": "jobs.started_at"}
    parts["lasted"] = seconds % {"since": "jobs.started_at", "until": "jobs.finished_at"}
    query = _AUDIT_JOBS.format(**parts, policy=policy)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP VIEW audit_jobs")
        connection.exec_driver_sql(f"CREATE VIEW audit_jobs AS {query}")
    else:
        connection.exec_driver_sql(f"CREATE OR REPLACE VIEW audit_jobs AS {query}")


def downgrade() -> None:
    """Go back to the revision before."""
    op.add_column("jobs", sa.Column("policy", sa.String(255), nullable=True))
    op.add_column("jobs", sa.Column("policy_id", sa.String(32), nullable=True))
    op.add_column("jobs", sa.Column("source_id", sa.String(32), nullable=True))
    for statement in _TO_COLUMNS:
        op.get_bind().exec_driver_sql(statement)
    condition = sa.text(_POLICY)
    op.create_index(
        "ix_jobs_policy",
        "jobs",
        ["backend_id", "policy", "id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    _view(_OF_COLUMN)
    op.drop_table("job_targets")
