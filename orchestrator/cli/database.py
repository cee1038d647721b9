"""``db``: the schema of the database, its backups, and who may read it for audits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.groups import group
from orchestrator.cli.output import print_json, when
from orchestrator.cli.servers import Config, Data, settings_from

app = group()


@app.callback()
def database() -> None:
    """The configured database: its schema, its backups, and who may read it for audits."""


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(metavar="[REVISION]", help="The latest.")] = "head",
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Upgrade the schema to this version, or to a revision; do nothing if it is there already."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import migrate

    if settings.database.url is None:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate.upgrade(settings.database_url, revision)
    _tell(f"the schema is at {revision}", {"revision": revision}, as_json=as_json)


@app.command()
def check(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Check whether the schema is the one this version needs; exit status 1 if it is not.

    Also say what remains to be done in a database that was restored.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator.ledger import restored
    from orchestrator.store import lives, migrate
    from orchestrator.store.database import Database

    behind = migrate.check(settings.database_url)
    told: dict[str, object] = {"up_to_date": behind is None, "detail": behind}
    sentence = behind or "the schema is up to date"
    if behind is None:
        database = Database(settings.database_url, pool_size=1)
        try:
            told["epoch"] = database.look(lives.present).epoch
            found = database.look(restored.state)["restored_at"]
        finally:
            database.close()
        told["restored_at"] = found.isoformat() if found else None
        if found is not None:
            at = when(found.isoformat())
            sentence += f"; the database was restored ({at}, UTC): {restored.REMEDY}"
    _tell(sentence, told, as_json=as_json)
    if behind is not None:
        raise typer.Exit(1)


@app.command()
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION", help="The revision to go back to; 'base' removes everything."
        ),
    ],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Downgrade the schema to a revision. Data that only the later one can hold is lost."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import migrate

    migrate.downgrade(settings.database_url, revision)
    _tell(f"the schema is at {revision}", {"revision": revision}, as_json=as_json)


@app.command("grant-audit")
def grant_audit(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="An existing PostgreSQL role.")],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Let a PostgreSQL role read the views for audits, and nothing else."""
    settings = settings_from(data=data, config=config)
    from orchestrator.store import audit_views
    from orchestrator.store.database import Database

    database = Database(settings.database_url, pool_size=1)
    try:
        database.transact(lambda transaction: audit_views.grant(transaction, role))
    finally:
        database.close()
    views = list(audit_views.VIEWS)
    _tell(f"{role} may read {', '.join(views)}", {"role": role, "views": views}, as_json=as_json)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Write the database, as it is at one moment, to a file; the service may keep running.

    Also back up the data directory's audit.key, separately, and the archive directory.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator import backups

    backups.back_up(settings.database_url, file)
    size = file.stat().st_size
    _tell(f"wrote {file} ({size} bytes)", {"file": str(file), "bytes": size}, as_json=as_json)


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that 'db backup' has written.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing database.")
    ] = False,
    keep_tokens: Annotated[
        bool,
        typer.Option("--keep-tokens", help="Tokens that were valid at the backup are valid again."),
    ] = False,
    revoke_tokens: Annotated[
        bool, typer.Option("--revoke-tokens", help="No token of the backup stays valid.")
    ] = False,
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Replace the database by a backup, while the service is stopped.

    A new life of the database begins: ids go on above all that were given out, and tokens that
    were revoked after the backup stay revoked, as far as the data directory tells of them.
    """
    if keep_tokens and revoke_tokens:
        raise typer.BadParameter("--keep-tokens and --revoke-tokens exclude each other")
    settings = settings_from(data=data, config=config)
    from orchestrator import backups
    from orchestrator.ledger.restored import AFTER_RESTORE

    done = backups.restore(
        file,
        settings.database_url,
        settings.data,
        replace=replace,
        tokens="keep" if keep_tokens else "revoke" if revoke_tokens else None,
    )
    newest = done.newest_event_at.isoformat() if done.newest_event_at else None
    until = when(newest) or "its beginning"
    kept = f" What was there before is {done.replaced}." if done.replaced else ""
    _tell(
        f"restored, up to {until}; epoch {done.epoch}, job ids from {done.first_job} on, "
        f"{done.revoked_tokens} tokens revoked.{kept} Start the service; then {AFTER_RESTORE}",
        {
            "epoch": done.epoch,
            "first_job": done.first_job,
            "newest_event_at": newest,
            "revoked_tokens": done.revoked_tokens,
            "replaced": str(done.replaced) if done.replaced else None,
        },
        as_json=as_json,
    )


@app.command()
def copy(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="An empty database, such as PostgreSQL's.")
    ],
    data: Data = None,
    config: Config = None,
    as_json: options.Json = False,
) -> None:
    """Copy the database to another, empty one that is to replace it.

    The service is stopped. Configure the new one, start it, and never start the old one again.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator import backups

    backups.move(settings.database_url, to)
    _tell(
        "copied: set database.url to the new one, and start the service",
        {"copied": True},
        as_json=as_json,
    )


def _tell(sentence: str, document: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(sentence)
