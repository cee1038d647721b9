"""Versions of volumes, findings, schedules, quotas, approvals, archives of events"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId, Json, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KINDS = (
    "kind IN ('orphan', 'ghost', 'size', 'snapshot', 'policy', 'attachment', 'lock', 'metadata', "
    "'stuck', 'capacity')"
)

#: What a version keeps of a volume, besides its id.
_KEPT = (
    "backend_id",
    "name",
    "state",
    "requested_bytes",
    "size_bytes",
    "policy_id",
    "account",
    "metadata",
)

#: One statement of a group of jobs changes many volumes: those that become usable, of which there
#: are most, are written all at once. Others are done one by one: each finds its version by the
#: primary key, whatever size the tables had when a plan was made. Who changes a row by hand does
#: not set `changed_at`; a version never ends before it began.
_POSTGRESQL = [
    """
    CREATE FUNCTION keep_volume_versions() RETURNS trigger
    LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = on AS $$
    DECLARE
        changed record;
        latest volume_versions;
    BEGIN
        IF TG_OP = 'DELETE' THEN
            UPDATE volume_versions SET valid_to = greatest(clock_timestamp(), valid_from)
            WHERE volume_id = OLD.id AND valid_to IS NULL;
            RETURN NULL;
        END IF;
        IF TG_OP = 'INSERT' THEN
            SELECT * INTO latest FROM volume_versions
            WHERE volume_id = NEW.id ORDER BY version DESC LIMIT 1;
            INSERT INTO volume_versions (volume_id, version, {kept}, valid_from)
            VALUES (NEW.id, coalesce(latest.version, 0) + 1, {new},
                greatest(NEW.changed_at, latest.valid_to));
            RETURN NULL;
        END IF;
        IF NOT EXISTS (SELECT FROM older WHERE state <> 'pending') THEN
            INSERT INTO volume_versions (volume_id, version, {kept}, valid_from)
            SELECT id, coalesce(
                    (SELECT max(version) FROM volume_versions WHERE volume_id = newer.id), 0) + 1,
                {kept},
                greatest(
                    (SELECT max(valid_to) FROM volume_versions WHERE volume_id = newer.id),
                    CASE WHEN changed_at > created_at THEN changed_at ELSE clock_timestamp() END)
            FROM newer WHERE state NOT IN ('pending', 'removed');
            RETURN NULL;
        END IF;
        FOR changed IN
            SELECT newer.*, CASE WHEN newer.changed_at > older.changed_at THEN newer.changed_at
                ELSE clock_timestamp() END AS moment
            FROM newer JOIN older ON older.id = newer.id
            WHERE ({newer}) IS DISTINCT FROM ({older})
        LOOP
            SELECT * INTO latest FROM volume_versions
            WHERE volume_id = changed.id ORDER BY version DESC LIMIT 1;
            changed.moment := greatest(changed.moment, latest.valid_from, latest.valid_to);
            UPDATE volume_versions SET valid_to = changed.moment
            WHERE volume_id = changed.id AND version = latest.version AND valid_to IS NULL;
            IF changed.state NOT IN ('pending', 'removed') THEN
                INSERT INTO volume_versions (volume_id, version, {kept}, valid_from)
                VALUES (changed.id, coalesce(latest.version, 0) + 1, {changed}, changed.moment);
            END IF;
        END LOOP;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER volume_versions_insert AFTER INSERT ON volumes FOR EACH ROW
    WHEN (NEW.state NOT IN ('pending', 'removed')) EXECUTE FUNCTION keep_volume_versions()
    """,
    """
    CREATE TRIGGER volume_versions_update AFTER UPDATE ON volumes
    REFERENCING OLD TABLE AS older NEW TABLE AS newer
    FOR EACH STATEMENT EXECUTE FUNCTION keep_volume_versions()
    """,
    """
    CREATE TRIGGER volume_versions_delete AFTER DELETE ON volumes FOR EACH ROW
    EXECUTE FUNCTION keep_volume_versions()
    """,
]
_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_SQLITE_AT = f"CASE WHEN new.changed_at > old.changed_at THEN new.changed_at ELSE {_SQLITE_NOW} END"
#: The next version of a volume begins when the one before it ended, if not later.
_SQLITE_NEXT = """
        INSERT INTO volume_versions (volume_id, version, {{kept}}, valid_from)
        SELECT new.id,
            1 + coalesce((SELECT max(version) FROM volume_versions WHERE volume_id = new.id), 0),
            {{new}},
            max({at}, coalesce(
                (SELECT max(valid_to) FROM volume_versions WHERE volume_id = new.id), ''))
        WHERE new.state NOT IN ('pending', 'removed');
"""
_SQLITE = [
    f"""
    CREATE TRIGGER volume_versions_insert AFTER INSERT ON volumes
    WHEN new.state NOT IN ('pending', 'removed')
    BEGIN
        UPDATE volume_versions SET valid_to = max(valid_from, {{now}})
        WHERE volume_id = new.id AND valid_to IS NULL;
        {_SQLITE_NEXT.format(at="new.changed_at")}
    END
    """,  # noqa: S608
    f"""
    CREATE TRIGGER volume_versions_update AFTER UPDATE OF {{kept}} ON volumes
    WHEN {{differs}}
    BEGIN
        UPDATE volume_versions SET valid_to = max(valid_from, {{at}})
        WHERE volume_id = new.id AND valid_to IS NULL;
        {_SQLITE_NEXT.format(at="{at}")}
    END
    """,  # noqa: S608
    """
    CREATE TRIGGER volume_versions_delete AFTER DELETE ON volumes
    BEGIN
        UPDATE volume_versions SET valid_to = max(valid_from, {now})
        WHERE volume_id = old.id AND valid_to IS NULL;
    END
    """,
]


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool) -> None:
    condition = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition
    )


def _of(row: str) -> str:
    return ", ".join(f"{row}.{column}" for column in _KEPT)


def _make_triggers() -> None:
    kept = ", ".join(_KEPT)
    if op.get_bind().dialect.name == "postgresql":
        for statement in _POSTGRESQL:
            # As it is: `:=` in it is PostgreSQL's.
            op.get_bind().exec_driver_sql(
                statement.format(
                    kept=kept, **{row: _of(row) for row in ("new", "newer", "older", "changed")}
                )
            )
        return
    differs = " OR ".join(f"old.{column} IS NOT new.{column}" for column in _KEPT)
    for statement in _SQLITE:
        # As it is: `%f` and `:` in it are SQLite's.
        op.get_bind().exec_driver_sql(
            statement.format(
                kept=kept, new=_of("new"), differs=differs, at=_SQLITE_AT, now=_SQLITE_NOW
            )
        )


def _fill() -> None:
    """Begin with what there is: whose it is, and a first version of each volume."""
    op.execute(
        sa.text(
            "UPDATE volumes SET account = coalesce("
            "(SELECT submitted_by FROM jobs WHERE jobs.id = volumes.created_by_job),"
            "(SELECT actor FROM events WHERE events.job_id = volumes.created_by_job LIMIT 1))"
        )
    )
    op.execute(sa.text("UPDATE jobs SET account = submitted_by WHERE finished_at IS NULL"))
    kept = ", ".join(_KEPT)
    op.execute(
        sa.text(
            f"INSERT INTO volume_versions (volume_id, version, {kept}, valid_from) "  # noqa: S608
            f"SELECT id, 1, {kept}, created_at FROM volumes "
            "WHERE state NOT IN ('pending', 'removed')"
        )
    )


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("installation", sa.Column("restored_at", UtcDateTime, nullable=True))
    op.add_column("tokens", sa.Column("project", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("account", sa.String(64), nullable=True))
    op.add_column("volumes", sa.Column("account", sa.String(64), nullable=True))
    _partial(
        "ix_volumes_account",
        "volumes",
        ["account", "backend_id"],
        "state <> 'removed'",
        unique=False,
    )
    op.create_table(
        "volume_versions",
        sa.Column("volume_id", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_bytes", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.Integer(), nullable=True),
        sa.Column("account", sa.String(64), nullable=True),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("valid_from", UtcDateTime, nullable=False),
        sa.Column("valid_to", UtcDateTime, nullable=True),
        sa.PrimaryKeyConstraint("volume_id", "version", name=op.f("pk_volume_versions")),
    )
    op.create_index(
        "ix_volume_versions_name", "volume_versions", ["backend_id", "name", "valid_from"]
    )
    _fill()
    _make_triggers()
    _create_job_tables()
    _create_audit_tables()
    _create_schedule_tables()


def _create_job_tables() -> None:
    op.create_table(
        "job_approvals",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("approved_by", sa.String(64), nullable=True),
        sa.Column("approved_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "(approved_by IS NULL) = (approved_at IS NULL)",
            name=op.f("ck_job_approvals_approved"),
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_approvals_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_approvals")),
    )
    op.create_table(
        "quotas",
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_volumes", sa.Integer(), nullable=True),
        sa.Column("max_snapshots", sa.Integer(), nullable=True),
        sa.Column("set_by", sa.String(64), nullable=False),
        sa.Column("set_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_quotas_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("account", "backend_id", name=op.f("pk_quotas")),
    )


def _create_audit_tables() -> None:
    op.create_table(
        "event_archives",
        sa.Column("base", BigId, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("link_before", sa.LargeBinary(), nullable=False),
        sa.Column("link_after", sa.LargeBinary(), nullable=False),
        sa.Column("archived_at", UtcDateTime, nullable=False),
        sa.Column("deleted_at", UtcDateTime, nullable=True),
        sa.CheckConstraint("last > base", name=op.f("ck_event_archives_events")),
        sa.PrimaryKeyConstraint("base", name=op.f("pk_event_archives")),
    )
    op.create_table(
        "findings",
        sa.Column("id", BigId, nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(600), nullable=False),
        sa.Column("volume", sa.String(255), nullable=True),
        sa.Column("volume_id", sa.String(32), nullable=True),
        sa.Column("snapshot", sa.String(255), nullable=True),
        sa.Column("policy", sa.String(255), nullable=True),
        sa.Column("host", sa.String(253), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("detail", Json, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("first_seen_at", UtcDateTime, nullable=False),
        sa.Column("last_seen_at", UtcDateTime, nullable=False),
        sa.Column("last_seen_by", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", UtcDateTime, nullable=True),
        sa.Column("repair_job", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(_KINDS, name=op.f("ck_findings_kind")),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_findings_state")),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL)", name=op.f("ck_findings_closed")
        ),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_findings_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
    )
    _partial(
        "uq_findings_open",
        "findings",
        ["backend_id", "kind", "subject"],
        "state = 'open'",
        unique=True,
    )
    op.create_index("ix_findings_backend_id", "findings", ["backend_id", "id"])
    op.create_table(
        "audits",
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("recorded", sa.Integer(), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_audits_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("backend_id", name=op.f("pk_audits")),
    )


def _create_schedule_tables() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("cron", sa.String(128), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=True),
        sa.Column("volumes", Json, nullable=True),
        sa.Column("params", Json, nullable=False),
        sa.Column("keep", Json, nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("next_at", UtcDateTime, nullable=False),
        sa.Column("last_due_at", UtcDateTime, nullable=True),
        sa.Column("last_run_at", UtcDateTime, nullable=True),
        sa.Column("last_result", Json, nullable=True),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_schedules_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
        sqlite_autoincrement=True,
    )
    _partial("ix_schedules_next_at", "schedules", ["next_at"], "enabled", unique=False)
    op.create_table(
        "schedule_jobs",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("schedule_id", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_schedule_jobs")),
    )
    op.create_index("ix_schedule_jobs_schedule_id", "schedule_jobs", ["schedule_id", "due_at"])
    op.create_table(
        "capacity_days",
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("free_bytes", sa.BigInteger(), nullable=True),
        sa.Column("promised_bytes", sa.BigInteger(), nullable=False),
        sa.Column("volumes", sa.Integer(), nullable=False),
        sa.Column("volume_bytes", sa.BigInteger(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("snapshots", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_capacity_days_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("backend_id", "day", name=op.f("pk_capacity_days")),
    )


def downgrade() -> None:
    """Go back to the revision before; findings, quotas, schedules and versions are lost."""
    for kind in ("insert", "update", "delete"):
        on = " ON volumes" if op.get_bind().dialect.name == "postgresql" else ""
        op.execute(sa.text(f"DROP TRIGGER volume_versions_{kind}{on}"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text("DROP FUNCTION keep_volume_versions()"))
    for table in (
        "capacity_days",
        "schedule_jobs",
        "schedules",
        "audits",
        "findings",
        "event_archives",
        "quotas",
        "job_approvals",
        "volume_versions",
    ):
        op.drop_table(table)
    op.drop_index("ix_volumes_account", "volumes")
    op.drop_column("volumes", "account")
    op.drop_column("jobs", "account")
    op.drop_column("tokens", "project")
    op.drop_column("installation", "restored_at")
