"""An idempotency key may stand for an answer that is no job"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import Json

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NAME = "ck_idempotency_keys_answer"
_BEFORE = "(job_id IS NULL) <> (batch_id IS NULL)"
_SINCE = (
    "(CASE WHEN job_id IS NULL THEN 0 ELSE 1 END)"
    " + (CASE WHEN batch_id IS NULL THEN 0 ELSE 1 END)"
    " + (CASE WHEN answer IS NULL THEN 0 ELSE 1 END) = 1"
)


def upgrade() -> None:
    """Bring the schema to this revision."""
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.add_column(sa.Column("answer", Json))
        keys.drop_constraint(op.f(_NAME), type_="check")
        keys.create_check_constraint(op.f(_NAME), _SINCE)


def downgrade() -> None:
    """Go back to the revision before."""
    op.execute("DELETE FROM idempotency_keys WHERE answer IS NOT NULL")
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.drop_constraint(op.f(_NAME), type_="check")
        keys.create_check_constraint(op.f(_NAME), _BEFORE)
        keys.drop_column("answer")
