"""Sizes: bytes inside, binary units for people."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import InvalidSize

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
_WRITTEN = re.compile(
    r"(?P<number>[0-9]{1,40}(?:[.,][0-9]{1,20})?)\s?(?:(?P<unit>[KMGTPE])(?:i?B?)|B)?",
    re.IGNORECASE | re.ASCII,
)
#: ``1,500G`` is 1.5 to some and 1500 to others.
_TWO_MEANINGS = re.compile(r"[0-9]{1,3},[0-9]{3}", re.ASCII)

#: The largest size a volume may have: what a signed 64-bit column holds.
MAX_SIZE = 2**63 - 1


def parse_size(written: int | float | str, most: int = MAX_SIZE) -> int:
    """Bytes for ``10737418240``, ``"10G"``, ``"10Gi"``, ``"512 MiB"``, ``"1.5T"``, ``"1,5T"``.

    Units are binary. Raises `InvalidSize` for anything else, for zero, for what is no whole
    number of bytes, and for more than ``most``.
    """
    if isinstance(written, str):
        size = _read(written)
    elif isinstance(written, float) and written.is_integer():
        size = int(written)
    elif isinstance(written, int) and not isinstance(written, bool):
        size = written
    else:
        raise InvalidSize(f"a size is a whole number of bytes or text such as 10G, not {written!r}")
    if size <= 0:
        raise InvalidSize(f"a size is at least 1 byte, not {size}")
    if size > most:
        raise InvalidSize(f"{written} is more than the largest size, {most} bytes")
    return size


def _read(written: str) -> int:
    match = _WRITTEN.fullmatch(written.strip())
    if match is None:
        raise InvalidSize(
            f"{written[:40]!r} is no size: write bytes, or a number with K, M, G, T or P, "
            "such as 10G or 1.5T"
        )
    number = match["number"]
    if _TWO_MEANINGS.fullmatch(number):
        raise InvalidSize(
            f"{written[:40]!r} can be read in two ways: write it without the comma, or with a "
            "point before the decimals"
        )
    size = Fraction(number.replace(",", ".")) * _UNITS[(match["unit"] or "").upper()]
    if size.denominator != 1:
        above = -(-size.numerator // size.denominator)
        raise InvalidSize(f"{written[:40]!r} is no whole number of bytes: the next one is {above}")
    return size.numerator


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


#: A size below this is rarely meant: its unit was forgotten.
_SMALL = 2**20


def doubt(size: object) -> str | None:
    """What to say of a size whose unit was probably forgotten; None of any other."""
    if not isinstance(size, int) or not 0 < size < _SMALL:
        return None
    return f"the size is {size} bytes, less than 1 MiB: a number without a unit is bytes"


def round_up(size: int, grain: int) -> int:
    """``size`` rounded up to a whole number of ``grain`` bytes."""
    return -(-size // grain) * grain


def _parse_offset(written: int | float | str) -> int:
    return 0 if str(written) in ("0", "0.0") else parse_size(written)


def _written(least: int, pattern: str, example: int) -> WithJsonSchema:
    """What the documentation says of a number of bytes from ``least`` on."""
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": MAX_SIZE},
                {"type": "string", "pattern": pattern},
            ],
            "description": "Bytes, or text with a binary unit such as 10G, 10Gi or 1.5T.",
            "examples": [example],
        }
    )


#: A model field: bytes, or text with a binary unit; always bytes once read.
Size = Annotated[
    int,
    BeforeValidator(checked(parse_size)),
    Field(ge=1, le=MAX_SIZE),
    _written(1, "^[1-9][0-9]{0,3}[KMGTkmgt]i?$", 10737418240),
]

#: The largest number that says how large something may become at most.
MAX_LIMIT = 2**127 - 1

#: A model field: a size that nothing need have, only stay below.
AnySize = Annotated[
    int,
    BeforeValidator(checked(lambda written: parse_size(written, MAX_LIMIT))),
    Field(ge=1, le=MAX_LIMIT),
    _written(1, "^[1-9][0-9]{0,3}[KMGTkmgt]i?$", 10737418240),
]

#: A model field: a place inside a volume, written like a size; zero is its beginning.
Offset = Annotated[
    int,
    BeforeValidator(checked(_parse_offset)),
    Field(ge=0, le=MAX_SIZE),
    _written(0, "^(0|[1-9][0-9]{0,3}[KMGTkmgt]i?)$", 0),
]
