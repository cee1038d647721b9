"""The first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId, Json, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


#: Where PostgreSQL draws numbers from; SQLite uses the table ``counters``.
SEQUENCES = ("jobs_numbers", "batches_numbers", "fences_numbers", "events_numbers")


def upgrade() -> None:
    """Bring the schema to this revision."""
    if op.get_bind().dialect.name == "postgresql":
        for name in SEQUENCES:
            op.execute(sa.schema.CreateSequence(sa.Sequence(name)))
    op.create_table(
        "backends",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("driver", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="enabled", nullable=False),
        sa.Column("configured", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("capabilities", Json, nullable=True),
        sa.Column("identity", sa.String(length=32), nullable=True),
        sa.Column(
            "identity_written", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("free_bytes", sa.BigInteger(), nullable=True),
        sa.Column("grain_bytes", sa.BigInteger(), nullable=True),
        sa.Column("overcommit", sa.Float(), server_default=sa.text("1.0"), nullable=False),
        sa.Column("hosts", Json, nullable=True),
        sa.Column("error", Json, nullable=True),
        sa.Column("refreshed_at", UtcDateTime, nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.CheckConstraint(
            "state IN ('enabled', 'draining', 'disabled')", name=op.f("ck_backends_state")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_backends"),
        sa.UniqueConstraint("name", name="uq_backends_name"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("submitted_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("succeeded", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("canceled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (succeeded + failed + canceled = total)",
            name=op.f("ck_batches_finished"),
        ),
        sa.CheckConstraint(
            "succeeded + failed + canceled <= total", name=op.f("ck_batches_counts")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "events",
        sa.Column("id", BigId, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("backend", sa.String(length=63), nullable=True),
        sa.Column("volume", sa.String(length=255), nullable=True),
        sa.Column("volume_id", sa.String(length=32), nullable=True),
        sa.Column("snapshot", sa.String(length=255), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("data", Json, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("number", name="uq_events_number"),
    )
    op.create_index("ix_events_job_id", "events", ["job_id"], unique=False)
    op.create_index(
        "ix_events_unnumbered",
        "events",
        ["id"],
        unique=False,
        sqlite_where=sa.text("number IS NULL"),
        postgresql_where=sa.text("number IS NULL"),
    )
    op.create_index("ix_events_volume", "events", ["backend", "volume", "number"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.CheckConstraint(
            "(job_id IS NULL) <> (batch_id IS NULL)", name=op.f("ck_idempotency_keys_answer")
        ),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    )
    op.create_index(
        "ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_single")),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=True),
        sa.Column("revoked_at", UtcDateTime, nullable=True),
        sa.CheckConstraint("role IN ('reader', 'operator', 'admin')", name=op.f("ck_tokens_role")),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_index(
        "uq_tokens_live_name",
        "tokens",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("queues", Json, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_index("ix_workers_host", "workers", ["host"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", BigId, autoincrement=False, nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("volume", sa.String(length=255), nullable=True),
        sa.Column("snapshot", sa.String(length=255), nullable=True),
        sa.Column("policy", sa.String(length=255), nullable=True),
        sa.Column("host", sa.String(length=253), nullable=True),
        sa.Column("params", Json, nullable=False),
        sa.Column("volume_id", sa.String(length=32), nullable=True),
        sa.Column("snapshot_id", sa.String(length=32), nullable=True),
        sa.Column("source_id", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("queue", sa.String(length=300), nullable=False),
        sa.Column("after", sa.String(length=8), server_default="success", nullable=False),
        sa.Column("cost", sa.SmallInteger(), nullable=False),
        sa.Column("promised_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("begun", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("claims", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("outcome_fence", sa.BigInteger(), nullable=True),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("lease_expires_at", UtcDateTime, nullable=True),
        sa.Column("run_at", UtcDateTime, nullable=True),
        sa.Column("not_before", UtcDateTime, nullable=True),
        sa.Column("cancel_requested_at", UtcDateTime, nullable=True),
        sa.Column("progress", Json, nullable=True),
        sa.Column("result", Json, nullable=True),
        sa.Column("error", Json, nullable=True),
        sa.Column("submitted_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("ref", sa.String(length=64), nullable=True),
        sa.Column("retry_of", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("queued_at", UtcDateTime, nullable=True),
        sa.Column("started_at", UtcDateTime, nullable=True),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'canceled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished"),
        ),
        sa.CheckConstraint(
            "state <> 'running' OR (begun AND fence IS NOT NULL AND worker IS NOT NULL"
            " AND lease_expires_at IS NOT NULL)",
            name=op.f("ck_jobs_leased"),
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'canceled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('succeeded', 'failed')"
            " OR (outcome_fence IS NOT NULL AND outcome_fence = fence)",
            name=op.f("ck_jobs_fenced"),
        ),
        sa.CheckConstraint("priority BETWEEN -20 AND 19", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name="fk_jobs_backend_id_backends"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id_batches"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["batch_id", "id"],
        unique=False,
        sqlite_where=sa.text("batch_id IS NOT NULL"),
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["not_before"],
        unique=False,
        sqlite_where=sa.text("state = 'waiting' AND not_before IS NOT NULL"),
        postgresql_where=sa.text("state = 'waiting' AND not_before IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_leases",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["queue", "priority", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "id"], unique=False)
    op.create_index("ix_jobs_target", "jobs", ["backend_id", "volume", "id"], unique=False)
    op.create_index(
        "ix_jobs_unfinished",
        "jobs",
        ["id", "backend_id", "promised_bytes"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("rules", Json, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name="fk_policies_backend_id_backends"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
        sa.UniqueConstraint("backend_id", "name", name="uq_policies_backend_id_name"),
    )
    op.create_table(
        "job_attempts",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("fence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("ended_at", UtcDateTime, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_attempts_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "fence", name="pk_job_attempts"),
    )
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("depends_on", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.CheckConstraint("job_id <> depends_on", name=op.f("ck_job_dependencies_not_itself")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_dependencies_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "depends_on", name="pk_job_dependencies"),
    )
    op.create_index(
        "ix_job_dependencies_depends_on", "job_dependencies", ["depends_on"], unique=False
    )
    op.create_table(
        "job_lanes",
        sa.Column("lane", sa.String(length=330), nullable=False),
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("begun", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_lanes_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("lane", "job_id", name="pk_job_lanes"),
    )
    op.create_index("ix_job_lanes_job_id", "job_lanes", ["job_id"], unique=False)
    op.create_index(
        "uq_job_lanes_begun",
        "job_lanes",
        ["lane"],
        unique=True,
        sqlite_where=sa.text("begun"),
        postgresql_where=sa.text("begun"),
    )
    op.create_table(
        "job_steps",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("detail", Json, nullable=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.CheckConstraint("state IN ('intended', 'done')", name=op.f("ck_job_steps_state")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_steps_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_steps"),
    )
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("requested_bytes", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("policy_id", sa.Integer(), nullable=True),
        sa.Column("parent_volume_id", sa.String(length=32), nullable=True),
        sa.Column("parent_snapshot_id", sa.String(length=32), nullable=True),
        sa.Column("created_by_job", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("removed_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "(state = 'removed') = (removed_at IS NOT NULL)", name=op.f("ck_volumes_removed")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'available', 'restricted', 'error', 'removed')",
            name=op.f("ck_volumes_state"),
        ),
        sa.CheckConstraint("size_bytes > 0 AND requested_bytes > 0", name=op.f("ck_volumes_size")),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name="fk_volumes_backend_id_backends"
        ),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["policies.id"], name="fk_volumes_policy_id_policies"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
    )
    op.create_index(
        "ix_volumes_promised",
        "volumes",
        ["backend_id", "size_bytes"],
        unique=False,
        sqlite_where=sa.text("state IN ('available', 'restricted', 'error')"),
        postgresql_where=sa.text("state IN ('available', 'restricted', 'error')"),
    )
    op.create_index(
        "uq_volumes_live_name",
        "volumes",
        ["backend_id", "name"],
        unique=True,
        sqlite_where=sa.text("state <> 'removed'"),
        postgresql_where=sa.text("state <> 'removed'"),
    )
    op.create_table(
        "attachments",
        sa.Column("volume_id", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("uris", Json, nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("opening", sa.String(length=16), nullable=True),
        sa.Column("attached_at", UtcDateTime, nullable=False),
        sa.CheckConstraint(
            "opening IS NULL OR opening IN ('shared', 'exclusive')",
            name=op.f("ck_attachments_opening"),
        ),
        sa.ForeignKeyConstraint(
            ["volume_id"], ["volumes.id"], name="fk_attachments_volume_id_volumes"
        ),
        sa.PrimaryKeyConstraint("volume_id", "host", name="pk_attachments"),
    )
    op.create_index(
        "uq_attachments_exclusive",
        "attachments",
        ["volume_id"],
        unique=True,
        sqlite_where=sa.text("opening = 'exclusive'"),
        postgresql_where=sa.text("opening = 'exclusive'"),
    )
    op.create_table(
        "locks",
        sa.Column("volume_id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=253), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("taken_by", sa.String(length=64), nullable=False),
        sa.Column("taken_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["volume_id"], ["volumes.id"], name="fk_locks_volume_id_volumes"),
        sa.PrimaryKeyConstraint("volume_id", name="pk_locks"),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("volume_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_by_job", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("removed_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "(state = 'removed') = (removed_at IS NOT NULL)", name=op.f("ck_snapshots_removed")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'available', 'error', 'removed')", name=op.f("ck_snapshots_state")
        ),
        sa.ForeignKeyConstraint(
            ["volume_id"], ["volumes.id"], name="fk_snapshots_volume_id_volumes"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
    )
    op.create_index(
        "uq_snapshots_live_name",
        "snapshots",
        ["volume_id", "name"],
        unique=True,
        sqlite_where=sa.text("state <> 'removed'"),
        postgresql_where=sa.text("state <> 'removed'"),
    )


def downgrade() -> None:
    """Take this revision back."""
    op.drop_index(
        "uq_snapshots_live_name",
        table_name="snapshots",
        sqlite_where=sa.text("state <> 'removed'"),
        postgresql_where=sa.text("state <> 'removed'"),
    )
    op.drop_table("snapshots")
    op.drop_table("locks")
    op.drop_index(
        "uq_attachments_exclusive",
        table_name="attachments",
        sqlite_where=sa.text("opening = 'exclusive'"),
        postgresql_where=sa.text("opening = 'exclusive'"),
    )
    op.drop_table("attachments")
    op.drop_index(
        "uq_volumes_live_name",
        table_name="volumes",
        sqlite_where=sa.text("state <> 'removed'"),
        postgresql_where=sa.text("state <> 'removed'"),
    )
    op.drop_index(
        "ix_volumes_promised",
        table_name="volumes",
        sqlite_where=sa.text("state IN ('available', 'restricted', 'error')"),
        postgresql_where=sa.text("state IN ('available', 'restricted', 'error')"),
    )
    op.drop_table("volumes")
    op.drop_table("job_steps")
    op.drop_index(
        "uq_job_lanes_begun",
        table_name="job_lanes",
        sqlite_where=sa.text("begun"),
        postgresql_where=sa.text("begun"),
    )
    op.drop_index("ix_job_lanes_job_id", table_name="job_lanes")
    op.drop_table("job_lanes")
    op.drop_index("ix_job_dependencies_depends_on", table_name="job_dependencies")
    op.drop_table("job_dependencies")
    op.drop_table("job_attempts")
    op.drop_table("policies")
    op.drop_index(
        "ix_jobs_unfinished",
        table_name="jobs",
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.drop_index("ix_jobs_target", table_name="jobs")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index(
        "ix_jobs_queued",
        table_name="jobs",
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.drop_index(
        "ix_jobs_leases",
        table_name="jobs",
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.drop_index(
        "ix_jobs_due",
        table_name="jobs",
        sqlite_where=sa.text("state = 'waiting' AND not_before IS NOT NULL"),
        postgresql_where=sa.text("state = 'waiting' AND not_before IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_batch",
        table_name="jobs",
        sqlite_where=sa.text("batch_id IS NOT NULL"),
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_table("jobs")
    op.drop_index("ix_workers_host", table_name="workers")
    op.drop_table("workers")
    op.drop_index(
        "uq_tokens_live_name",
        table_name="tokens",
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.drop_table("tokens")
    op.drop_table("installation")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_events_volume", table_name="events")
    op.drop_index(
        "ix_events_unnumbered",
        table_name="events",
        sqlite_where=sa.text("number IS NULL"),
        postgresql_where=sa.text("number IS NULL"),
    )
    op.drop_index("ix_events_job_id", table_name="events")
    op.drop_table("events")
    op.drop_table("counters")
    op.drop_table("batches")
    op.drop_table("backends")
    if op.get_bind().dialect.name == "postgresql":
        for name in SEQUENCES:
            op.execute(sa.schema.DropSequence(sa.Sequence(name)))
