"""Lists that may be longer than what is shown of them."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.connection import MOST, collect
from orchestrator.cli.failures import say
from orchestrator.cli.output import Columns, print_json, print_table
from orchestrator.client import Listing


def show_list(
    listing: Listing[Any], columns: Columns, *, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Print up to ``limit`` items, and for people how many more there are."""
    found = collect(listing, limit, cursor)
    if as_json:
        print_json(found)
        return
    print_table(found["items"], columns)
    if found["cursor"] is None:
        return
    rest: Any = listing.page(limit=MOST, cursor=found["cursor"])
    if more := len(rest["items"]):
        at_least = "" if rest["cursor"] is None else "at least "
        say(f"{at_least}{more} more; --limit shows more of them")
