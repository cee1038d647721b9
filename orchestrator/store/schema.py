"""Which schema this version knows, and what to do about another one."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from orchestrator.domain.errors import Unavailable

_UPGRADE = "run 'orchestrator db upgrade'"


def config() -> Config:
    """Alembic's settings."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return made


@cache
def revisions() -> tuple[str, ...]:
    """Every revision that this version knows, the one that it needs first."""
    scripts = ScriptDirectory.from_config(config())
    return tuple(script.revision for script in scripts.walk_revisions())


def trouble(found: str | None) -> str | None:
    """None if this version needs the revision that was found, else what to do."""
    wanted = revisions()[0]
    if found == wanted:
        return None
    if found is None:
        return f"the database has no schema yet: {_UPGRADE}"
    if found not in revisions():
        return (
            f"the schema of the database is at {found}, which is newer than this version knows "
            f"({wanted}): install the version that brought it there, or restore a backup from "
            "before"
        )
    return f"the schema of the database is at {found}, this version needs {wanted}: {_UPGRADE}"


def refuse_unknown(raw: Any) -> None:
    """Close a new connection, and raise `Unavailable`, unless the schema is this version's."""
    if (wrong := trouble(_found(raw))) is not None:
        raw.close()
        raise Unavailable(wrong)


def _found(raw: Any) -> str | None:
    cursor = raw.cursor()
    try:
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
    except (psycopg.errors.UndefinedTable, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.Error) and "no such table" not in str(error):
            raise
        row = None
    finally:
        cursor.close()
        raw.rollback()
    return row[0] if row else None
