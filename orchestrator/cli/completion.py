"""What shells may complete: names that are cheap to find out."""

from __future__ import annotations

import warnings

from orchestrator.domain.errors import Problem

#: Seconds a shell may be kept waiting for the names of backends.
_PATIENCE = 1.0


def action_names(incomplete: str) -> list[tuple[str, str]]:
    """Actions that begin so, with their summaries."""
    from orchestrator.actions.registry import ACTIONS  # declares models, which takes a while

    return [(a.name, a.summary) for a in ACTIONS.values() if a.name.startswith(incomplete)]


def backend_names(incomplete: str) -> list[str]:
    """Backends that begin so; none if the service does not answer quickly."""
    from orchestrator.cli.connection import connect

    try:
        with warnings.catch_warnings(), connect(timeout=_PATIENCE) as client:
            warnings.simplefilter("ignore")
            names = [backend["name"] for backend in client.backends()]
    except (Problem, OSError, ValueError):
        return []
    return [name for name in names if name.startswith(incomplete)]
