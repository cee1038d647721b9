"""Events are chained by a keyed hash"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "event_chain",
        sa.Column("base", BigId, nullable=False),
        sa.Column("commit_id", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.Column("link", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("base", name=op.f("pk_event_chain")),
    )


def downgrade() -> None:
    """Go back to the revision before; events are chained anew after the next upgrade."""
    op.drop_table("event_chain")
