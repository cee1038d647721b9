"""Sizes: bytes inside, binary units for people."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import InvalidSize

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
_WRITTEN = re.compile(r"([0-9]{1,40})(?:([KMGTPE])(?:i?B)?|B)?", re.IGNORECASE | re.ASCII)

#: The largest size a volume may have: what a signed 64-bit column holds.
MAX_SIZE = 2**63 - 1


def parse_size(written: int | str, most: int = MAX_SIZE) -> int:
    """Bytes for ``10737418240``, ``"10G"``, ``"512MiB"``; units are binary.

    Raises `InvalidSize` for anything else, for zero and for more than ``most``.
    """
    if isinstance(written, bool) or not isinstance(written, int | str):
        raise InvalidSize(f"a size is a number of bytes or text such as 10G, not {written!r}")
    if isinstance(written, str):
        match = _WRITTEN.fullmatch(written.strip())
        if match is None:
            raise InvalidSize(
                f"{written[:40]!r} is no size: write bytes, or a whole number with "
                "K, M, G, T or P, such as 10G"
            )
        size = int(match[1]) * _UNITS[(match[2] or "").upper()]
    else:
        size = written
    if size <= 0:
        raise InvalidSize(f"a size is at least 1 byte, not {size}")
    if size > most:
        raise InvalidSize(f"{written} is more than the largest size, {most} bytes")
    return size


def format_size(size: int | None) -> str:
    """``10G`` for people: exact when a unit divides it, else one decimal."""
    if size is None:
        return "-"
    for unit in ("E", "P", "T", "G", "M", "K"):
        scale = _UNITS[unit]
        if size >= scale:
            whole = size % scale == 0
            return f"{size // scale}{unit}" if whole else f"{size / scale:.1f}{unit}"
    return str(size)


def round_up(size: int, grain: int) -> int:
    """``size`` rounded up to a whole number of ``grain`` bytes."""
    return -(-size // grain) * grain


def _parse_offset(written: int | str) -> int:
    return 0 if str(written) == "0" else parse_size(written)


def _written(least: int, pattern: str, example: int) -> WithJsonSchema:
    """What the documentation says of a number of bytes from ``least`` on."""
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": MAX_SIZE},
                {"type": "string", "pattern": pattern},
            ],
            "description": "Bytes, or text with a binary unit such as 10G.",
            "examples": [example],
        }
    )


#: A model field: bytes, or text with a binary unit; always bytes once read.
Size = Annotated[
    int,
    BeforeValidator(checked(parse_size)),
    Field(ge=1, le=MAX_SIZE),
    _written(1, "^[1-9][0-9]{0,3}[KMGTkmgt]$", 10737418240),
]

#: The largest number that says how large something may become at most.
MAX_LIMIT = 2**127 - 1

#: A model field: a size that nothing need have, only stay below.
AnySize = Annotated[
    int,
    BeforeValidator(checked(lambda written: parse_size(written, MAX_LIMIT))),
    Field(ge=1, le=MAX_LIMIT),
    _written(1, "^[1-9][0-9]{0,3}[KMGTkmgt]$", 10737418240),
]

#: A model field: a place inside a volume, written like a size; zero is its beginning.
Offset = Annotated[
    int,
    BeforeValidator(checked(_parse_offset)),
    Field(ge=0, le=MAX_SIZE),
    _written(0, "^(0|[1-9][0-9]{0,3}[KMGTkmgt])$", 0),
]
