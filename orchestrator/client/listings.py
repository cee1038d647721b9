"""Lists that are fetched page by page as they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from orchestrator.client.shapes import Page
from orchestrator.client.steps import Call, Steps, given

T = TypeVar("T")

#: Items asked for at once while iterating; the most the service gives.
PAGE = 1000


@dataclass(frozen=True)
class Query(Generic[T]):
    """What a list is asked with."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    #: Whether ``limit`` and ``cursor`` are understood; a short list comes whole.
    paged: bool = True


def one_page(query: Query[T], limit: int | None, cursor: str | None) -> Steps[Page[T]]:
    """Ask for one page."""
    paging = given(limit=limit, cursor=cursor) if query.paged else {}
    answer = yield Call(
        method="GET", path=query.path, params={**query.params, **paging}, repeatable=True
    )
    return cast(Page[T], answer.body)


class Listing(Generic[T]):
    """A list: iterate over all of it, or read it a page at a time."""

    def __init__(self, query: Query[T], run: Callable[[Steps[Page[T]]], Page[T]]) -> None:
        self._query = query
        self._run = run

    def page(self, *, limit: int | None = None, cursor: str | None = None) -> Page[T]:
        """One page: up to ``limit`` items (100 if absent, 1000 at most) after ``cursor``."""
        return self._run(one_page(self._query, limit, cursor))

    def __iter__(self) -> Iterator[T]:
        """Every item, fetching the next page when it is needed."""
        page = self.page(limit=PAGE)
        yield from page["items"]
        while page["cursor"] is not None:
            page = self.page(limit=PAGE, cursor=page["cursor"])
            yield from page["items"]


class AsyncListing(Generic[T]):
    """The same for `AsyncClient`."""

    def __init__(
        self,
        query: Query[T],
        run: Callable[[Steps[Page[T]]], Coroutine[Any, Any, Page[T]]],
    ) -> None:
        self._query = query
        self._run = run

    async def page(self, *, limit: int | None = None, cursor: str | None = None) -> Page[T]:
        """One page: up to ``limit`` items (100 if absent, 1000 at most) after ``cursor``."""
        return await self._run(one_page(self._query, limit, cursor))

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every item, fetching the next page when it is needed."""
        page = await self.page(limit=PAGE)
        for item in page["items"]:
            yield item
        while page["cursor"] is not None:
            page = await self.page(limit=PAGE, cursor=page["cursor"])
            for item in page["items"]:
                yield item
