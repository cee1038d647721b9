"""Snapshots have the storage's order; volumes and backends that could not be seen are known"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import UtcDateTime, db_now

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_VOLUMES = sa.table("volumes", sa.column("state"), sa.column("look_again_at", UtcDateTime()))
#: As they were ordered until now. Only live ones count: an order that the storage gives itself is
#: then never below that of an older one.
_IN_ORDER = """
UPDATE snapshots SET position = numbered.position
FROM (
    SELECT id, row_number() OVER (
        PARTITION BY volume_id ORDER BY coalesce(created_by_job, 0), created_at, id
    ) AS position
    FROM snapshots WHERE removed_at IS NULL AND state <> 'pending'
) AS numbered
WHERE numbered.id = snapshots.id
"""


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("snapshots", sa.Column("position", sa.BigInteger()))
    op.execute(_IN_ORDER)
    op.add_column("volumes", sa.Column("look_again_at", UtcDateTime()))
    op.add_column(
        "volumes",
        sa.Column("looks", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
    )
    op.add_column("backends", sa.Column("unavailable_since", UtcDateTime()))
    condition = sa.text("look_again_at IS NOT NULL")
    op.create_index(
        "ix_volumes_look_again_at",
        "volumes",
        ["look_again_at"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    # What nobody could see until now is looked at, too.
    op.execute(
        sa.update(_VOLUMES).where(_VOLUMES.c.state == "error").values(look_again_at=db_now())
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index("ix_volumes_look_again_at", "volumes")
    op.drop_column("backends", "unavailable_since")
    op.drop_column("volumes", "looks")
    op.drop_column("volumes", "look_again_at")
    op.drop_column("snapshots", "position")
