"""The root command: which commands there are, each loaded only when it is used."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from pkgutil import iter_modules
from typing import Annotated, Any

import typer

from orchestrator import actions
from orchestrator.cli import failures
from orchestrator.cli.groups import Group
from orchestrator.cli.output import clean
from orchestrator.domain.errors import InvalidInput, Problem

#: Where each command is: a module, and in it a function or a Typer application. A kind of
#: resource that is not among them has the commands that are derived from its declarations.
_COMMANDS = {
    "up": ("servers", "up"),
    "api": ("servers", "api"),
    "worker": ("servers", "worker"),
    "scheduler": ("servers", "scheduler"),
    "status": ("status", "status"),
    "doctor": ("doctor", "doctor"),
    "config": ("configuration", "app"),
    "db": ("database", "app"),
    "submit": ("submit", "submit"),
    "batch": ("batch", "batch"),
    "plan": ("submit", "plan"),
    "job": ("jobs", "app"),
    "queue": ("queue", "app"),
    "volume": ("volumes", "app"),
    "snapshot": ("snapshots", "app"),
    "lock": ("locks", "app"),
    "policy": ("policies", "app"),
    "backend": ("backends", "app"),
    "schedule": ("schedules", "app"),
    "event": ("events", "app"),
    "audit": ("audit", "app"),
    "quota": ("quotas", "app"),
    "token": ("tokens", "app"),
    "extstorage": ("extstorage", "app"),
    "action": ("actions", "app"),
}
_KINDS = [found.name for found in iter_modules(actions.__path__) if found.ispkg]
DERIVED = [kind for kind in _KINDS if kind not in _COMMANDS]


class _Lazy(MutableMapping[str, Any]):
    """Commands by name; one is imported when it is asked for, since imports are what costs."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            if name in DERIVED:
                found = importlib.import_module("orchestrator.cli.resources").group_of(name)
            else:
                module, attribute = _COMMANDS[name]
                found = getattr(importlib.import_module(f"orchestrator.cli.{module}"), attribute)
            if not isinstance(found, typer.Typer):
                function = found
                found = typer.Typer(add_completion=False, rich_markup_mode=None)
                found.command(name)(function)
            command: Any = typer.main.get_command(found)
            command.name = name
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*_COMMANDS, *DERIVED))

    def __len__(self) -> int:
        return len(_COMMANDS) + len(DERIVED)


class _Root(Group):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Lazy()


app = typer.Typer(cls=_Root, no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        from orchestrator import __version__  # asks the installed packages, which takes a while

        typer.echo(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Durable jobs on storage: submit, wait, look, audit.

    The service is found through ORCHESTRATOR_URL and ORCHESTRATOR_TOKEN, or, on the machine
    and for the user that runs `orchestrator up`, without them.

    Exit status: 0 done; 1 the job was accepted and failed or was canceled; 2 wrong usage or
    invalid input; 3 not found; 4 conflict; 5 not allowed; 6 still running when the time to
    wait was over; 7 the service cannot be reached.
    """


def _check_text(words: Sequence[str]) -> None:
    """Refuse what Python could not decode: it could be neither sent nor printed."""
    for place, word in enumerate(words, start=1):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"argument {place} is not UTF-8: {clean(word)!r}", field="arguments"
            ) from None


def run(words: Sequence[str]) -> int:
    """Run a command line; its exit status."""
    try:
        return _run(words)
    except BrokenPipeError:
        return failures.reader_gone()


def _run(words: Sequence[str]) -> int:
    as_json = "--json" in words
    warnings.showwarning = failures.show_warning
    try:
        _check_text(words)
        command = typer.main.get_command(app)
        status = command.main(list(words), prog_name="orchestrator", standalone_mode=False)
        sys.stdout.flush()
    except Problem as problem:
        return failures.tell(problem, as_json=as_json)
    except typer.TyperException as wrong:
        return failures.tell_usage(wrong, as_json=as_json)
    except (typer.Abort, KeyboardInterrupt):
        return failures.INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        return failures.tell_of_system(error, as_json=as_json)
    except Exception as error:
        return failures.tell_unforeseen(error, as_json=as_json)
    return status if isinstance(status, int) else 0
