"""Groups of commands, and what they say to a command that they do not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup


class Group(TyperGroup):
    """Commands under one word. A mistyped one is answered with the nearest that loses nothing."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.suggest_commands = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names. Raises Typer's usage error."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as wrong:
            if args and args[0] not in self.commands:
                wrong.message = self._no_such(ctx.command_path, args[0], list(self.commands))
            raise

    @staticmethod
    def _no_such(path: str, written: str, known: Sequence[str]) -> str:
        from orchestrator.domain.nearest import did_you_mean  # only where something is wrong

        return f"there is no command '{path} {written}'{did_you_mean(written, known)}"


def group() -> typer.Typer:
    """An empty group; without a command it shows its help."""
    return typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
