"""Pages take the same time however much there is"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_BEHIND = "ix_event_commits_behind"
_LATE = "behind IS NOT NULL"
_RARE = "ix_volumes_rare"
_RARE_STATES = "state IN ('restricted', 'error')"
_COUNTED = """
UPDATE event_commits SET behind = found.behind
FROM (
    SELECT id, max(id) OVER (
        ORDER BY base ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) - id AS behind
    FROM event_commits WHERE base IS NOT NULL
) AS found
WHERE found.id = event_commits.id AND found.behind > 0"""


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("event_commits", sa.Column("behind", sa.BigInteger(), nullable=True))
    op.execute(_COUNTED)
    op.create_index(
        _BEHIND,
        "event_commits",
        ["behind"],
        sqlite_where=sa.text(_LATE),
        postgresql_where=sa.text(_LATE),
    )
    op.create_index(
        _RARE,
        "volumes",
        ["backend_id", "name"],
        sqlite_where=sa.text(_RARE_STATES),
        postgresql_where=sa.text(_RARE_STATES),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index(_RARE, "volumes")
    op.drop_index(_BEHIND, "event_commits")
    op.drop_column("event_commits", "behind")
