"""The row with what a backend has promised is found by its version"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_NAME = "pk_promises"


def upgrade() -> None:
    """Bring the schema to this revision."""
    with op.batch_alter_table("promises") as promises:
        promises.add_column(
            sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        promises.drop_constraint(_NAME, type_="primary")
        promises.create_primary_key(_NAME, ["backend_id", "version"])
    op.execute(
        "INSERT INTO promises (backend_id, promised_bytes)"
        " SELECT id, 0 FROM backends WHERE id NOT IN (SELECT backend_id FROM promises)"
    )


def downgrade() -> None:
    """Go back to the revision before."""
    with op.batch_alter_table("promises") as promises:
        promises.drop_constraint(_NAME, type_="primary")
        promises.create_primary_key(_NAME, ["backend_id"])
        promises.drop_column("version")
