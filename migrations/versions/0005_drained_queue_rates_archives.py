"""The queue can be drained, actions have rates, ended jobs can be asked to be archived"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.store.columns import BigId, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    with op.batch_alter_table("installation") as installation:
        installation.add_column(
            sa.Column("accepting", sa.Boolean(), nullable=False, server_default=sa.true())
        )
    op.create_table(
        "rates",
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("backend_id", "action", name=op.f("pk_rates")),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_rates_backend_id_backends")
        ),
    )
    op.create_table(
        "job_turns",
        sa.Column("job_id", BigId, nullable=False),
        sa.Column("backend_id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_turns")),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["backends.id"], name=op.f("fk_job_turns_backend_id_backends")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_turns_job_id_jobs"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "job_archivals",
        sa.Column("job_id", BigId, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_archivals")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_archivals_job_id_jobs"), ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    for table in ("job_archivals", "job_turns", "rates"):
        op.drop_table(table)
    with op.batch_alter_table("installation") as installation:
        installation.drop_column("accepting")
