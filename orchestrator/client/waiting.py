"""Waiting for the end of a job or a batch, through restarts of the service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from orchestrator.client.resending import back_off
from orchestrator.client.steps import Pause, Request, Steps, given
from orchestrator.domain.errors import InvalidInput, Unavailable

#: Seconds for which one request asks the service to wait: below what proxies allow.
HOLD = 30.0
#: The same where somebody watches.
_WATCHED_HOLD = 0.5
#: Seconds between requests to a service that answers before it was asked to.
_EARLY_PAUSE = 0.25


class Deadline:
    """A moment until which is waited."""

    def __init__(self, seconds: float | None) -> None:
        """``seconds`` from now; None: without end."""
        if seconds is not None and (math.isnan(seconds) or seconds < 0):
            raise InvalidInput(
                f"a time to wait is 0 seconds or more, not {seconds}", field="timeout"
            )
        self._moment = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; 0 afterwards."""
        return max(0.0, self._moment - time.monotonic())

    def preference(self) -> tuple[dict[str, str], float]:
        """The header that asks the service to wait, and for how long it does."""
        seconds = int(min(self.left, HOLD))
        return ({"Prefer": f"wait={seconds}"}, float(seconds)) if seconds else ({}, 0.0)


def ended(document: Any) -> bool:
    """Whether a job or batch has ended."""
    return document["finished_at"] is not None


def until_ended(
    path: str,
    deadline: Deadline,
    *,
    answered: Callable[[], bool],
    seen: Callable[[Any], None] | None = None,
) -> Steps[Any]:
    """The job or batch at ``path`` once it has ended, or as it is at the deadline.

    ``seen`` is called with what each look finds. A service that has ``answered`` before is
    waited for when it is away; one that never did is told at once. Raises `Unavailable` if
    it is still away at the deadline.
    """
    failures = 0
    while True:
        hold = min(deadline.left, HOLD if seen is None else _WATCHED_HOLD)
        asked = time.monotonic()
        try:
            answer = yield Request(
                method="GET", path=f"{path}/wait", params=given(timeout=round(hold, 3)), held=hold
            )
        except Unavailable:
            if not answered() or deadline.left == 0:
                raise
            failures += 1
            yield Pause(min(deadline.left, back_off(failures)))
            continue
        failures = 0
        document = answer.body
        if seen is not None:
            seen(document)
        if ended(document) or deadline.left == 0:
            return document
        if time.monotonic() - asked < hold / 2:
            yield Pause(min(deadline.left, _EARLY_PAUSE))
