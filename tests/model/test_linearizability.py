"""The checker of histories finds the wrong ones wrong, and only those."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.model.linearizability import Operation, explain


def _op(kind: str, begin: float, end: float, size: int = 0, **more: Any) -> Operation:
    heard = "there" if kind == "read" else "accepted"
    return Operation(kind, size, begin, end, **{"heard": heard, **more})


CREATED = _op("create", 0, 1, 1)

RIGHT: dict[str, list[Operation]] = {
    "nothing happened": [],
    "one after the other": [
        _op("read", 0, 1, heard="absent"),
        _op("create", 1, 2, 1),
        _op("read", 2, 3, 1),
        _op("grow", 3, 4, 5),
        _op("read", 4, 5, 5),
        _op("remove", 5, 6),
        _op("read", 6, 7, heard="absent"),
    ],
    "a read beside a grow sees the old size or the new one": [
        CREATED,
        _op("grow", 1, 9, 5),
        _op("read", 2, 3, 1),
        _op("read", 4, 5, 5),
    ],
    "a refusal looks at what is accepted, a read at what is recorded": [
        _op("create", 0, 9, 1, accepted=1),
        _op("create", 2, 3, 1, heard="already_exists"),
        _op("read", 4, 5, heard="absent"),
        _op("read", 6, 7, heard="pending"),
    ],
    "what waits in line may be built upon": [
        _op("create", 0, 9, 1, accepted=1),
        _op("grow", 1, 9, 5, accepted=2),
        _op("remove", 2, 9, accepted=3),
        _op("create", 3, 9, 2, accepted=4),
        _op("read", 10, 11, 2),
    ],
    "nobody heard of a grow that was done": [
        CREATED,
        _op("grow", 1, math.inf, 5, heard="unknown"),
        _op("read", 7, 8, 5),
    ],
    "nobody heard of a grow that was not done": [
        CREATED,
        _op("grow", 1, math.inf, 5, heard="unknown"),
        _op("read", 7, 8, 1),
        _op("grow", 8, 9, 3),
    ],
    "refused after a removal that has not been done yet": [
        CREATED,
        _op("remove", 1, 9, accepted=2),
        _op("grow", 3, 4, 2, heard="unknown_volume"),
        _op("read", 5, 6, 1),
    ],
}

WRONG: dict[str, list[Operation]] = {
    "a read after a removal still finds it": [
        CREATED,
        _op("remove", 1, 2),
        _op("read", 3, 4, 1),
    ],
    "two creates of one name": [CREATED, _op("create", 2, 3, 1)],
    "two creates of one name at the same time": [_op("create", 0, 9, 1), _op("create", 0, 9, 1)],
    "a grow was lost": [CREATED, _op("grow", 1, 2, 5), _op("read", 3, 4, 1)],
    "a size that nobody asked for": [CREATED, _op("read", 3, 4, 2)],
    "the new size, then the old one": [
        CREATED,
        _op("grow", 1, 9, 5),
        _op("read", 2, 3, 5),
        _op("read", 4, 5, 1),
    ],
    "a refusal without a reason": [CREATED, _op("grow", 2, 3, 5, heard="shrink_refused")],
    "a create refused, and there is none": [_op("create", 0, 1, 1, heard="already_exists")],
    "a removal of what is not there": [_op("remove", 0, 1)],
    "a volume that is made smaller": [
        _op("create", 0, 1, 9),
        _op("grow", 1, 2, 5),
    ],
    "accepted in one order, numbered in another": [
        _op("create", 0, 9, 1, accepted=1, job_id=7),
        _op("grow", 2, 9, 5, accepted=3, job_id=6),
    ],
    "done in another order than accepted": [
        _op("create", 0, 1, 1),
        _op("grow", 1, 19, 5, accepted=2),
        _op("grow", 3, 19, 9, accepted=4),
        _op("read", 5, 6, 9),
        _op("read", 7, 8, 5),
    ],
    "a change that nobody asked for": [CREATED, _op("read", 2, 3, heard="absent")],
    "pending, and nobody creates it": [_op("read", 0, 1, heard="pending")],
    "a job failed that had no reason to": [CREATED, _op("grow", 1, 2, 5, ended="unknown_volume")],
    "gone for a moment, long after the removal": [
        CREATED,
        _op("remove", 1, 2),
        _op("create", 2, 3, 4),
        _op("read", 4, 5, heard="absent"),
        _op("read", 5, 6, 4),
    ],
}


@pytest.mark.parametrize("history", RIGHT.values(), ids=RIGHT.keys())
def test_what_can_have_happened_is_explained(history: list[Operation]) -> None:
    assert explain(history) is not None


@pytest.mark.parametrize("history", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_have_happened_is_found(history: list[Operation]) -> None:
    assert explain(history) is None


def test_many_clients_at_once_are_judged_quickly() -> None:
    """Four hundred points, sixteen at a time: what was tried once is not tried again."""
    history = [_op("create", 0, 0.5, 1)]
    for turn in range(1, 100):
        history += [
            _op("grow", turn, turn + 0.9, turn + 1),
            *(_op("read", turn, turn + 0.9, size) for size in (turn, turn + 1) * 3),
            *(_op("grow", turn, turn + 0.9, 1, heard="shrink_refused") for _ in range(4)),
        ]
    assert explain(history) is not None
    assert explain([*history, _op("read", 200, 201, 7)]) is None
