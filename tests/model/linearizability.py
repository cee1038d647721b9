"""Whether what concurrent clients saw can be put into one order (after Wing and Gong, 1993).

Each thing that happened took effect at one moment between its begin and its end. A history is
right if the moments can be chosen so that, one after the other, each does what a sequential
specification says. The specification of one volume is below: a line of accepted changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Point(Generic[State]):
    """Something that took effect at one moment between ``begin`` and ``end``."""

    begin: float
    end: float
    #: The state after it, or None if it cannot happen in this state.
    happen: Callable[[State], State | None]
    told: str = ""
    #: The place of another point that comes before this one.
    after: int | None = None
    #: It may never have happened at all: nobody heard of its end.
    optional: bool = False


def linearization(points: Sequence[Point[State]], state: State) -> list[int] | None:
    """One order of the points' places that explains them all; None if there is none."""
    required = sum(1 << place for place, point in enumerate(points) if not point.optional)
    tried: set[tuple[int, State]] = set()
    order: list[int] = []
    stack = [(0, _next(points, 0, state))]
    while stack:
        done, candidates = stack[-1]
        if done & required == required:
            return order
        if not candidates:
            stack.pop()
            order = order[:-1]
            continue
        place, then = candidates.pop()
        known = (done | 1 << place, then)
        if known not in tried:
            tried.add(known)
            order.append(place)
            stack.append((known[0], _next(points, *known)))
    return None


def _next(points: Sequence[Point[State]], done: int, state: State) -> list[tuple[int, State]]:
    """What may come next, with the state after it: nothing that is left ended before it began.

    What can happen now and changes nothing comes at once: later it could only be harder.
    """
    left = [place for place in range(len(points)) if not done >> place & 1]
    first_end = min((points[place].end for place in left), default=math.inf)
    found: list[tuple[int, State]] = []
    for place in left:
        point = points[place]
        if point.begin > first_end or not (point.after is None or done >> point.after & 1):
            continue
        then = point.happen(state)
        if then == state:
            return [(place, then)]
        if then is not None:
            found.append((place, then))
    return found[::-1]


# -- one volume ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What one client did to a volume, and what it heard."""

    #: ``create``, ``grow``, ``remove`` or ``read``.
    kind: str
    size: int
    begin: float
    end: float
    #: A refusal's code; ``accepted``, ``unknown``; for a read ``absent``, ``pending``, ``there``.
    heard: str
    #: When the acceptance was heard, if that was before the end.
    accepted: float | None = None
    job_id: int | None = None
    #: How the job ended: ``succeeded``, or the code of its error.
    ended: str = "succeeded"

    def __str__(self) -> str:
        job = f" as job {self.job_id} ({self.ended})" if self.job_id else ""
        told = f"{self.kind} {self.size}: {self.heard}{job}"
        return f"{told} in [{self.begin:.4f}, {self.end:.4f}]"


@dataclass(frozen=True)
class Line:
    """A volume: what is recorded of it, and the accepted changes that will come to be, in order.

    ``size``: None where there is none. A submission is judged by what the line will leave, a
    read tells what is recorded, and changes come to be from the head of the line.
    """

    size: int | None = None
    waiting: tuple[tuple[int, str, int], ...] = ()
    last_job: int = 0

    def outlook(self) -> int | None:
        """The size once everything in the line has come to be."""
        size = self.size
        for _, kind, wanted in self.waiting:
            if _refusal(kind, wanted, size) is None:
                size = _done(kind, wanted)
        return size


def _refusal(kind: str, wanted: int, size: int | None) -> str | None:
    if kind == "create":
        return None if size is None else "already_exists"
    if size is None:
        return "unknown_volume"
    return "shrink_refused" if kind == "grow" and wanted <= size else None


def _done(kind: str, wanted: int) -> int | None:
    return None if kind == "remove" else wanted


def explain(operations: Sequence[Operation]) -> list[str] | None:
    """One order in which all of this can have happened to a volume that was not there."""
    points: list[Point[Line]] = []
    for number, operation in enumerate(operations):
        points += _points(number, operation, len(points))
    order = linearization(points, Line())
    return None if order is None else [points[place].told for place in order]


def _points(number: int, operation: Operation, place: int) -> list[Point[Line]]:
    kind, size, told = operation.kind, operation.size, str(operation)

    def accept(line: Line) -> Line | None:
        if _refusal(kind, size, line.outlook()) is not None:
            return None
        job_id = operation.job_id or line.last_job
        if job_id < line.last_job:
            return None
        return Line(line.size, (*line.waiting, (number, kind, size)), job_id)

    def come_to_be(line: Line) -> Line | None:
        if not line.waiting or line.waiting[0][0] != number:
            return None
        why = _refusal(kind, size, line.size)
        if operation.ended != (why or "succeeded"):
            return None
        now = line.size if why else _done(kind, size)
        return Line(now, line.waiting[1:], line.last_job)

    def refuse(line: Line) -> Line | None:
        return line if _refusal(kind, size, line.outlook()) == operation.heard else None

    def read(line: Line) -> Line | None:
        if operation.heard == "there":
            fits = line.size == size
        else:
            creating = bool(line.waiting) and line.waiting[0][1] == "create"
            fits = line.size is None and (operation.heard == "absent" or creating)
        return line if fits else None

    begin, end = operation.begin, operation.end
    if kind == "read":
        return [Point(begin, end, read, told)]
    if operation.heard not in ("accepted", "unknown"):
        return [Point(begin, end, refuse, told)]
    unknown = operation.heard == "unknown"
    heard = math.inf if unknown else operation.accepted or end
    return [
        Point(begin, heard, accept, f"accepted: {told}", optional=unknown),
        Point(
            begin,
            math.inf if unknown else end,
            come_to_be,
            f"done: {told}",
            after=place,
            optional=unknown,
        ),
    ]
