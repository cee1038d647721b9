"""The matrix of data has a section of its own on the page that the crash matrix writes."""

from __future__ import annotations

from pathlib import Path

BEGIN, _END = "<!-- data: begin -->", "<!-- data: end -->"


def kept(text: str, page: Path) -> str:
    """``text`` with the section that the page has now."""
    return placed(text, _within(page.read_text())) if page.exists() else text


def placed(text: str, section: str) -> str:
    """``text`` with this as its section; behind all else if it has no place for one."""
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{BEGIN}\n{section.strip()}\n{_END}\n"
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{section.strip()}\n{_END}{rest.partition(_END)[2]}"


def _within(text: str) -> str:
    return text.partition(BEGIN)[2].partition(_END)[0]
