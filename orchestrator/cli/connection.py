"""The client that commands use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.client import DocumentClient, Listing

#: The most items the service gives at once.
MOST = 1000


def connect(timeout: float = 60.0) -> DocumentClient:
    """A client for the configured service; use it with ``with``."""
    return DocumentClient(timeout=timeout)


def collect(listing: Listing[Any], limit: int, cursor: str | None = None) -> dict[str, Any]:
    """Up to ``limit`` items of a list, and the cursor that goes on after them."""
    items: list[Any] = []
    while True:
        page: Any = listing.page(limit=min(limit - len(items), MOST), cursor=cursor)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None or len(items) >= limit:
            return {"items": items, "cursor": cursor}


def whole(items: Iterable[Any]) -> dict[str, Any]:
    """A list that was read to its end, as the service would answer it."""
    return {"items": list(items), "cursor": None}
