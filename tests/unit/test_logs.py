"""Logs: what fails again and again is told without filling them."""

from __future__ import annotations

from structlog.testing import CapturingLogger

from orchestrator.logs import Trouble


def test_what_goes_on_failing_is_told_once_and_its_end_too() -> None:
    log = CapturingLogger()
    trouble = Trouble(log, "broker.away", "broker.back")
    trouble.went()
    for _ in range(1000):
        trouble.came(error="refused")
    trouble.went()
    trouble.went()
    trouble.came(error="again")
    told = [(call.method_name, *call.args, call.kwargs) for call in log.calls]
    assert told == [
        ("warning", "broker.away", {"times": 1, "error": "refused"}),
        ("info", "broker.back", {"after": 1000}),
        ("warning", "broker.away", {"times": 1, "error": "again"}),
    ]
