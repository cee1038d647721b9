"""The two runners: they carry out the steps of client methods over HTTP, blocking or awaiting."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from orchestrator.client.actions import ResourceMethods
from orchestrator.client.answers import read_answer, unreachable
from orchestrator.client.audit import AuditMethods
from orchestrator.client.endpoint import Endpoint, endpoint_for
from orchestrator.client.history import HistoryMethods
from orchestrator.client.inventory import InventoryMethods
from orchestrator.client.jobs import JobMethods
from orchestrator.client.kinds import A, Kind
from orchestrator.client.listings import AsyncListing, Listing, Query
from orchestrator.client.quotas import QuotaMethods
from orchestrator.client.reports import ReportMethods
from orchestrator.client.resending import resending
from orchestrator.client.schedules import ScheduleMethods
from orchestrator.client.steps import Item, NextLine, Open, Pause, Request, Steps, StreamSteps
from orchestrator.client.streams import LineBuffer
from orchestrator.domain.errors import InvalidInput, NotAuthenticated

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


class _Methods(
    ResourceMethods,
    JobMethods,
    InventoryMethods,
    HistoryMethods,
    AuditMethods,
    QuotaMethods,
    ReportMethods,
    ScheduleMethods,
):
    """Every method, and what both drivers prepare alike."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0
    ) -> None:
        """Connect to a service.

        ``url`` and ``token`` are looked for in ORCHESTRATOR_URL and ORCHESTRATOR_TOKEN, then
        in the files that `orchestrator up` leaves for its user; see `endpoint_for`.
        ``timeout``: seconds until a call that gets no answer is given up, besides the time
        that it asked the service to wait.
        """
        self.endpoint: Endpoint = endpoint_for(url, token)
        self._timeout = timeout
        self._answered = False

    @property
    def url(self) -> str:
        """The address that is called."""
        return self.endpoint.url

    def _settings(self) -> dict[str, Any]:
        """The arguments of httpx's client. Raises `InvalidInput` for an address that is none."""
        try:
            url = httpx.URL(self.endpoint.url)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{self.endpoint.url!r} is no URL: {error}", field="url") from None
        headers = {"User-Agent": "orchestrator-client"}
        if self.endpoint.token:
            headers["Authorization"] = f"Bearer {self.endpoint.token}"
        settings: dict[str, Any] = {"base_url": url, "headers": headers}
        # Certificates are loaded only where they are needed: a tenth of a short command's time.
        # They are the system's, or those that SSL_CERT_FILE names.
        is_plain = url.scheme == "http"
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else None
        settings["verify"] = plain or ssl.create_default_context()
        if url.host in _THIS_MACHINE:
            # A proxy meant for other hosts cannot reach this one, and should not see the token.
            settings["trust_env"] = False
        return settings

    def _request(self, call: Request, read_seconds: float) -> dict[str, Any]:
        """The arguments of httpx for a call."""
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": call.path,
            "params": call.params or None,
            "headers": dict(call.headers),
            "timeout": httpx.Timeout(self._timeout, connect=_CONNECT_SECONDS, read=read_seconds),
        }
        if call.json is not None:
            arguments["json"] = call.json
        if call.content is not None:
            arguments["content"] = call.content
        return arguments

    def _explained(self, problem: NotAuthenticated) -> NotAuthenticated:
        """The problem, with what to do about it from here."""
        if self.endpoint.token is not None:
            return problem
        return NotAuthenticated(
            f"{self.url} wants a token, and none is set: set ORCHESTRATOR_TOKEN"
        )


class Client(_Methods):
    """Blocking calls. Use it with ``with``, or call `close`. Threads may share one.

    with Client("http://127.0.0.1:8080", token) as client:
        job = client.volume.create("fast", "vm1", size="10G", wait=60)
        job.raise_for_state()
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0
    ) -> None:
        super().__init__(url, token, timeout=timeout)
        self._http = httpx.Client(**self._settings())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def _run(self, method: Steps[T]) -> T:
        with closing(resending(method)) as steps:
            try:
                step = next(steps)
                while True:
                    try:
                        told = self._take(step)
                    except Exception as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(told)
            except StopIteration as end:
                result: T = end.value
                return result

    def _take(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            request = self._request(step, self._timeout + step.held)
            response = self._http.request(**request)
            self._answered = True
            return read_answer(response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        except NotAuthenticated as problem:
            raise self._explained(problem) from None

    def _list(self, query: Query[A]) -> Listing[A]:
        return Listing(query, self._run, self._read)

    def _stream(self, steps: StreamSteps[T]) -> Generator[T, None, None]:
        lines: Iterator[str] | None = None
        told: Any = None
        failed: Exception | None = None
        with closing(steps), ExitStack() as response:
            while True:
                try:
                    step = steps.throw(failed) if failed is not None else steps.send(told)
                except StopIteration:
                    return
                told, failed = None, None
                if isinstance(step, Item):
                    yield step.value
                    continue
                try:
                    if isinstance(step, Open):
                        response.close()
                        lines = self._open(step.call, response)
                    elif isinstance(step, NextLine):
                        told = next(lines, None) if lines is not None else None
                    else:
                        told = self._take(step)
                except httpx.TransportError as error:
                    failed = unreachable(self.url, error)
                except Exception as error:
                    failed = error

    def _open(self, call: Request, opened: ExitStack) -> Iterator[str]:
        request = self._request(call, call.held)
        response = opened.enter_context(self._http.stream(**request))
        self._answered = True
        if not response.is_success:
            response.read()
            read_answer(response)
        return self._lines(response)

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        buffer = LineBuffer()
        for chunk in response.iter_bytes():
            yield from buffer.feed(chunk)


class DocumentClient(Client):
    """A blocking client whose answers are the documents that the service sent: dictionaries.

    For what passes them on, with fields that this version does not know.
    """

    def _read(self, kind: Kind[A], document: Any) -> Any:
        return document


class AsyncClient(_Methods):
    """The same calls to be awaited. Use it with ``async with``, or await `aclose`.

    async with AsyncClient() as client:
        job = await client.volume.create("fast", "vm1", size="10G", wait=60)
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0
    ) -> None:
        super().__init__(url, token, timeout=timeout)
        self._http = httpx.AsyncClient(**self._settings())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def _run(self, method: Steps[T]) -> T:
        with closing(resending(method)) as steps:
            try:
                step = next(steps)
                while True:
                    try:
                        told = await self._take(step)
                    except Exception as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(told)
            except StopIteration as end:
                result: T = end.value
                return result

    async def _take(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            request = self._request(step, self._timeout + step.held)
            response = await self._http.request(**request)
            self._answered = True
            return read_answer(response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        except NotAuthenticated as problem:
            raise self._explained(problem) from None

    def _list(self, query: Query[A]) -> AsyncListing[A]:
        return AsyncListing(query, self._run, self._read)

    async def _stream(self, steps: StreamSteps[T]) -> AsyncGenerator[T, None]:
        lines: AsyncIterator[str] | None = None
        told: Any = None
        failed: Exception | None = None
        async with AsyncExitStack() as streaming:
            streaming.callback(steps.close)
            response = await streaming.enter_async_context(AsyncExitStack())
            while True:
                try:
                    step = steps.throw(failed) if failed is not None else steps.send(told)
                except StopIteration:
                    return
                told, failed = None, None
                if isinstance(step, Item):
                    yield step.value
                    continue
                try:
                    if isinstance(step, Open):
                        await response.aclose()
                        lines = await self._open(step.call, response)
                    elif isinstance(step, NextLine):
                        told = await anext(lines, None) if lines is not None else None
                    else:
                        told = await self._take(step)
                except httpx.TransportError as error:
                    failed = unreachable(self.url, error)
                except Exception as error:
                    failed = error

    async def _open(self, call: Request, opened: AsyncExitStack) -> AsyncIterator[str]:
        request = self._request(call, call.held)
        response = await opened.enter_async_context(self._http.stream(**request))
        self._answered = True
        if not response.is_success:
            await response.aread()
            read_answer(response)
        return self._lines(response)

    async def _lines(self, response: httpx.Response) -> AsyncIterator[str]:
        buffer = LineBuffer()
        async for chunk in response.aiter_bytes():
            for line in buffer.feed(chunk):
                yield line
