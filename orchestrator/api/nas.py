"""What ``/v3`` serves here: the configured backends, with the service's own tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fastapi import FastAPI

from orchestrator.api.requesting import Trusted, wait_for_end
from orchestrator.api.service import Service
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import InvalidName, UnknownBackend
from orchestrator.domain.names import check_backend_name
from orchestrator.domain.states import Role
from orchestrator.inventory import backends
from orchestrator.jobs.views import job_views
from orchestrator.nas import contract
from orchestrator.nas.edges.local import Local
from orchestrator.nas.edges.v3 import Caller, NasRole, application
from orchestrator.nas.gateways import Request, View, ended_well
from orchestrator.settings import V3Settings
from orchestrator.store.transaction import Transaction

T = TypeVar("T")

#: The name of those who send no token, in the configuration and in the history.
ANONYMOUS = "anonymous"
#: In the configuration: all, with any token or without one.
EVERYBODY = "everybody"
#: Volumes that are read at once for a whole list.
_PAGE = 500
#: What tokens may do whose names the configuration does not assign: by their own role.
_USUAL = {
    NasRole.USER: Role.READER,
    NasRole.ADMIN: Role.OPERATOR,
    NasRole.UBER_ADMIN: Role.ADMIN,
}


def nas_application(service: Service, trusted: Trusted[Actor]) -> FastAPI:
    """The application for ``/v3``."""
    return application(Backends(service, trusted, service.settings.v3))


def is_open(settings: V3Settings) -> bool:
    """Whether anybody without a token may do anything there."""
    members = (settings.user, settings.admin, settings.uber_admin)
    named = any({ANONYMOUS, EVERYBODY} & set(tokens or ()) for tokens in members)
    return named or settings.open_snapshots


@dataclass(frozen=True)
class _Caller:
    actor: Actor
    name: str | None
    roles: frozenset[NasRole]


class Backends:
    """The configured backends as `orchestrator.nas.edges.v3.Subsystems`."""

    def __init__(self, service: Service, trusted: Trusted[Actor], settings: V3Settings) -> None:
        self._service = service
        self._trusted = trusted
        self._settings = settings
        self._members = {
            NasRole.USER: settings.user,
            NasRole.ADMIN: settings.admin,
            NasRole.UBER_ADMIN: settings.uber_admin,
        }
        self.open_snapshots = settings.open_snapshots
        self.discard_newer = settings.discard_newer

    async def names(self) -> list[str]:
        """The names of the backends."""
        names = await asyncio.to_thread(self._service.read, backends.configured_names)
        served = self._settings.backends
        return names if served is None else [name for name in names if name in served]

    async def caller(self, token: str | None) -> Caller:
        """Who has this token. Raises `NotAuthenticated`."""
        if token is None:
            # Its roles say what it may do; of the service's own ones it needs the one that
            # submits jobs.
            anonymous = Actor(ANONYMOUS, Role.OPERATOR)
            return _Caller(anonymous, None, self._roles(ANONYMOUS, None))
        actor = await self._trusted.check(self._service, token)
        roles = self._roles(actor.name, actor.role)
        if {NasRole.ADMIN, NasRole.UBER_ADMIN} & roles and not actor.role.includes(Role.OPERATOR):
            actor = replace(actor, role=Role.OPERATOR)
        return _Caller(actor, actor.name, roles)

    def _roles(self, name: str, role: Role | None) -> frozenset[NasRole]:
        return frozenset(
            wanted
            for wanted, members in self._members.items()
            if (
                self._usually(wanted, role)
                if members is None
                else name in members or EVERYBODY in members
            )
        )

    def _usually(self, wanted: NasRole, role: Role | None) -> bool:
        return role is not None and role.includes(_USUAL[wanted])

    async def run(self, name: str, caller: Caller, operation: contract.Operation[T]) -> T:
        """Run an operation on a backend. Raises `UnknownBackend`."""
        served = self._settings.backends
        try:
            check_backend_name(name)
        except InvalidName as problem:
            raise UnknownBackend(problem.detail) from None
        if served is not None and name not in served:
            raise UnknownBackend(f"there is no backend {name!r}")
        assert isinstance(caller, _Caller)  # noqa: S101 - `caller` makes no others
        here = _Here(self._service, name, caller.actor, self._settings.wait_seconds)
        return await contract.aperform(operation, here)


class _Here(Local):
    """A gateway to the engine of this service, whose calls are awaited."""

    def __init__(self, service: Service, backend: str, actor: Actor, wait_seconds: float) -> None:
        super().__init__(backend, actor)
        self._service = service
        self._wait = wait_seconds

    async def run(self, requests: Sequence[Request]) -> Sequence[View]:
        receipt = await self._service.submit(self._submission(requests))
        ids = receipt.view["job_ids"] if receipt.kind == "batch" else [receipt.id]
        await wait_for_end(self._service, receipt.kind, receipt.id, self._wait)
        found = await self._read(lambda transaction: job_views(transaction, ids))
        return ended_well([found[job_id] for job_id in ids], self._wait)

    async def volumes(self, after: str | None = None, limit: int | None = None) -> Sequence[View]:
        # In pages: other requests are served in between.
        found: list[View] = []
        while limit is None or len(found) < limit:
            most = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = await super().volumes(after, most)
            found += page
            if len(page) < most:
                break
            after = page[-1]["name"]
        return found

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        return await asyncio.to_thread(self._service.read, work)

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        return await asyncio.to_thread(self._service.write, work)
