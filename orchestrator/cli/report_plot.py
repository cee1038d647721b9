"""Plots of capacity over time, as SVG that stands in a page by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from orchestrator.cli.output import clean

#: The picture, and in it the field of the lines, in units of the picture.
_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 740, 40, 240
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
#: What is drawn: the field, what the legend says, and a line that prints in black and white, too.
_LINES = (
    ("total_bytes", "total", "#444444", "2 2"),
    ("promised_bytes", "promised", "#b35900", "8 3"),
    ("volume_bytes", "sizes of volumes", "#1f5fa8", ""),
    ("used_bytes", "used", "#2e7d32", "5 2 1 2"),
)


def plot(backend: str, days: Sequence[Mapping[str, Any]]) -> str:
    """Lines over the days of a backend; each line is left out where nothing is known of it."""
    first, last = (date.fromisoformat(days[place]["day"]).toordinal() for place in (0, -1))
    most = max([1, *(day[field] or 0 for day in days for field, *_ in _LINES)])
    unit, step = _grid(most)
    top = step * -(-most // step)

    def across(day: str) -> float:
        share = (date.fromisoformat(day).toordinal() - first) / max(1, last - first)
        return _LEFT + share * (_RIGHT - _LEFT)

    def up(size: float) -> float:
        return _BOTTOM - size / top * (_BOTTOM - _TOP)

    title = escape(clean(f"Capacity of {backend}"))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{title}</title>",
        _text(_WIDTH / 2, 20, title, "middle", "title"),
        *_levels(step, top, unit, up),
        *_dates([day["day"] for day in days], across),
        _text((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "day (UTC)", "middle"),
        f'<text transform="translate(14 {(_TOP + _BOTTOM) / 2}) rotate(-90)"'
        f' text-anchor="middle">{_UNITS[unit]}</text>',
        f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="#000"/>',
    ]
    for place, (field, name, color, dashes) in enumerate(_LINES):
        known = [(across(day["day"]), up(day[field])) for day in days if day[field] is not None]
        style = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"'
        if len(known) == 1:
            parts.append(f'<circle cx="{known[0][0]:.1f}" cy="{known[0][1]:.1f}" r="3" {style}/>')
        elif known:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
            parts.append(f'<polyline points="{line}" {style}/>')
        x = _LEFT + place * 165
        parts.append(f'<path d="M{x} {_HEIGHT - 10}h26" {style}/>')
        parts.append(_text(x + 32, _HEIGHT - 6, escape(name), "start"))
    return "\n".join([*parts, "</svg>"])


def _grid(most: int) -> tuple[int, int]:
    """The unit of the axis, and the bytes between two of its lines: 1, 2 or 5 of a power of 10."""
    unit = min((most.bit_length() - 1) // 10, len(_UNITS) - 1)
    for power in itertools.count():
        for digit in (1, 2, 5):
            step = digit * 10**power * 1024**unit
            if most <= 5 * step:
                return unit, step
    raise AssertionError("unreachable")


def _levels(step: int, top: int, unit: int, up: Any) -> Iterator[str]:
    for size in range(0, top + 1, step):
        y = up(size)
        yield f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#ddd"/>'
        yield _text(_LEFT - 6, y + 4, str(size // 1024**unit), "end")


def _dates(days: Sequence[str], across: Any) -> Iterator[str]:
    """The first day, the last one, and a few between them."""
    places = sorted({round(part * (len(days) - 1) / 4) for part in range(5)})
    for place in places:
        yield _text(across(days[place]), _BOTTOM + 16, escape(days[place]), "middle")


def _text(x: float, y: float, written: str, anchor: str, kind: str = "") -> str:
    """Text at a place; ``written`` is escaped already."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{written}</text>'
