"""Export policies are made and removed like volumes; volumes have settings"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import Json, UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_LIVE = "state <> 'removed'"
_MOUNTED = "state <> 'removed' AND junction_path IS NOT NULL"

_EXPORTED = "policy_id IS NOT NULL"


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _link(*, link: bool) -> None:
    """Let volumes refer to policies, or not: the table is made anew. SQLite goes by its name."""
    if op.get_bind().dialect.name == "sqlite":
        return
    name = "fk_volumes_policy_id_policies"
    if link:
        op.create_foreign_key(name, "volumes", "policies", ["policy_id"], ["id"])
    else:
        op.drop_constraint(name, "volumes", type_="foreignkey")


def upgrade() -> None:
    """Bring the schema to this revision."""
    # Nothing has ever been written there.
    _link(link=False)
    op.drop_table("policies")
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("rules", Json, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("native", sa.String(64), nullable=True),
        sa.Column("created_by_job", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("removed_at", UtcDateTime, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'available', 'error', 'removed')", name=op.f("ck_policies_state")
        ),
        sa.CheckConstraint(
            "(state = 'removed') = (removed_at IS NOT NULL)", name=op.f("ck_policies_removed")
        ),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_policies_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        sa.UniqueConstraint("uid", name=op.f("uq_policies_uid")),
    )
    _partial("uq_policies_live_name", "policies", ["backend_id", "name"], _LIVE, unique=True)
    _link(link=True)
    op.add_column(
        "volumes", sa.Column("settings", Json, nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column("volumes", sa.Column("junction_path", sa.String(255), nullable=True))
    op.add_column(
        "volumes",
        sa.Column("autosize", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.create_index(
        "ix_volumes_autosize",
        "volumes",
        ["backend_id"],
        # As queries ask for it on each.
        sqlite_where=sa.text("autosize = 1"),
        postgresql_where=sa.text("autosize"),
    )
    op.add_column("volumes", sa.Column("address", sa.String(255), nullable=True))
    op.add_column(
        "volumes", sa.Column("snapshot_reserve_used_percent", sa.Integer(), nullable=True)
    )
    _partial(
        "uq_volumes_live_junction",
        "volumes",
        ["backend_id", "junction_path"],
        _MOUNTED,
        unique=True,
    )
    _partial(
        "ix_volumes_policy_id", "volumes", ["policy_id"], "policy_id IS NOT NULL", unique=False
    )
    op.add_column("jobs", sa.Column("policy_id", sa.String(32), nullable=True))
    _partial(
        "ix_jobs_policy", "jobs", ["backend_id", "policy", "id"], "policy IS NOT NULL", unique=False
    )
    op.add_column("events", sa.Column("policy", sa.String(255), nullable=True))


def downgrade() -> None:
    """Go back to the revision before; the policies there are are lost to the inventory."""
    op.drop_column("events", "policy")
    op.drop_index("ix_jobs_policy", "jobs")
    op.drop_column("jobs", "policy_id")
    op.drop_index("ix_volumes_policy_id", "volumes")
    op.drop_index("uq_volumes_live_junction", "volumes")
    op.drop_index("ix_volumes_autosize", "volumes")
    for column in (
        "snapshot_reserve_used_percent",
        "address",
        "autosize",
        "junction_path",
        "settings",
    ):
        op.drop_column("volumes", column)
    op.execute(sa.text("UPDATE volumes SET policy_id = NULL"))
    _link(link=False)
    op.drop_table("policies")
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("rules", Json, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_policies_backend_id_backends")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        sa.UniqueConstraint("backend_id", "name", name=op.f("uq_policies_backend_id_name")),
    )
    _link(link=True)
