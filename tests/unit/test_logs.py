"""Logs: what fails again and again is told without filling them."""

from __future__ import annotations

import logging

from structlog.testing import CapturingLogger

from orchestrator.logs import Said, Seldom, Trouble


def test_what_goes_on_failing_is_told_once_and_its_end_too() -> None:
    log = CapturingLogger()
    trouble = Trouble(log, "broker.away", "broker.back")
    trouble.went()
    for _ in range(1000):
        trouble.came(error="refused")
    trouble.went()
    trouble.went()
    trouble.came(error="again")
    lasted = log.calls[1].kwargs["lasted_seconds"]
    told = [(call.method_name, *call.args, call.kwargs) for call in log.calls]
    assert told == [
        ("warning", "broker.away", {"times": 1, "error": "refused"}),
        ("info", "broker.back", {"after": 1000, "lasted_seconds": lasted}),
        ("warning", "broker.away", {"times": 1, "error": "again"}),
    ]


def test_what_a_library_says_again_and_again_is_told_once() -> None:
    seldom, lost = Seldom(), "connection lost: %s"
    records = [
        logging.LogRecord("celery.worker", logging.ERROR, "", 0, text, (n,), None)
        for n in range(1000)
        for text in (lost, "and %s more")
    ]
    told = [record.getMessage() for record in records if seldom.filter(record)]
    assert told == ["connection lost: 0", "and 0 more"]


def test_what_is_refused_is_told_until_the_reason_changes() -> None:
    log = CapturingLogger()
    said = Said(log, "repair.refused")
    for why in ("busy", "busy", "gone", "gone"):
        said.refused(7, why, finding=7)
    said.refused(8, "gone", finding=8)
    said.accepted(7)
    said.refused(7, "gone", finding=7)
    told = [(call.kwargs["finding"], call.kwargs["why"]) for call in log.calls]
    assert told == [(7, "busy"), (7, "gone"), (8, "gone"), (7, "gone")]
