"""``db``: bring the database's schema to this version, look whether it is, let auditors read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.servers import Config, Data, settings_from

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def database() -> None:
    """The configured database: its schema, and who may read it for audits."""


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(metavar="[REVISION]", help="The latest.")] = "head",
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Bring the schema to this version, or to a revision; nothing happens if it is there."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import migrate

    if settings.database.url is None:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate.upgrade(settings.database_url, revision)
    _tell(f"the schema is at {revision}", {"revision": revision}, as_json=as_json)


@app.command()
def check(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Tell whether the schema is the one this version needs; exit status 1 if it is not."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import migrate

    behind = migrate.check(settings.database_url)
    told = {"up_to_date": behind is None, "detail": behind}
    _tell(behind or "the schema is up to date", told, as_json=as_json)
    if behind is not None:
        raise typer.Exit(1)


@app.command()
def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="Where to go back to; 'base' removes all.")
    ],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Take the schema back to a revision. What only the later one can hold is lost."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import migrate

    migrate.downgrade(settings.database_url, revision)
    _tell(f"the schema is at {revision}", {"revision": revision}, as_json=as_json)


@app.command("grant-audit")
def grant_audit(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="A role that PostgreSQL has.")],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Let a role of PostgreSQL read the views for audits, and nothing else."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import audit_views
    from orchestrator.store.database import Database

    database = Database(settings.database_url, pool_size=1)
    try:
        database.transact(lambda connection: audit_views.grant(connection, role))
    finally:
        database.close()
    views = list(audit_views.VIEWS)
    _tell(f"{role} may read {', '.join(views)}", {"role": role, "views": views}, as_json=as_json)


def _tell(sentence: str, document: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(sentence)
