"""Rounds: what is compared takes turns, so that a disturbance meets all alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each side returned, one value a round; the order is turned round every time."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        for name in names if number % 2 == 0 else reversed(names):
            gc.collect()
            found[name].append(sides[name]())
    return found
