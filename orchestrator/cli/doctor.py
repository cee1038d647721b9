"""``doctor``: what this machine needs to be a part of the service, tried out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from orchestrator.cli import options
from orchestrator.cli.output import Columns, print_json, print_table
from orchestrator.cli.servers import Config, Data, settings_from

_FINDINGS: Columns = {
    "": lambda finding: finding.verdict,
    "what": lambda finding: finding.what,
    "how it is": lambda finding: finding.detail,
    "what to do": lambda finding: finding.remedy or "",
}


def doctor(data: Data = None, config: Config = None, as_json: options.Json = False) -> None:
    """Check what this machine needs, and say what is wrong and how to fix it.

    Run it as the service's user, with its settings. It changes nothing. Exit status 1 if there is
    an error, 0 if there are warnings at most.
    """
    settings = settings_from(data=data, config=config)
    from orchestrator.cli.examinations import Verdict, examine

    found: list[Any] = list(examine(settings))
    well = all(finding.verdict is not Verdict.ERROR for finding in found)
    if as_json:
        print_json({"well": well, "findings": [asdict(finding) for finding in found]})
    else:
        print_table(found, _FINDINGS)
    if not well:
        raise typer.Exit(1)
