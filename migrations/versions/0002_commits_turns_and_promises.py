"""Events are numbered by commit, jobs take turns, promises are kept as a sum"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId, Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNUSUAL = sa.text("kind NOT IN ('job.submitted', 'job.started', 'job.succeeded')")
_UNNUMBERED = sa.text("base IS NULL")
_QUEUED = sa.text("state = 'queued'")
_UNFINISHED = sa.text("finished_at IS NULL")
_UNSUCCESSFUL = sa.text("state IN ('failed', 'canceled')")
_PROMISED = sa.text("state IN ('available', 'restricted', 'error')")

_ABOUT = "at, kind, backend, volume, volume_id, snapshot, job_id, actor, reason, data"


def upgrade() -> None:
    """Bring the schema to this revision."""
    _number_by_commit()
    _take_turns()
    _keep_promises()


def _number_by_commit() -> None:
    op.create_table(
        "event_commits",
        sa.Column("id", BigId, autoincrement=False, nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("base", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("events > 0", name=op.f("ck_event_commits_events")),
        sa.PrimaryKeyConstraint("id", name="pk_event_commits"),
        sa.UniqueConstraint("base", name="uq_event_commits_base"),
    )
    op.create_index(
        "ix_event_commits_unnumbered",
        "event_commits",
        ["id"],
        sqlite_where=_UNNUMBERED,
        postgresql_where=_UNNUMBERED,
    )
    # What has its number becomes one commit, what has none yet another.
    op.execute(
        "INSERT INTO event_commits (id, events, base)"
        " SELECT 1, max(number) - min(number) + 1, min(number) - 1 FROM events"
        " WHERE number IS NOT NULL HAVING count(*) > 0"
    )
    op.execute(
        "INSERT INTO event_commits (id, events)"
        " SELECT 2, count(*) FROM events WHERE number IS NULL HAVING count(*) > 0"
    )
    op.rename_table("events", "old_events")
    for name in ("ix_events_job_id", "ix_events_unnumbered", "ix_events_volume"):
        op.drop_index(name, table_name="old_events")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE old_events DROP CONSTRAINT pk_events")
    op.create_table(
        "events",
        sa.Column("commit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
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
        sa.PrimaryKeyConstraint("commit_id", "seq", name="pk_events"),
    )
    op.execute(
        f"INSERT INTO events (commit_id, seq, {_ABOUT})"  # noqa: S608 - our own columns
        f" SELECT 1, number - (SELECT base FROM event_commits WHERE id = 1), {_ABOUT}"
        " FROM old_events WHERE number IS NOT NULL"
    )
    op.execute(
        f"INSERT INTO events (commit_id, seq, {_ABOUT})"  # noqa: S608 - our own columns
        f" SELECT 2, row_number() OVER (ORDER BY id), {_ABOUT}"
        " FROM old_events WHERE number IS NULL"
    )
    op.drop_table("old_events")
    op.create_index("ix_events_job_id", "events", ["job_id"])
    op.create_index("ix_events_volume", "events", ["backend", "volume", "commit_id"])
    op.create_index(
        "ix_events_kind",
        "events",
        ["kind", "commit_id"],
        sqlite_where=_UNUSUAL,
        postgresql_where=_UNUSUAL,
    )
    _rename_numbers("events", "commits", above=2)


def _rename_numbers(old: str, new: str, *, above: int) -> None:
    """Draw another kind of numbers from where one kind was drawn."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER SEQUENCE {old}_numbers RENAME TO {new}_numbers")
        op.execute(f"SELECT setval('{new}_numbers', {above} + nextval('{new}_numbers'))")
    else:
        op.execute(f"UPDATE counters SET name = '{new}', value = value + {above} "  # noqa: S608
                   f"WHERE name = '{old}'")  # fmt: skip
        op.execute(f"INSERT INTO counters (name, value) VALUES ('{new}', {above}) "  # noqa: S608
                   "ON CONFLICT (name) DO NOTHING")  # fmt: skip


def _take_turns() -> None:
    op.add_column(
        "jobs", sa.Column("turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("backends", sa.Column("max_jobs", sa.Integer(), nullable=True))
    for name in ("ix_jobs_queued", "ix_jobs_unfinished", "ix_jobs_state"):
        op.drop_index(name, table_name="jobs")
    for name, columns, where in (
        ("ix_jobs_queued", ["queue", "priority", "turn", "id"], _QUEUED),
        ("ix_jobs_unfinished", ["id"], _UNFINISHED),
        ("ix_jobs_unsuccessful", ["id"], _UNSUCCESSFUL),
        ("ix_jobs_action", ["action", "id"], None),
        ("ix_jobs_submitted_by", ["submitted_by", "id"], None),
        ("ix_jobs_host", ["host", "id"], sa.text("host IS NOT NULL")),
        ("ix_jobs_snapshot", ["snapshot", "id"], sa.text("snapshot IS NOT NULL")),
    ):
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)


def _keep_promises() -> None:
    op.create_table(
        "promises",
        sa.Column("backend_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("promised_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name="fk_promises_backend_id_backends"
        ),
        sa.PrimaryKeyConstraint("backend_id", name="pk_promises"),
    )
    op.execute(
        "INSERT INTO promises (backend_id, promised_bytes) SELECT b.id,"
        " (SELECT coalesce(sum(v.size_bytes), 0) FROM volumes v WHERE v.backend_id = b.id"
        "  AND v.state IN ('available', 'restricted', 'error'))"
        " + (SELECT coalesce(sum(j.promised_bytes), 0) FROM jobs j WHERE j.backend_id = b.id"
        "    AND j.finished_at IS NULL)"
        " FROM backends b"
    )
    op.drop_index("ix_volumes_promised", table_name="volumes")


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.create_index(
        "ix_volumes_promised",
        "volumes",
        ["backend_id", "size_bytes"],
        sqlite_where=_PROMISED,
        postgresql_where=_PROMISED,
    )
    op.drop_table("promises")
    for name in (
        *("ix_jobs_queued", "ix_jobs_unfinished", "ix_jobs_unsuccessful"),
        *("ix_jobs_action", "ix_jobs_submitted_by", "ix_jobs_host", "ix_jobs_snapshot"),
    ):
        op.drop_index(name, table_name="jobs")
    for name, columns, where in (
        ("ix_jobs_queued", ["queue", "priority", "id"], _QUEUED),
        ("ix_jobs_unfinished", ["id", "backend_id", "promised_bytes"], _UNFINISHED),
        ("ix_jobs_state", ["state", "id"], None),
    ):
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
    op.drop_column("jobs", "turn")
    op.drop_column("backends", "max_jobs")
    _number_by_event()


def _number_by_event() -> None:
    for name in ("ix_events_job_id", "ix_events_volume", "ix_events_kind"):
        op.drop_index(name, table_name="events")
    op.rename_table("events", "new_events")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE new_events DROP CONSTRAINT pk_events")
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
    op.execute(
        f"INSERT INTO events (id, number, {_ABOUT})"  # noqa: S608 - our own columns
        f" SELECT row_number() OVER (ORDER BY c.base IS NULL, c.base, c.id, e.seq),"
        f" c.base + e.seq, {_ABOUT}"
        " FROM new_events e JOIN event_commits c ON c.id = e.commit_id"
    )
    op.drop_table("new_events")
    op.drop_table("event_commits")
    op.create_index("ix_events_job_id", "events", ["job_id"])
    unnumbered = sa.text("number IS NULL")
    op.create_index(
        "ix_events_unnumbered",
        "events",
        ["id"],
        sqlite_where=unnumbered,
        postgresql_where=unnumbered,
    )
    op.create_index("ix_events_volume", "events", ["backend", "volume", "number"])
    _rename_numbers("commits", "events", above=0)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SELECT setval('events_numbers', (SELECT coalesce(max(id), 0) + 1 FROM events))")
    else:
        op.execute(
            "UPDATE counters SET value = (SELECT coalesce(max(id), 0) FROM events)"
            " WHERE name = 'events'"
        )
