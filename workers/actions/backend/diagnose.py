"""Look at whatever could serve a backend on this host."""

from __future__ import annotations

from dataclasses import asdict

from orchestrator.actions.backend.diagnose import DIAGNOSE
from workers.backends.base.abilities import CanDiagnose
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import Done, Work


def diagnose(work: Work) -> Done:
    """Look at whatever could serve the backend on this host."""
    found = [
        {
            **asdict(one),
            "faults": list(one.faults),
            "usable": not one.faults and one.hidden_by is None,
        }
        for one in driver_that(work.driver, CanDiagnose).diagnose()
    ]
    return Done(result={"host": work.host, "found": found})


HANDLERS = (Handler(DIAGNOSE, diagnose),)
