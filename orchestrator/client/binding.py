"""Turns methods written once into blocking ones of `Client` and awaitable ones of `AsyncClient`.

The three decorators are descriptors: what an attribute is depends on the client it is read
from, and type checkers follow that through the overloads of ``__get__``.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from orchestrator.client.kinds import A
from orchestrator.client.steps import Steps, StreamSteps

if TYPE_CHECKING:
    from orchestrator.client.listings import AsyncListing, Listing, Query
    from orchestrator.client.rooms import Room
    from orchestrator.client.runners import AsyncClient, Client, DocumentClient

P = ParamSpec("P")
T = TypeVar("T")


class _Bound:
    """A descriptor that binds ``run(client, what the method returned)``.

    ``shown`` is what signatures say that it returns: ``{}`` stands for the type that the method
    gives to what runs it.
    """

    def __init__(self, method: Callable[..., Any], run: str, shown: str) -> None:
        hints = method.__annotations__
        hints["return"] = shown.format(hints["return"].partition("[")[2].removesuffix("]"))

        @functools.wraps(method)
        def call(client: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(client, run)(method(client, *args, **kwargs))

        self._call = call
        self.__doc__ = method.__doc__
        self.__wrapped__ = method

    def _bind(self, client: object) -> Any:
        return MethodType(self._call, client)


class operation(_Bound, Generic[P, T]):
    """A method that returns once: ``client.job(17)``, ``await client.job(17)``."""

    def __init__(self, method: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        super().__init__(method, "_run", "{}")

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, client: DocumentClient | Room[DocumentClient], owner: type
    ) -> Callable[P, Any]: ...
    @overload
    def __get__(self, client: Client | Room[Client], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, client: AsyncClient | Room[AsyncClient], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: object, owner: type) -> Any:
        """The method bound to a client."""
        return self if client is None else self._bind(client)


class listing(_Bound, Generic[P, A]):
    """A method whose pages are fetched as they are iterated, with ``for`` or ``async for``."""

    def __init__(self, method: Callable[Concatenate[Any, P], Query[A]]) -> None:
        super().__init__(method, "_list", "Listing[{}]")

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: DocumentClient, owner: type) -> Callable[P, Listing[Any]]: ...
    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, Listing[A]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncListing[A]]: ...
    def __get__(self, client: object, owner: type) -> Any:
        """The method bound to a client."""
        return self if client is None else self._bind(client)


class stream(_Bound, Generic[P, T]):
    """A method that goes on giving results, iterated with ``for`` or ``async for``."""

    def __init__(self, method: Callable[Concatenate[Any, P], StreamSteps[T]]) -> None:
        super().__init__(method, "_stream", "Iterator[{}]")

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, client: DocumentClient, owner: type
    ) -> Callable[P, Generator[Any, None, None]]: ...
    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: object, owner: type) -> Any:
        """The method bound to a client."""
        return self if client is None else self._bind(client)
