"""Quotas: the most that an account may have, and what it has."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BeforeValidator, Field

from orchestrator.actions.quotas import COUNTED
from orchestrator.actions.requests import Moment
from orchestrator.api.filters import of_backend
from orchestrator.api.requesting import (
    Admin,
    BackendInPath,
    Cursor,
    Limit,
    NoBody,
    Reader,
    ReasonHeader,
    ServiceHere,
    cursor_for,
    decoded,
    position_of,
)
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.quotas import Account, Quota
from orchestrator.domain.errors import InvalidInput, InvalidSize
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import NAME_OF_TOKENS, BackendName
from orchestrator.domain.sizes import MAX_SIZE, parse_size
from orchestrator.inventory import holdings, quotas

router = APIRouter(prefix="/v1/quotas", tags=["quotas"], route_class=ExactRoute)

_MANY = 2**31 - 1
_Account = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_OF_TOKENS)]
_AccountInPath = Annotated[
    _Account, decoded, Path(description="A project, or the name of a token without one.")
]
_BackendIfAny = Annotated[BackendName | None, Query(description="Name of the backend.")]


def _size(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        # None at all is no size of a volume, but a limit.
        return 0 if given.strip() == "0" else parse_size(given)
    except InvalidSize as problem:
        raise ValueError(problem.detail) from None


class QuotaRequest(Exact):
    """The most that the account may have; what is absent has no limit."""

    max_bytes: (
        Annotated[int, Field(ge=0, le=MAX_SIZE), BeforeValidator(_size, json_schema_input_type=int)]
        | None
    ) = Field(default=None, description="Sum of the sizes of its volumes.")
    max_volumes: Annotated[int, Field(ge=0, le=_MANY)] | None = None
    max_snapshots: Annotated[int, Field(ge=0, le=_MANY)] | None = None


@router.get("", response_model=Page[Quota])
def list_(
    service: ServiceHere,
    _actor: Reader,
    account: Annotated[_Account | None, Query(description="Only of this account.")] = None,
    backend: _BackendIfAny = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List quotas by account, with what is used of them."""
    after = position_of(cursor, str)
    place = tuple(after.split("/")) if after is not None else None
    if place is not None and len(place) != 2:
        raise _wrong_cursor()

    found = service.read(
        of_backend(
            backend,
            lambda transaction: quotas.list_quotas(
                transaction, account=account, backend=backend, after=place, limit=limit
            ),
        )
    )
    full = len(found) == limit
    more = cursor_for(f"{found[-1]['account']}/{found[-1]['backend']}") if full else None
    return {"items": found, "cursor": more}


@router.get("/{account}", response_model=Account)
def show(
    service: ServiceHere,
    _actor: Reader,
    account: _AccountInPath,
    backend: _BackendIfAny = None,
    at: Annotated[
        Moment | None,
        Query(description="What it held at this time, as far as that is known: its volumes."),
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Read what an account may have, has and has been promised, row by row.

    The sums of the entries of all pages are the usage.
    """
    after = _place(position_of(cursor, str))
    view, last = service.read(
        lambda transaction: holdings.account_view(
            transaction, account, backend=backend, at=at, after=after, limit=limit
        )
    )
    more = cursor_for(" ".join(map(str, last))) if last is not None else None
    return {**view, "entries": {"items": view["entries"], "cursor": more}}


@router.put("/{account}/{backend}", response_model=Quota)
def set_(
    service: ServiceHere,
    actor: Admin,
    account: _AccountInPath,
    backend: BackendInPath,
    wanted: QuotaRequest,
    reason: ReasonHeader = None,
) -> dict[str, Any]:
    """Set what an account may have on a backend, in place of any quota before.

    It may be below what there is: that stays, and no more is accepted.
    """
    limits = {counted: getattr(wanted, f"max_{counted}") for counted in COUNTED}
    if all(limit is None for limit in limits.values()):
        raise InvalidInput(
            "a quota limits bytes, volumes or snapshots: give one, or remove the quota",
            field="max_bytes",
        )
    return service.write(
        lambda transaction: quotas.set_quota(
            transaction, account, backend, limits, actor.name, reason or None
        )
    )


@router.delete("/{account}/{backend}", status_code=204, dependencies=[NoBody])
def remove(
    service: ServiceHere,
    actor: Admin,
    account: _AccountInPath,
    backend: BackendInPath,
    reason: ReasonHeader = None,
) -> Response:
    """Remove an account's quota on a backend."""
    service.write(
        lambda transaction: quotas.remove_quota(
            transaction, account, backend, actor.name, reason or None
        )
    )
    return Response(status_code=204)


def _place(position: str | None) -> holdings.Place | None:
    """What a cursor stands for. Raises `InvalidInput`."""
    if position is None:
        return None
    kind, backend, id_ = (*position.split(" "), "", "")[:3]
    numbers = [backend] if kind == "volume" else [backend, id_]
    sound = all(number.isascii() and number.isdecimal() for number in numbers)
    if kind not in ("volume", "job") or not sound or any(int(n) > MAX_SIZE for n in numbers):
        raise _wrong_cursor()
    return kind, int(backend), id_


def _wrong_cursor() -> InvalidInput:
    return InvalidInput("the cursor is not one this service gave out", field="cursor")
