"""Lives of the database, and the leases that they hold on the storage of backends"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NOW = {
    "postgresql": "clock_timestamp()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
}


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "lives",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("life", sa.String(32), nullable=False),
        sa.Column("first_job", sa.BigInteger(), nullable=False),
        sa.Column("last_event", sa.BigInteger(), nullable=False),
        sa.Column("began_at", UtcDateTime, nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name=op.f("pk_lives")),
    )
    # A database that has been used already goes on under its old numbers.
    now = _NOW[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO lives (epoch, life, first_job, last_event, began_at, why)"  # noqa: S608
        f" SELECT 0, '', 0, 0, {now}, 'the database is from before there were lives'"
        " FROM installation"
    )
    for column in (
        sa.Column("lease", sa.String(32)),
        sa.Column("lease_next", sa.String(32)),
        sa.Column("lease_at", UtcDateTime),
        sa.Column("take_over", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("backends", column)


def downgrade() -> None:
    """Go back to the revision before."""
    for name in ("take_over", "lease_at", "lease_next", "lease"):
        op.drop_column("backends", name)
    op.drop_table("lives")
