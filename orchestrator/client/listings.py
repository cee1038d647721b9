"""Lists that are fetched page by page as they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from orchestrator.client.kinds import A, Kind
from orchestrator.client.steps import Request, Steps, given

if TYPE_CHECKING:
    from orchestrator.contract.answers import Page


#: Items asked for at once while iterating; the most the service gives.
PAGE = 1000


@dataclass(frozen=True)
class Query(Generic[A]):
    """What a list is asked with, and of what it is."""

    kind: Kind[A]
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    #: Whether ``limit`` and ``cursor`` are understood; a short list comes whole.
    paged: bool = True


def one_page(query: Query[Any], limit: int | None, cursor: str | None) -> Steps[Any]:
    """Ask for one page."""
    paging = given(limit=limit, cursor=cursor) if query.paged else {}
    answer = yield Request(
        method="GET", path=query.path, params={**query.params, **paging}, repeatable=True
    )
    return answer.body


class _Listed(Generic[A]):
    """What both kinds of lists know."""

    def __init__(
        self, query: Query[A], run: Callable[..., Any], read: Callable[[Any, Any], Any]
    ) -> None:
        #: The type of the items.
        self.kind = query.kind
        self._query = query
        self._run = run
        self._read = read

    def _page(self, document: Any) -> Page[A]:
        page: Page[A] = self._read(self._query.kind.page, document)
        return page

    def _items(self, document: Any) -> Iterator[A]:
        for item in document["items"]:
            yield self._read(self._query.kind, item)


class Listing(_Listed[A]):
    """A list: iterate over all of it, or read it a page at a time."""

    def page(self, *, limit: int | None = None, cursor: str | None = None) -> Page[A]:
        """One page: up to ``limit`` items (100 if absent, 1000 at most) after ``cursor``."""
        return self._page(self._run(one_page(self._query, limit, cursor)))

    def __iter__(self) -> Iterator[A]:
        """Every item, fetching the next page when it is needed."""
        cursor: str | None = None
        while True:
            document = self._run(one_page(self._query, PAGE, cursor))
            yield from self._items(document)
            if (cursor := document["cursor"]) is None:
                return


class AsyncListing(_Listed[A]):
    """The same for `AsyncClient`."""

    async def page(self, *, limit: int | None = None, cursor: str | None = None) -> Page[A]:
        """One page: up to ``limit`` items (100 if absent, 1000 at most) after ``cursor``."""
        return self._page(await self._run(one_page(self._query, limit, cursor)))

    async def __aiter__(self) -> AsyncIterator[A]:
        """Every item, fetching the next page when it is needed."""
        cursor: str | None = None
        while True:
            document = await self._run(one_page(self._query, PAGE, cursor))
            for item in self._items(document):
                yield item
            if (cursor := document["cursor"]) is None:
                return
