"""``token``: make, list and revoke tokens."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from orchestrator.cli import options, servers
from orchestrator.cli.connection import connect, whole
from orchestrator.cli.failures import say
from orchestrator.cli.groups import group
from orchestrator.cli.output import Columns, print_json, print_table, when
from orchestrator.domain.errors import InvalidInput, InvalidName, WrongState
from orchestrator.domain.states import Role

app = group()

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
#: Who is noted as the maker of a token that was made without a token.
_DIRECT_ACTOR = "command-line"


_TOKENS: Columns = {
    "token": lambda token: token["id"],
    "name": lambda token: token["name"],
    "role": lambda token: token["role"],
    "project": lambda token: token["project"],
    "created (UTC)": lambda token: when(token["created_at"]),
    "expires (UTC)": lambda token: when(token["expires_at"]) or "never",
}


@app.callback()
def tokens() -> None:
    """Tokens: who may ask the service for what."""


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name; recorded with everything it does.")
    ],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.OPERATOR,
    days: Annotated[
        float | None, typer.Option("--days", help="It expires after this; never, if absent.")
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            help="The project whose quota it counts for; its own name, if absent.",
        ),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Write directly to the configured database: for an installation's first token.",
        ),
    ] = False,
    data: servers.Data = None,
    config: servers.Config = None,
    as_json: options.Json = False,
) -> None:
    """Create a token. It is shown only once; only a digest is stored."""
    if direct:
        settings = servers.settings_from(data=data, config=config)
        made = _create_directly(name, role, days, project, settings)
    elif data is not None or config is not None:
        raise InvalidInput("--data and --config belong to --direct")
    else:
        with connect() as client:
            made = client.create_token(name, role.value, days=days, project=project)
    if as_json:
        print_json(made)
    else:
        say(f"token {made['id']} with the role {made['role']}; it is not shown again:")
        print(made["token"])


def _create_directly(
    name: str, role: Role, days: float | None, project: str | None, settings: Any
) -> Any:
    # What the service needs; commands that call the service do without.
    from orchestrator.domain.states import Role as DomainRole
    from orchestrator.store import migrate
    from orchestrator.store.database import Database
    from orchestrator.tokens import create as create_token

    for field, given in (("name", name), ("project", project)):
        if given is not None and not _NAME.fullmatch(given):
            raise InvalidName(f"a token's {field} is 1 to 64 of A-Z a-z 0-9 . _ @ -", field=field)
    if days is not None and not 0 < days <= 36500:
        raise InvalidInput("days is above 0 and at most 36500", field="days")
    if behind := migrate.check(settings.database_url):
        raise WrongState(behind, field="database")
    database = Database(settings.database_url, pool_size=1)
    try:
        described, secret = database.transact(
            lambda transaction: create_token(
                transaction,
                name,
                DomainRole(role.value),
                _DIRECT_ACTOR,
                days=days,
                project=project,
            )
        )
    finally:
        database.close()
    times = ("created_at", "expires_at")
    told = {t: described[t] and described[t].isoformat() for t in times}
    return {**described, "role": role.value, **told, "token": secret}


@app.command("list")
def list_tokens(as_json: options.Json = False) -> None:
    """List the valid tokens, without their secrets."""
    with connect() as client:
        found = whole(client.tokens())
    if as_json:
        print_json(found)
    else:
        print_table(found["items"], _TOKENS)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as in 'token list'.")],
    as_json: options.Json = False,
) -> None:
    """Revoke a token; takes effect within seconds."""
    with connect() as client:
        client.revoke_token(token)
    if as_json:
        print_json({"id": token, "revoked": True})
    else:
        print(f"token {token} is no longer valid")
