"""How requests are read: JSON without doubled keys, and no query parameter that is not known."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import AliasChoices, BaseModel
from starlette.routing import compile_path

from orchestrator.domain.errors import InvalidInput, UnknownField
from orchestrator.domain.exact import read_json
from orchestrator.domain.nearest import did_you_mean


class _ExactRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


class ExactRoute(APIRoute):
    """A route that takes the query parameters it has, each once, and JSON that says one thing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The same, behind the checks."""
        handle = super().get_route_handler()
        known = _query_names(self.dependant)

        async def exact(request: Request) -> Response:
            if request.scope["query_string"]:
                _check_query(request, known)
            return await handle(_ExactRequest(request.scope, request.receive))

        return exact


#: Query parameters that need no value.
_FLAGS = frozenset({"strict"})


def methods_here(request: Request) -> str:
    """The methods that the path of a request takes, as the header ``Allow`` names them."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path and route.methods and compile_path(route.path)[0].match(path):
            methods |= route.methods
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _check_query(request: Request, known: frozenset[str]) -> None:
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            takes = f"; it takes {', '.join(sorted(known))}" if known else "; it takes none"
            raise UnknownField(
                f"there is no query parameter {name[:64]!r} here"
                + did_you_mean(name, known, takes),
                field=name[:64],
            )
        if name in seen:
            raise InvalidInput(f"{name} is twice in the query: give it once", field=name)
        if not value and name not in _FLAGS:
            raise InvalidInput(f"{name} is empty: give it a value, or leave it out", field=name)
        seen.add(name)


def _query_names(dependant: Dependant) -> frozenset[str]:
    """What the query of a route may hold."""
    names: set[str] = set()
    for needed in dependant.dependencies:
        names |= _query_names(needed)
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, info in kind.model_fields.items():
                names |= {name, *_choices(info.validation_alias)}
        else:
            names.add(field.alias)
    return frozenset(names)


def _choices(alias: Any) -> Iterable[str]:
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias] if isinstance(alias, str) else []
