"""Promises have a limit that the database keeps"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    with op.batch_alter_table("promises") as promises:
        promises.add_column(sa.Column("limit_bytes", sa.BigInteger(), nullable=True))
        promises.create_check_constraint(op.f("ck_promises_limit"), "promised_bytes <= limit_bytes")


def downgrade() -> None:
    """Go back to the revision before."""
    with op.batch_alter_table("promises") as promises:
        promises.drop_constraint(op.f("ck_promises_limit"), type_="check")
        promises.drop_column("limit_bytes")
