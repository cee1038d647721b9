"""Accounts: what is counted for them, and which actions add to it."""

from __future__ import annotations

from orchestrator.domain.action import Action

#: What a quota may limit.
COUNTED = ("bytes", "volumes", "snapshots")


def makes_volume(action: Action) -> bool:
    """Whether there is a volume more once it is done."""
    return action.kind == "volume" and (action.creates or action.adopts)


def makes_snapshot(action: Action) -> bool:
    """Whether there is a snapshot more once it is done."""
    return action.kind == "snapshot" and action.creates


def adds(action: Action) -> bool:
    """Whether an account may have more of anything once it is done."""
    return makes_volume(action) or makes_snapshot(action) or action.name == "volume.grow"
