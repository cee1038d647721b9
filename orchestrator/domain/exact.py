"""What is sent is taken for what it is: no text for a number, no truth value for either."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.errors import MalformedBody


class Exact(BaseModel):
    """Base of all bodies: unknown fields and values of another type are refused.

    A whole number may be written ``5.0``: what reads the JSON makes an integer of it
    (`read_json`).
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Written(BaseModel):
    """The last base of a model whose values all come as text, as in a query."""

    model_config = ConfigDict(strict=False)


def read_json(text: bytes | str, what: str = "the body", field: str = "body") -> Any:
    """What JSON says; numbers that are whole as integers, however they are written.

    ``what`` it is, and which ``field``, for errors. Raises `MalformedBody`, also for a key that is
    twice in one object: one of the two would silently not be done. ``path`` of its facts leads to
    that object.
    """
    doubled: list[tuple[str, dict[str, Any]]] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs) and not doubled:
            names = [name for name, _ in pairs]
            doubled.append((next(name for name in names if names.count(name) > 1), found))
        return found

    try:
        read = json.loads(
            text, object_pairs_hook=once, parse_float=_number, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"{what} is no JSON: {error}", field=field) from None
    for name, holder in doubled:
        detail = f"{name[:64]!r} is twice in one object: give it once"
        raise MalformedBody(detail, field=field, path=_path(read, holder))
    return read


def _path(read: Any, holder: dict[str, Any]) -> list[str | int]:
    """The keys that lead to an object inside what was read; none where its own were overwritten."""
    left: list[tuple[list[str | int], Any]] = [([], read)]
    while left:
        path, value = left.pop()
        if value is holder:
            return path
        if isinstance(value, dict | list):
            within = value.items() if isinstance(value, dict) else enumerate(value)
            left += [([*path, key], below) for key, below in within]
    return []


def _number(written: str) -> int | float:
    number = float(written)
    # Beyond 2**53 a float no longer says which whole number was meant.
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def _refuse_constant(written: str) -> Any:
    raise ValueError(f"{written} is no number of JSON")
