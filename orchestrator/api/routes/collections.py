"""The routes that list and read what a backend has of a kind, derived from the resource."""

from __future__ import annotations

from inspect import Parameter, Signature, signature
from typing import Any

from fastapi import APIRouter

from orchestrator.actions.registry import collection
from orchestrator.api.requesting import (
    TARGETS_IN_PATH,
    BackendInPath,
    Cursor,
    Limit,
    Reader,
    ServiceHere,
    cursor_for,
    position_of,
)
from orchestrator.contract.answers import Page
from orchestrator.domain.targets import Kind
from orchestrator.resources.resource import Listed


def add_collection(router: APIRouter, kind: Kind, resource: Listed) -> None:
    """Add the two routes of a resource to those of ``/v1/backends``."""

    def list_all(
        service: ServiceHere,
        _actor: Reader,
        backend: BackendInPath,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        after = position_of(cursor, str)
        found = service.read(
            lambda transaction: resource.listed(transaction, backend, after=after, limit=limit)
        )
        more = cursor_for(found[-1]["name"]) if len(found) == limit else None
        return {"items": found, "cursor": more}

    def show(service: ServiceHere, _actor: Reader, backend: BackendInPath, **named: str) -> Any:
        return service.read(
            lambda transaction: resource.shown(transaction, backend, named[kind.name])
        )

    *parameters, _ = signature(show).parameters.values()
    name = Parameter(
        kind.name, Parameter.POSITIONAL_OR_KEYWORD, annotation=TARGETS_IN_PATH[kind.name]
    )
    show.__signature__ = Signature([*parameters, name])  # type: ignore[attr-defined]
    path = f"/{{backend}}{collection(kind.name)}"
    list_all.__name__ = f"list_{path.rpartition('/')[2]}"
    show.__name__ = f"show_{kind.name}"
    router.add_api_route(
        path,
        list_all,
        response_model=Page[resource.answer],  # type: ignore[name-defined]
        description=f"List a backend's {kind.titles} by name.",
    )
    router.add_api_route(
        f"{path}/{{{kind.name}}}",
        show,
        response_model=resource.answer,
        description=f"Read {kind.a_title}.",
    )
