"""When a call is sent again: its connection broke, and a second time does no harm."""

from __future__ import annotations

import random
from typing import Any, TypeVar

import httpx

from orchestrator.client.steps import Pause, Request, Steps
from orchestrator.domain.errors import Unavailable

T = TypeVar("T")

#: How often a call is sent again before its failure is told.
_RESENDS = 4


def back_off(failures: int, most: float = 5.0) -> float:
    """Seconds to pause after this many failures: exponential, with jitter."""
    longest = min(most, 0.1 * 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


def resending(method: Steps[T]) -> Steps[T]:
    """The same steps, with repeatable calls sent again when their connection breaks.

    A connection that never came about fails at once, so that a script learns quickly that
    nobody is there; one that broke may be a service restarting, and is given some seconds.
    """
    told: Any = None
    failed: Exception | None = None
    while True:
        try:
            step = method.throw(failed) if failed is not None else method.send(told)
        except StopIteration as end:
            result: T = end.value
            return result
        told, failed = None, None
        resend = isinstance(step, Request) and step.repeatable
        broken = False
        for failures in range(1, _RESENDS + 2):
            try:
                told, failed = (yield step), None
                break
            except Exception as error:
                failed = error
                broken = broken or _broke(error)
                if not (resend and broken and _of_connection(error)) or failures > _RESENDS:
                    break
            yield Pause(back_off(failures))


def _of_connection(error: Exception) -> bool:
    return isinstance(error, Unavailable) and "may_have_arrived" in error.facts


def _broke(error: Exception) -> bool:
    """Whether a connection was there and broke. One that only is silent did not."""
    silent = isinstance(error.__cause__, httpx.TimeoutException)
    return _of_connection(error) and not silent and bool(error.facts["may_have_arrived"])  # type: ignore[attr-defined]
