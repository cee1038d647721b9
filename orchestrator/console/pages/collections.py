"""The pages that list and show what a backend has of a kind, derived from the resource."""

from __future__ import annotations

from inspect import Parameter, Signature, signature
from typing import Any

from fastapi import APIRouter, Response

from orchestrator.actions.registry import collection
from orchestrator.api.requesting import TARGETS_IN_PATH, BackendInPath, Cursor
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.pages.inventory import over_backends
from orchestrator.console.visits import Here
from orchestrator.domain.names import BackendName
from orchestrator.domain.targets import KINDS, Kind
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.resource import Listed
from orchestrator.store.transaction import Transaction

#: What a list shows first, of every resource; what it leaves to the page of one: long values.
_FIRST = ("backend", "name", "state")
_MOST_COLUMNS = 9


def listed() -> list[tuple[Kind, Listed]]:
    """The kinds of resources that have pages of this form."""
    return [
        (kind, resource)
        for kind in KINDS.values()
        if isinstance(resource := RESOURCES[kind.name], Listed)
    ]


def router() -> APIRouter:
    """Two pages for each of them."""
    made = APIRouter(route_class=ExactRoute)
    for kind, resource in listed():
        _add(made, kind, resource)
    return made


def columns_of(resource: Listed) -> list[str]:
    """The fields that a list shows: backend, name and state, then the others in their order."""
    declared = [name for name in resource.answer.model_fields if name != "id"]
    first = [name for name in _FIRST if name in declared]
    return [*first, *(name for name in declared if name not in first)][:_MOST_COLUMNS]


def numbers_of(resource: Listed) -> set[str]:
    """The fields that hold a number."""
    fields = resource.answer.model_fields.items()
    return {name for name, field in fields if field.annotation in (int, int | None)}


def _add(made: APIRouter, kind: Kind, resource: Listed) -> None:
    path = collection(kind.name)

    def list_all(
        visit: Here, backend: BackendName | None = None, cursor: Cursor = None
    ) -> Response:
        def read(transaction: Transaction) -> dict[str, Any]:
            found = over_backends(
                transaction,
                backend,
                cursor,
                lambda one, after, limit: resource.listed(
                    transaction, one, after=after, limit=limit
                ),
            )
            columns = columns_of(resource)
            return {**found, "kind": kind, "columns": columns, "numbers": numbers_of(resource)}

        return visit.page("collection.html", read)

    def show(visit: Here, backend: BackendInPath, **named: str) -> Response:
        name = named[kind.name]

        def read(transaction: Transaction) -> dict[str, Any]:
            item = resource.shown(transaction, backend, name)
            fields = [one for one in resource.answer.model_fields if one in item]
            return {"item": item, "fields": fields, "kind": kind}

        return visit.page("resource.html", read)

    *parameters, _ = signature(show).parameters.values()
    parameter = Parameter(
        kind.name, Parameter.POSITIONAL_OR_KEYWORD, annotation=TARGETS_IN_PATH[kind.name]
    )
    show.__signature__ = Signature([*parameters, parameter])  # type: ignore[attr-defined]
    made.add_api_route(path, list_all)
    made.add_api_route(f"/backends/{{backend}}{path}/{{{kind.name}}}", show)
