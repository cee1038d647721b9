"""What is printed: one JSON document for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Columns = Mapping[str, Callable[[Any], object]]

#: Columns of numbers, set to the right.
_RIGHT = {"id", "job", "size", "used", "total", "free", "promised", "number", "prio", "volumes"}


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2), flush=True)


def print_json_line(document: Any) -> None:
    """Print a JSON document on one line, at once."""
    print(json.dumps(document), flush=True)


def print_table(items: Iterable[Any], columns: Columns) -> None:
    """Print a row for each item; ``columns`` says under which heading what of it stands."""
    from rich.table import Table  # only people need it, programs ask for JSON
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        right = heading in _RIGHT
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for item in items:
        table.add_row(*(Text(text(tell(item))) for tell in columns.values()))
    _print(table)


def print_details(fields: Mapping[str, object]) -> None:
    """Print names and values below one another, those that have a value."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None and value not in ("", [], {}):
            table.add_row(name, Text(text(value)))
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    # Cut to the terminal's width for people; never where another program reads lines.
    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else 10_000, highlight=False)
    with console.capture() as capture:
        console.print(table, crop=False)
    for line in capture.get().splitlines():
        print(line.rstrip())
    sys.stdout.flush()


def text(value: object) -> str:
    """A value in a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return clean(" ".join(f"{name}={text(part)}" for name, part in value.items())) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return clean(", ".join(text(part) for part in value)) or "-"
    return clean(str(value))


def clean(message: str) -> str:
    """Text from elsewhere without characters that a terminal would obey."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in message
    )


def size(size_bytes: int | None) -> str:
    """``10G`` for 10737418240."""
    from orchestrator.domain.sizes import format_size  # brings pydantic along

    return format_size(size_bytes)


def params(given: Mapping[str, Any]) -> dict[str, object]:
    """A job's parameters as people write them: ``size=10G metadata.owner=billing``."""
    written: dict[str, object] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            written |= {f"{name}.{entry}": part for entry, part in value.items()}
        elif name.endswith("_bytes"):
            written[name.removesuffix("_bytes")] = size(value)
        elif value is not None:
            written[name] = value
    return written


def when(moment: str | None) -> str | None:
    """``2026-11-21 08:14:59`` in UTC, for the RFC 3339 text of an answer."""
    if moment is None:
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
