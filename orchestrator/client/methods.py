"""Base of the client's methods."""

from __future__ import annotations

from typing import Any

from orchestrator.client.kinds import A, Kind


class Methods:
    """What the methods need of the client that they are of."""

    #: Whether the service has answered anything yet.
    _answered: bool

    def _read(self, kind: Kind[A], document: Any) -> A:
        return kind.read(document)
