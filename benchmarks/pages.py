"""Pages of lists over HTTP: what each takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlencode

from benchmarks.lean_client import LeanClient

#: What is asked for: a path, and the filters of a page; None of what is no page.
Asked = tuple[str, Mapping[str, str] | None]


def milliseconds(client: LeanClient, asked: Asked, times: int) -> list[float]:
    """Milliseconds for a page, asked for so many times after a first one that does not count."""
    path = address(*asked)
    client.get(path)
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        client.get(path)
        taken.append((time.perf_counter() - begun) * 1e3)
    return taken


def far_in(client: LeanClient, asked: Asked, pages: int = 10) -> Asked:
    """What follows after so many pages."""
    path, filters = asked
    cursor: str | None = None
    for _ in range(pages):
        further = {"cursor": cursor} if cursor else {}
        cursor = client.get(address(path, {**(filters or {}), **further}))["cursor"]
        if cursor is None:
            break
    return path, {**(filters or {}), "cursor": cursor} if cursor else filters


def address(path: str, filters: Mapping[str, str] | None) -> str:
    """The address of a page of 100, or of what is no page."""
    return path if filters is None else f"{path}?{urlencode({'limit': '100', **filters})}"
