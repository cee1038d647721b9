"""Events name any number of objects, and links of the chain say their format"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestrator.domain.errors import Conflict
from orchestrator.store.columns import Json

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = "commit_id, seq, place, role, kind, object_id, backend, name"

#: An index over what the events say themselves: a table, since SQLite has no index over the
#: elements of a list. The condition spares the rows of which there are most.
_POSTGRESQL = [
    f"""
    CREATE FUNCTION index_event_objects() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            DELETE FROM event_objects WHERE commit_id = OLD.commit_id AND seq = OLD.seq;
            RETURN NULL;
        END IF;
        INSERT INTO event_objects ({_COLUMNS})
        SELECT NEW.commit_id, NEW.seq, place, value ->> 'role', value ->> 'kind', value ->> 'id',
            value ->> 'backend', value ->> 'name'
        FROM jsonb_array_elements(NEW.objects) WITH ORDINALITY AS listed (value, place);
        RETURN NULL;
    END $$
    """,  # noqa: S608
    """
    CREATE TRIGGER event_objects_insert AFTER INSERT ON events FOR EACH ROW
    WHEN (NEW.objects IS NOT NULL) EXECUTE FUNCTION index_event_objects()
    """,
    """
    CREATE TRIGGER event_objects_delete AFTER DELETE ON events FOR EACH ROW
    WHEN (OLD.objects IS NOT NULL) EXECUTE FUNCTION index_event_objects()
    """,
]
_SQLITE = [
    f"""
    CREATE TRIGGER event_objects_insert AFTER INSERT ON events WHEN new.objects IS NOT NULL
    BEGIN
        INSERT INTO event_objects ({_COLUMNS})
        SELECT new.commit_id, new.seq, listed.key + 1, json_extract(listed.value, '$.role'),
            json_extract(listed.value, '$.kind'), json_extract(listed.value, '$.id'),
            json_extract(listed.value, '$.backend'), json_extract(listed.value, '$.name')
        FROM json_each(new.objects) AS listed;
    END
    """,  # noqa: S608
    """
    CREATE TRIGGER event_objects_delete AFTER DELETE ON events WHEN old.objects IS NOT NULL
    BEGIN
        DELETE FROM event_objects WHERE commit_id = old.commit_id AND seq = old.seq;
    END
    """,
]


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("events", sa.Column("objects", Json))
    op.create_table(
        "event_objects",
        sa.Column("commit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(64)),
        sa.Column("backend", sa.String(63)),
        sa.Column("name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("commit_id", "seq", "place", name=op.f("pk_event_objects")),
    )
    op.create_index("ix_event_objects_object_id", "event_objects", ["object_id", "commit_id"])
    op.create_index(
        "ix_event_objects_name", "event_objects", ["kind", "backend", "name", "commit_id"]
    )
    for table in ("event_chain", "event_archives"):
        op.add_column(
            table,
            sa.Column("format", sa.SmallInteger(), nullable=False, server_default=sa.text("1")),
        )
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    """Go back to the revision before: events chained in the later format are chained again.

    Raises `Conflict` if some of them have been archived: their files could not be verified.
    """
    bind = op.get_bind()
    if bind.execute(sa.text("SELECT 1 FROM event_archives WHERE format > 1 LIMIT 1")).first():
        raise Conflict(
            "the schema cannot go back: an earlier version could not verify the newest archives; "
            "restore a backup from before the upgrade instead"
        )
    op.execute("DELETE FROM event_chain WHERE format > 1")
    on = " ON events" if bind.dialect.name == "postgresql" else ""
    for name in ("insert", "delete"):
        op.execute(f"DROP TRIGGER event_objects_{name}{on}")
    if on:
        op.execute("DROP FUNCTION index_event_objects()")
    op.drop_table("event_objects")
    for table, column in (
        ("events", "objects"),
        ("event_chain", "format"),
        ("event_archives", "format"),
    ):
        op.drop_column(table, column)
