"""``extstorage``: Ganeti uses the orchestrator as a provider."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect, whole
from orchestrator.cli.groups import group
from orchestrator.cli.output import Columns, print_json, print_table, size, when
from orchestrator.client.endpoint import endpoint_for
from orchestrator.domain.errors import InvalidInput, NotAuthenticated
from orchestrator.extstorage.install import install, make_logs
from orchestrator.extstorage.reconciling import disks_in, left_over
from orchestrator.extstorage.scripts import PATIENCE
from orchestrator.settings import load_settings

app = group()

_LEFT: Columns = {
    "backend": lambda volume: volume["backend"],
    "name": lambda volume: volume["name"],
    "size": lambda volume: size(volume["size_bytes"]),
    "state": lambda volume: volume["state"],
    "disk": lambda volume: volume["disk"],
    "uuid": lambda volume: volume["uuid"],
    "attached to": lambda volume: volume["attached_to"],
    "created (UTC)": lambda volume: when(volume["created_at"]),
}


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
        typer.Option("--host", help="The name of this node; default: as its worker says."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that a script waits for its job.")
    ] = 840.0,
    patience: Annotated[
        float,
        typer.Option(
            "--patience", min=0, help="Seconds that a script tries to reach the service; see docs."
        ),
    ] = PATIENCE,
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
            "patience": patience,
        },
    )
    if (missing := make_logs()) is not None:
        typer.echo(f"warning: {missing}", err=True)
    typer.echo(f"{directory} is a provider now: {directory.name}", err=True)


@app.command("reconcile")
def reconcile(
    listed: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The list; standard input, if absent or '-'."),
    ] = None,
    backend: options.BackendIfAny = None,
    as_json: options.Json = False,
) -> None:
    """List the volumes whose disk Ganeti no longer has; change nothing.

    gnt-instance list --no-headers -o disk.uuids | orchestrator extstorage reconcile

    A disk that was removed while the service could not be reached leaves its volume. Disks that
    belong to no instance are not in that list, nor are those that were made after it.
    """
    if listed is None or str(listed) == "-":
        text = sys.stdin.read()
    else:
        try:
            text = listed.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{listed} cannot be read: {error}", field="FILE") from None
    disks = disks_in(text)
    with connect() as client:
        names = [backend] if backend else [one["name"] for one in client.backends()]
        found = list(
            left_over((volume for name in names for volume in client.volumes(name)), disks)
        )
    if as_json:
        print_json(whole(found))
        return
    if found:
        print_table(found, _LEFT)
        told = "look whether Ganeti still has such a disk; if not, detach and remove the volume"
        typer.echo(f"{len(found)} volumes without a disk in the list: {told}", err=True)
    else:
        typer.echo("every volume that was made for a disk has one in the list", err=True)
