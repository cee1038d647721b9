"""``extstorage``: Ganeti uses the orchestrator as a provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.connection import connect, whole
from orchestrator.cli.groups import group
from orchestrator.client.endpoint import endpoint_for
from orchestrator.domain.errors import InvalidInput, NotAuthenticated
from orchestrator.extstorage.install import install
from orchestrator.settings import load_settings

app = group()


@app.callback()
def extstorage() -> None:
    """The provider through which Ganeti uses the orchestrator."""


@app.command("install")
def install_provider(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The provider's own directory; Ganeti knows it by its last part."
        ),
    ],
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", help="For disks without the parameter 'backend'; the only one, if absent."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="What this node is called; default: as its worker says."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that a script waits for its job.")
    ] = 840.0,
) -> None:
    """Write a provider for Ganeti into a directory.

    orchestrator extstorage install /usr/local/lib/ganeti/extstorage/orchestrator

    To be run on each node, as root: the address and the token that are in use now are written
    into a file there that only its owner can read.
    """
    endpoint = endpoint_for()
    if endpoint.token is None:
        raise NotAuthenticated("the provider needs a token: set ORCHESTRATOR_TOKEN")
    with connect() as client:
        backends = whole(client.backends())["items"]
    names = sorted(one["name"] for one in backends)
    if backend is None and len(names) != 1:
        raise InvalidInput(
            f"there are several backends ({', '.join(names) or 'none'}): name one with --backend",
            field="backend",
        )
    if backend is not None and backend not in names:
        raise InvalidInput(
            f"there is no backend {backend!r}; there are {', '.join(names)}", field="backend"
        )
    install(
        directory,
        {
            "url": endpoint.url,
            "token": endpoint.token,
            "host": host or load_settings().host,
            "backend": backend or names[0],
            "parameters": {
                name: told for one in backends for name, told in (one["parameters"] or {}).items()
            },
            "seconds": seconds,
        },
    )
    typer.echo(f"{directory} is a provider now: {directory.name}", err=True)
