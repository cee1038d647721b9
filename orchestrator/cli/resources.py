"""The commands of a kind that has no module of its own here: list, show, and its actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from orchestrator.actions.registry import collection
from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import print_details, print_json, size, when
from orchestrator.cli.verbs import add_actions
from orchestrator.client import DocumentClient
from orchestrator.domain.targets import KINDS, Kind


def group_of(kind: str) -> typer.Typer:
    """The commands on the objects of a kind."""
    app = group()
    titles = KINDS[kind].titles if kind in KINDS else f"{kind}s"
    app.callback(help=f"{titles.capitalize()}: list them, and submit jobs on them.")(_nothing)
    if kind in KINDS and hasattr(DocumentClient, _listing(kind)):
        app.command("list", help=f"List the {titles} of a backend by name.")(_list(kind))
        app.command("show", help=f"Show {KINDS[kind].a_title}.")(_show(KINDS[kind]))
    add_actions(app, kind)
    return app


def _nothing() -> None:
    """What the group itself does before one of its commands."""


def _listing(kind: str) -> str:
    """The method of the client that lists those of a kind."""
    return collection(kind).strip("/")


def _list(kind: str) -> Callable[..., None]:
    def list_all(
        backend: options.Backend,
        limit: options.Limit = 1000,
        cursor: options.Cursor = None,
        as_json: options.Json = False,
    ) -> None:
        with connect() as client:
            listed = getattr(client, _listing(kind))(backend)
            fields = listed.kind.load().model_fields
            columns = {_heading(name): partial(_cell, name) for name in fields if name != "id"}
            show_list(listed, columns, limit=limit, cursor=cursor, as_json=as_json)

    return list_all


def _show(kind: Kind) -> Callable[..., None]:
    def show(name: str, backend: options.Backend, as_json: options.Json = False) -> None:
        with connect() as client:
            found: Any = getattr(client, kind.name).get(backend, name)
        if as_json:
            print_json(found)
        else:
            print_details({_heading(field): _cell(field, found) for field in found})

    described = typer.Argument(metavar=kind.name.upper(), help=f"Name of the {kind.title}.")
    show.__annotations__["name"] = Annotated[str, described]
    return show


def _heading(field: str) -> str:
    return field.removesuffix("_at").removesuffix("_bytes").replace("_", " ")


def _cell(field: str, document: Mapping[str, Any]) -> object:
    value = document.get(field)
    if field.endswith("_at"):
        return when(value)
    return size(value) if field.endswith("_bytes") else value
