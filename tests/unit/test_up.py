"""`orchestrator up` keeps its parts running."""

from __future__ import annotations

import os

from structlog.testing import capture_logs

from orchestrator.up import _Part
from tests.chaos.processes import until


def test_a_part_that_keeps_dying_early_is_started_ever_more_slowly() -> None:
    part = _Part("api", ["no-such-command"], dict(os.environ))

    def deaths() -> int:
        part.look()
        return sum(line["event"] == "up.part_died" for line in lines)

    with capture_logs() as lines:
        part.start()
        until(lambda: deaths() == 4, "it dies four times")
    pauses = [line["again_in"] for line in lines if line["event"] == "up.part_died"]
    assert pauses == [0.0, 0.0, 0.5, 1.0]
    part.early_deaths = 100
    assert part._pause() == 30.0


def test_a_part_that_has_lived_for_a_while_is_started_again_at_once() -> None:
    part = _Part("worker-1", ["no-such-command"], dict(os.environ), early_deaths=5)
    with capture_logs() as lines:
        part.start()
        part.started -= 60.0
        assert part.process is not None
        first = part.process
        first.wait(60)
        part.look()
    assert [line["again_in"] for line in lines] == [0.0]
    assert part.process is not None
    assert part.process is not first
    part.process.wait(60)
