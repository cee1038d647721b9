"""Volumes have values of their own for parameters of their backend"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    with op.batch_alter_table("volumes") as volumes:
        volumes.add_column(
            sa.Column("parameters", Json, nullable=False, server_default=sa.text("'{}'"))
        )
    with op.batch_alter_table("backends") as backends:
        backends.add_column(sa.Column("parameters", Json, nullable=True))


def downgrade() -> None:
    """Go back to the revision before."""
    with op.batch_alter_table("backends") as backends:
        backends.drop_column("parameters")
    with op.batch_alter_table("volumes") as volumes:
        volumes.drop_column("parameters")
