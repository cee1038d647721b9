"""The NAS contract over HTTP, as its clients know it: synchronous, below ``/v3``.

Each route runs one operation of `orchestrator.nas.contract` and waits for its end. Errors are
``{"message": …}``; the order in which a request is checked is: its form (400), the caller's
role (403), names (400), what there is (404).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar
from urllib.parse import unquote

from fastapi import APIRouter, Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from orchestrator.actions.requests import sentence
from orchestrator.asgi.rawpaths import RawPaths
from orchestrator.asgi.reading import ExactRoute, methods_here
from orchestrator.domain.errors import (
    InternalError,
    InvalidInput,
    MethodNotAllowed,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
    UnknownBackend,
    UnknownPolicy,
)
from orchestrator.domain.exports import RuleText
from orchestrator.nas import contract
from orchestrator.nas.fields import CHANGEABLE, PolicySchema, SnapshotSchema, VolumeSchema, told
from orchestrator.nas.returned import normalised

if TYPE_CHECKING:
    from orchestrator.nas.edges.storage import StorageBackend

T = TypeVar("T")


class NasRole(StrEnum):
    """What a caller may do; none includes another."""

    USER = "USER"
    ADMIN = "ADMIN"
    UBER_ADMIN = "UBER_ADMIN"


class Caller(Protocol):
    """Who asks."""

    @property
    def name(self) -> str | None:
        """The name of the caller's token; None: anonymous."""

    @property
    def roles(self) -> frozenset[NasRole]:
        """What the caller may do."""


class Subsystems(Protocol):
    """What is served: storage systems by name, and who may do what."""

    @property
    def open_snapshots(self) -> bool:
        """Whether anybody may make snapshots."""

    @property
    def discard_newer(self) -> bool:
        """Whether rolling back deletes newer snapshots, which it refuses otherwise."""

    async def names(self) -> list[str]:
        """The names of the storage systems."""

    async def caller(self, token: str | None) -> Caller:
        """Who has this token. Raises `NotAuthenticated`."""

    async def run(self, name: str, caller: Caller, operation: contract.Operation[T]) -> T:
        """Run an operation on a storage system. Raises `UnknownBackend`."""


# -- what is read ---------------------------------------------------------------------------


class _Read(BaseModel):
    """Unknown keys are dropped."""

    model_config = ConfigDict(extra="ignore", strict=True)


_Text = Annotated[str, Field(min_length=1, max_length=255)]


class VolumeChange(_Read):
    """What may be changed in a volume."""

    autosize_enabled: bool | None = None
    max_autosize: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="0: as if absent."
    )
    size_total: Annotated[int, Field(ge=1)] | None = None
    active_policy_name: _Text | None = None
    percentage_snapshot_reserve: Annotated[int, Field(ge=0, le=90)] | None = None
    compression_enabled: bool | None = None
    inline_compression: bool | None = None
    caching_policy: _Text | None = None


class NewVolume(VolumeChange):
    """What may be said of a volume to be made, cloned or rolled back."""

    name: _Text | None = None
    aggregate_name: _Text | None = None
    junction_path: _Text | None = None
    from_snapshot: _Text | None = None
    from_volume: _Text | None = None


class NewSnapshot(_Read):
    """How to make a snapshot."""

    purge_old_if_needed: bool = False


class NewPolicy(_Read):
    """The rules of a policy to be made."""

    rules: list[Annotated[RuleText, Field(min_length=1)]]


class Refusal(BaseModel):
    """Why a request was refused."""

    message: str
    errors: dict[str, str] | None = Field(
        default=None, description="What is wrong, by field, if the form of the request is."
    )


_VOLUMES = TypeAdapter(list[VolumeSchema])
#: The most bytes of a body.
_MAX_BODY = 2**20
#: Whole lists that are made at once: further ones wait, so that other requests do not.
_LISTS_AT_ONCE = 2
#: Any route may answer with one of these.
_ERRORS = {
    400: "The request is not valid, or what is there does not allow it.",
    401: "A valid token is needed.",
    403: "The token has not the role that this needs.",
    404: "There is no such thing.",
    503: "The service cannot do this now.",
}


# -- the application --------------------------------------------------------------------------


def application(subsystems: Subsystems) -> FastAPI:
    """The ASGI application that serves these."""
    app = FastAPI(
        title="NAS storage",
        version="3",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        max_body_size=_MAX_BODY,
        responses={
            status: {"model": Refusal, "description": text} for status, text in _ERRORS.items()
        },
    )
    app.state.subsystems = subsystems
    app.state.lists = asyncio.Semaphore(_LISTS_AT_ONCE)
    for kind, answer in (
        (Problem, _problem),
        (RequestValidationError, _invalid),
        (HTTPException, _refused),
        (Exception, _unforeseen),
    ):
        app.add_exception_handler(kind, answer)
    app.include_router(_conf)
    app.include_router(_routes)
    _tell_own_errors(app)
    return app


def _tell_own_errors(app: FastAPI) -> None:
    """Take out of the description the error that FastAPI would give and this does not."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def refusal(problem: Problem) -> Response:
    """The answer that tells a problem."""
    status = problem.status
    if isinstance(problem, NotFound):
        status = 404
    elif status in (409, 422):
        status = 400
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"message": told(problem)}, status, headers)


def _problem(_request: Request, problem: Any) -> Response:
    return refusal(problem)


def _unforeseen(_request: Request, _error: Any) -> Response:
    return JSONResponse({"message": InternalError().detail}, 500)


def _invalid(_request: Request, error: Any) -> Response:
    errors = {
        ".".join(str(part) for part in one["loc"] if part not in ("body", "path", "query")): (
            sentence(one)
        )
        for one in error.errors()
    }
    wrong = "; ".join(f"{name}: {why}" if name else why for name, why in errors.items())
    return JSONResponse({"message": f"the request is not valid: {wrong}", "errors": errors}, 400)


def _refused(request: Request, error: Any) -> Response:
    if isinstance(error.__cause__, Problem):
        return refusal(error.__cause__)  # raised while the body was read
    if error.status_code == MethodNotAllowed.status:
        methods = methods_here(request)
        told = f"{request.method} is not for this path, which takes {methods}"
        return JSONResponse({"message": told}, error.status_code, {"Allow": methods})
    return JSONResponse({"message": str(error.detail)}, error.status_code, error.headers)


async def _subsystems(request: Request) -> Subsystems:
    served: Subsystems = request.app.state.subsystems
    return served


_Here = Annotated[Subsystems, Depends(_subsystems)]


def _token_in(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise NotAuthenticated("send a token: Authorization: Bearer TOKEN")
    return token or None


async def _caller(request: Request, subsystems: _Here) -> Caller:
    return await subsystems.caller(_token_in(request.headers))


_Who = Annotated[Caller, Depends(_caller)]


class _Asked:
    """A request on a storage system, as far as every route has it."""

    def __init__(self, sub: str, subsystems: Subsystems, caller: Caller) -> None:
        self.sub, self.subsystems, self.caller = sub, subsystems, caller

    def need(self, role: NasRole) -> None:
        """Raises `NotAllowed` or `NotAuthenticated`, unless the caller has the role."""
        if role not in self.caller.roles:
            if self.caller.name is None:
                raise NotAuthenticated(f"this needs a token with the role {role}")
            raise NotAllowed(f"this needs the role {role}")

    async def __call__(self, role: NasRole | None, operation: contract.Operation[T]) -> T:
        """Run the operation, if the caller has the role (None: anybody may)."""
        if role is not None:
            self.need(role)
        return await self.subsystems.run(self.sub, self.caller, operation)


async def _asked(
    sub: Annotated[str, _decoded, Path(description="The storage system.")],
    subsystems: _Here,
    caller: _Who,
) -> _Asked:
    return _Asked(sub, subsystems, caller)


_Ask = Annotated[_Asked, Depends(_asked)]


# Matched as it was sent: what is written %2F is part of a name.
_decoded = BeforeValidator(lambda text: unquote(text, errors="replace"))
_Volume = Annotated[str, _decoded, Path(description="Its name, or `node:/junction/path`.")]
_Snapshot = Annotated[str, _decoded, Path(description="Name of the snapshot.")]
_Host = Annotated[str, _decoded, Path(description="Name of the host.")]
_Policy = Annotated[str, _decoded, Path(description="Name of the export policy.")]
_Rule = Annotated[str, _decoded, Path(description="A client, as in exports(5).")]

_conf = APIRouter(prefix="/conf", tags=["conf"], route_class=ExactRoute)


# The longer paths come first: a name may have slashes.
async def _no_body(request: Request) -> None:
    if (await request.body()).strip() not in (b"", b"{}", b"null"):
        raise InvalidInput("a DELETE takes no body: send none", field="body")


#: For routes that have none: what they were asked for in it would not be done.
_NO_BODY = Depends(_no_body)
_routes = APIRouter(prefix="/{sub}", tags=["storage"], route_class=ExactRoute)


def _made() -> Response:
    return JSONResponse("", 201)


def _gone() -> Response:
    return Response(status_code=204)


# -- configuration ----------------------------------------------------------------------------


@_conf.get("/subsystems")
async def subsystems(here: _Here) -> list[str]:
    """The storage systems that are served."""
    return await here.names()


@_conf.get("/roles")
async def roles() -> list[NasRole]:
    """The roles there are."""
    return list(NasRole)


@_conf.get("/me")
async def me(caller: _Who) -> dict[str, Any]:
    """Who asks; the name of nobody is null."""
    return {"name": caller.name, "roles": sorted(caller.roles)}


@_conf.get("/me/roles")
async def my_roles(caller: _Who) -> list[NasRole]:
    """The roles of who asks."""
    return sorted(caller.roles)


# -- snapshots --------------------------------------------------------------------------------


@_routes.get("/volumes/{name:path}/snapshots", response_model=list[SnapshotSchema])
async def get_snapshots(ask: _Ask, name: _Volume) -> Any:
    """The snapshots of a volume."""
    found = await ask(NasRole.USER, contract.get_snapshots(name))
    return [normalised("snapshot", one) for one in found]


@_routes.get("/volumes/{name:path}/snapshots/{snapshot}", response_model=SnapshotSchema)
async def get_snapshot(ask: _Ask, name: _Volume, snapshot: _Snapshot) -> Any:
    """A snapshot."""
    return normalised("snapshot", await ask(NasRole.USER, contract.get_snapshot(name, snapshot)))


@_routes.post("/volumes/{name:path}/snapshots/{snapshot}", status_code=201)
async def create_snapshot(
    ask: _Ask,
    name: _Volume,
    snapshot: _Snapshot,
    wanted: Annotated[NewSnapshot | None, Body()] = None,
) -> Response:
    """Make a snapshot."""
    purge = wanted is not None and wanted.purge_old_if_needed
    # Whoever may only make snapshots deletes none by that.
    role = None if ask.subsystems.open_snapshots and not purge else NasRole.ADMIN
    try:
        await ask(role, contract.create_snapshot(name, snapshot, purge_old=purge))
    except Problem as problem:
        if problem.status == 409:
            return JSONResponse({"message": problem.detail}, 409)
        raise
    return _made()


@_routes.delete(
    "/volumes/{name:path}/snapshots/{snapshot}", status_code=204, dependencies=[_NO_BODY]
)
async def delete_snapshot(ask: _Ask, name: _Volume, snapshot: _Snapshot) -> Response:
    """Delete a snapshot."""
    await ask(NasRole.ADMIN, contract.delete_snapshot(name, snapshot))
    return _gone()


# -- locks ------------------------------------------------------------------------------------


@_routes.get("/volumes/{name:path}/locks")
async def get_locks(ask: _Ask, name: _Volume) -> list[dict[str, str]]:
    """The lock on a volume: a list of one or none."""
    host = await ask(NasRole.USER, contract.locks(name))
    return [] if host is None else [{"host": host}]


@_routes.put("/volumes/{name:path}/locks/{host}", status_code=201)
async def create_lock(ask: _Ask, name: _Volume, host: _Host) -> Response:
    """Lock a volume for a host."""
    await ask(NasRole.ADMIN, contract.create_lock(name, host))
    return _made()


@_routes.delete("/volumes/{name:path}/locks/{host}", status_code=204, dependencies=[_NO_BODY])
async def remove_lock(ask: _Ask, name: _Volume, host: _Host) -> Response:
    """End the lock of a host."""
    await ask(NasRole.UBER_ADMIN, contract.remove_lock(name, host))
    return _gone()


# -- volumes ----------------------------------------------------------------------------------


@_routes.get("/volumes", response_model=list[VolumeSchema])
async def get_volumes(
    request: Request,
    ask: _Ask,
    limit: Annotated[
        int | None, Query(ge=1, le=1000, description="The most to answer; all, if absent.")
    ] = None,
    after: Annotated[
        str | None, Query(max_length=255, description="Those after this name: the last one had.")
    ] = None,
) -> Response:
    """Volumes by name."""
    ask.need(NasRole.USER)
    lists: asyncio.Semaphore = request.app.state.lists
    async with lists:
        found = await ask(NasRole.USER, contract.volumes(after=after, limit=limit))
        return Response(await asyncio.to_thread(_listed, found), media_type="application/json")


def _listed(found: list[dict[str, Any]]) -> bytes:
    return _VOLUMES.dump_json([VolumeSchema.model_validate(one) for one in found])


@_routes.get("/volumes/{name:path}", response_model=VolumeSchema)
async def get_volume(ask: _Ask, name: _Volume) -> Any:
    """A volume."""
    return normalised("volume", await ask(NasRole.USER, contract.get_volume(name)))


def _without_zero(fields: dict[str, Any]) -> dict[str, Any]:
    """The same without a largest size of nothing, by which the original says that there is none."""
    return {name: value for name, value in fields.items() if (name, value) != ("max_autosize", 0)}


@_routes.post("/volumes/{name:path}", status_code=201, response_model=VolumeSchema)
async def create_volume(
    ask: _Ask, name: _Volume, wanted: Annotated[NewVolume | None, Body()] = None
) -> Any:
    """Make a volume; with ``from_snapshot`` roll it back, with ``from_volume`` too clone it."""
    fields = _without_zero((wanted or NewVolume()).model_dump(exclude_none=True))
    snapshot, source = fields.pop("from_snapshot", None), fields.pop("from_volume", None)
    if snapshot is not None and source is not None:
        cloning = contract.clone_volume(name, source, snapshot, own=fields.get("name"))
        made = await ask(NasRole.ADMIN, cloning)
    elif snapshot is not None:
        discard = ask.subsystems.discard_newer
        rolling = contract.rollback_volume(name, snapshot, discard_newer=discard)
        await ask(NasRole.ADMIN, rolling)
        made = await ask(NasRole.ADMIN, contract.get_volume(name))
    else:
        try:
            made = await ask(NasRole.ADMIN, contract.create_volume(name, fields))
        except UnknownPolicy as problem:
            return JSONResponse({"message": problem.detail}, 400)
    return normalised("volume", made)


@_routes.patch("/volumes/{name:path}")
async def patch_volume(
    ask: _Ask, name: _Volume, wanted: Annotated[VolumeChange | None, Body()] = None
) -> Response:
    """Change a volume."""
    ask.need(NasRole.UBER_ADMIN)
    fields = _without_zero((wanted or VolumeChange()).model_dump(exclude_unset=True))
    if not fields:
        known = ", ".join(sorted(CHANGEABLE))
        return JSONResponse(
            {"message": f"nothing to change: give one of {known}", "errors": {}}, 400
        )
    given = {
        field: value
        for field, value in fields.items()
        if value is not None or field == "active_policy_name"
    }
    try:
        await ask(NasRole.UBER_ADMIN, contract.patch_volume(name, given))
    except UnknownPolicy as problem:
        return JSONResponse({"message": problem.detail}, 400)
    return JSONResponse(None, 200)


@_routes.delete("/volumes/{name:path}", status_code=204, dependencies=[_NO_BODY])
async def restrict_volume(ask: _Ask, name: _Volume) -> Response:
    """Hide a volume and keep its data."""
    await ask(NasRole.UBER_ADMIN, contract.restrict_volume(name))
    return _gone()


# -- export policies --------------------------------------------------------------------------


@_routes.put("/export/{policy:path}/rule/{rule:path}", status_code=201)
async def ensure_rule_present(ask: _Ask, policy: _Policy, rule: _Rule) -> Response:
    """Add a rule to a policy, unless it is there."""
    await ask(NasRole.ADMIN, contract.ensure_rule_present(policy, rule))
    return _made()


@_routes.delete("/export/{policy:path}/rule/{rule:path}", status_code=204, dependencies=[_NO_BODY])
async def ensure_rule_absent(ask: _Ask, policy: _Policy, rule: _Rule) -> Response:
    """Take a rule out of a policy, if it is there."""
    await ask(NasRole.ADMIN, contract.ensure_rule_absent(policy, rule))
    return _gone()


@_routes.get("/export", response_model=list[PolicySchema])
async def get_policies(ask: _Ask) -> Any:
    """All export policies."""
    found = await ask(NasRole.ADMIN, contract.policies())
    return [{"name": name, "rules": rules} for name, rules in found]


@_routes.get("/export/{policy:path}", response_model=PolicySchema)
async def get_policy(ask: _Ask, policy: _Policy) -> Any:
    """An export policy."""
    return {"name": policy, "rules": await ask(NasRole.ADMIN, contract.get_policy(policy))}


@_routes.post("/export/{policy:path}", status_code=201)
async def create_policy(ask: _Ask, policy: _Policy, wanted: NewPolicy) -> Response:
    """Make an export policy."""
    await ask(NasRole.ADMIN, contract.create_policy(policy, wanted.rules))
    return _made()


@_routes.delete("/export/{policy:path}", status_code=204, dependencies=[_NO_BODY])
async def remove_policy(ask: _Ask, policy: _Policy) -> Response:
    """Remove an export policy."""
    await ask(NasRole.ADMIN, contract.remove_policy(policy))
    return _gone()


# -- an application of one's own ---------------------------------------------------------------


class _Known:
    """A caller, and what it may do."""

    def __init__(self, name: str | None, roles: frozenset[NasRole]) -> None:
        self.name, self.roles = name, roles


class NasApp:
    """An ASGI application for `orchestrator.nas.StorageBackend` objects.

        app = NasApp(tokens={"secret": ("alice", ["ADMIN"])})
        NetappStorage(...).init_app(app=app, endpoint="netapp")

    Serve it with uvicorn, or mount it at ``/v3`` of another application.
    """

    def __init__(
        self,
        tokens: Mapping[str, tuple[str, list[str]]] | None = None,
        *,
        anonymous: tuple[str, ...] = (),
        open_snapshots: bool = False,
        discard_newer: bool = False,
    ) -> None:
        """``tokens``: by secret, a name and roles; ``anonymous``: the roles of everybody; none,
        unless you say so.
        """
        self._tokens = {
            secret: (name, frozenset(NasRole(role) for role in roles))
            for secret, (name, roles) in (tokens or {}).items()
        }
        self._anonymous = frozenset(NasRole(role) for role in anonymous)
        self.open_snapshots = open_snapshots
        self.discard_newer = discard_newer
        self._storages: dict[str, StorageBackend] = {}
        self._app = RawPaths(application(self))

    def add(self, endpoint: str, storage: StorageBackend) -> None:
        """Serve a storage below ``/{endpoint}``."""
        self._storages[endpoint] = storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one that is refused for its token before its body is read."""
        if scope["type"] == "http":
            try:
                await self._let_in(scope)
            except NotAuthenticated as problem:
                await refusal(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/openapi.json":
            return
        caller = await self.caller(_token_in(Headers(scope=scope)))
        open_to_all = self._anonymous or self.open_snapshots or path.startswith("/conf/")
        if caller.name is None and not open_to_all:
            raise NotAuthenticated()

    async def names(self) -> list[str]:
        """The endpoints."""
        return sorted(self._storages)

    async def caller(self, token: str | None) -> Caller:
        """Who has this token. Raises `NotAuthenticated`."""
        if token is None:
            return _Known(None, self._anonymous)
        found: _Known | None = None
        for secret, (name, roles) in self._tokens.items():
            if hmac.compare_digest(secret.encode(), token.encode()):
                found = _Known(name, self._anonymous | roles)
        if found is None:
            raise NotAuthenticated()
        return found

    async def run(self, name: str, _caller: Caller, operation: contract.Operation[T]) -> T:
        """Run an operation on a storage, in a thread. Raises `UnknownBackend`."""
        storage = self._storages.get(name)
        if storage is None:
            raise UnknownBackend(f"there is no storage {name!r}")
        return await asyncio.to_thread(contract.perform, operation, storage.gateway)
