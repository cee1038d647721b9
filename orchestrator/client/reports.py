"""The client's method for the report of a period, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.client.binding import operation
from orchestrator.client.kinds import REPORT
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given

if TYPE_CHECKING:
    from orchestrator.contract.reports import Report


class ReportMethods(Methods):
    """Reports of a period."""

    @operation
    def audit_report(
        self, since: str | None = None, until: str | None = None, *, backend: str | None = None
    ) -> Steps[Report]:
        """The report from ``since`` until ``until`` (RFC 3339), by default the last 30 days.

        Raises `UnknownBackend` if there never was the backend.
        """
        period = {"from": since, "to": until}
        answer = yield Request(
            method="GET",
            path="/v1/audit/report",
            params=given(**period, backend=backend),
            repeatable=True,
        )
        return self._read(REPORT, answer.body)
