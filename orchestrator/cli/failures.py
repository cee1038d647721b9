"""How failures are told: a sentence on standard error, a document for programs, an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, TextIO

import typer

from orchestrator.cli.output import clean, print_json
from orchestrator.domain.errors import (
    EXIT_INVALID,
    EXIT_JOB_FAILED,
    EXIT_UNREACHABLE,
    InternalError,
    InvalidInput,
    Problem,
)

#: What shells report for a command that was interrupted.
INTERRUPTED = 130
#: What shells report for a command whose reader went away.
_READER_GONE = 141
#: What can be done where the system refused something, by its number.
_REMEDIES = {
    errno.EACCES: "this user may not do that there: give it the right, or choose another place",
    errno.EPERM: "this user may not do that there: give it the right, or choose another place",
    errno.EROFS: "the file system is mounted read-only: choose another place",
    errno.ENOENT: "a directory of this path is missing: make it, or choose another place",
    errno.ENOTDIR: "a part of this path is a file: choose another place",
    errno.EISDIR: "that is a directory: name a file",
    errno.ENOSPC: "the file system is full: make room there",
    errno.EDQUOT: "the quota of this user is used up: make room there",
    errno.ELOOP: "symbolic links lead in a circle there: choose another place",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter one",
}
#: Warnings of one kind that are told one by one.
_MOST_WARNINGS = 10


def tell(problem: Problem, *, as_json: bool) -> int:
    """Tell a refusal; the exit status of its class."""
    if as_json:
        print_json(problem.document())
    say(f"error: {problem.detail} ({problem.code})")
    others = problem.facts.get("errors")
    if isinstance(others, list):
        for other in others[1:]:
            say(f"  also: {other.get('detail')}")
    if more := problem.facts.get("more"):
        say(f"  and {more} more mistakes")
    # A class that describes how jobs end has status 1, which would say: it was accepted.
    status = problem.exit_status
    return EXIT_UNREACHABLE if status == EXIT_JOB_FAILED else status


def tell_usage(wrong: typer.TyperException, *, as_json: bool) -> int:
    """Tell what is wrong with the command line."""
    message = wrong.format_message()
    context: Any = getattr(wrong, "ctx", None)
    if not message or type(wrong).__name__ == "NoArgsIsHelpError":
        # A group without a command: its help is the answer.
        print(message, file=sys.stderr)
        return EXIT_INVALID
    if as_json:
        print_json(InvalidInput(message).document())
    say(f"error: {message}")
    if context is not None:
        say(f"Try '{context.command_path} --help'.")
    return EXIT_INVALID


def tell_unforeseen(error: Exception, *, as_json: bool) -> int:
    """Tell a fault of our own, with what is needed to report it."""
    traceback.print_exception(error)
    if as_json:
        print_json(InternalError(f"{type(error).__name__}: {error}").document())
    say("error: this command failed in a way it did not foresee; please report the lines above")
    return EXIT_UNREACHABLE


def tell_of_system(error: OSError, *, as_json: bool) -> int:
    """Tell what the system refused on a path, such as a directory that may not be written to."""
    if error.filename is None or error.errno not in _REMEDIES:
        return tell_unforeseen(error, as_json=as_json)
    path = os.fsdecode(error.filename)
    why = f"{path}: {error.strerror}; {_REMEDIES[error.errno]}"
    return tell(InvalidInput(why, field="path", path=path), as_json=as_json)


def reader_gone() -> int:
    """Whoever read the output has had enough, as with ``| head``: nothing to complain about."""
    # What is left in the buffer must not be written at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _READER_GONE


def warn(sentences: Sequence[str]) -> None:
    """Tell what is probably not meant; of many, the first ones and how many there are."""
    for sentence in sentences[:_MOST_WARNINGS]:
        say(f"warning: {sentence}")
    if len(sentences) > _MOST_WARNINGS:
        say(f"warning: and {len(sentences) - _MOST_WARNINGS} more like it")


def say(message: str) -> None:
    """A line for people."""
    print(clean(message), file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as a line for people, without the place in the code it came from."""
    say(f"warning: {message}")
