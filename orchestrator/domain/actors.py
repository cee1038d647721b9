"""Actors: who asks for something, and in whose name storage is made."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.states import Role

#: Who acts when nobody asked: the engine itself.
ENGINE = "orchestrator"


@dataclass(frozen=True)
class Actor:
    """Who submits: a token's name, role and project."""

    name: str
    role: Role
    project: str | None = None

    @property
    def account(self) -> str:
        """Whose storage it is that this one has made."""
        return self.project or self.name
