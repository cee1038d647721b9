"""What does an action: its handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from orchestrator.domain.action import Action
from workers.execution.outcomes import OutcomeOf
from workers.execution.work import Done, Undo, Work


@dataclass(frozen=True)
class Handler:
    """What is done for one action, a few calls of the driver, and how that ends where it fails.

    It may run again after a crash at any point: driver calls are idempotent and act on immutable
    ids, and the inventory changes only when the outcome is written.
    """

    action: Action
    run: Callable[[Work], Done]
    _: KW_ONLY
    #: What has become of it where it was canceled: asked of the storage, for what changes it.
    outcome: OutcomeOf | None = None
    #: Takes away what it has made, on the backend or elsewhere.
    undo: Undo | None = None

    def __post_init__(self) -> None:
        """Refuse one that does not fit what the action is declared as."""
        asked = self.action.journaled and not (self.action.creates or self.action.leaves_files)
        if (self.outcome is not None) is not asked:
            raise TypeError(f"{self.action.name}: 'outcome' is for what changes the storage, only")
        makes = self.action.leaves_files or (self.action.creates and self.action.needs_storage)
        if (self.undo is not None) is not makes:
            raise TypeError(f"{self.action.name}: 'undo' is for what makes something, only")
