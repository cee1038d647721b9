"""Hooks: an administrator's programs that run before and after an action.

``PATH/volume.create.pre.d/`` holds what runs before a `volume.create`, in the order of the
names, ``volume.create.post.d/`` what runs after it; ``any.pre.d`` and ``any.post.d`` run for
every action, first. A program that fails before an action stops the job before anything was
changed; one that fails after it is told with the job's result. No shell is involved. What the
job is about stands on a program's standard input, as JSON: it may be longer than arguments and
variables can be.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.domain.errors import HookFailed
from orchestrator.domain.targets import KINDS
from orchestrator.jobs.claim import Claim
from orchestrator.settings import HooksSettings
from orchestrator.trust import why_untrusted
from workers.backends.base.commands import Command, Ran, last_lines
from workers.backends.base.processes import how_ended
from workers.backends.base.running import OutputHeld, start

#: What a program may be called; what else is in a directory is passed over (as run-parts does).
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ANY = "any"
#: What stands on standard input only.
_LONG = {"params", "result"}


class _Work(Protocol):
    """What hooks may know of an attempt."""

    claim: Claim
    host: str

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""

    def ran(self, ran: Ran) -> None:
        """Keep what a program said with the job."""


class Hooks:
    """The hooks of this host."""

    def __init__(self, settings: HooksSettings) -> None:
        self._path = settings.path
        self._seconds = settings.seconds

    def before(self, work: _Work) -> None:
        """Run what must succeed first. Raises `HookFailed`."""
        for program in self._programs(work, "pre"):
            self._run(program, work, _told(work, "pre"))

    def after(self, work: _Work, result: Mapping[str, Any]) -> list[str]:
        """Run what wants to know; what went wrong with it, a sentence each."""
        failed: list[str] = []
        try:
            programs = self._programs(work, "post")
        except HookFailed as failure:
            return [failure.detail]
        for program in programs:
            try:
                self._run(program, work, {**_told(work, "post"), "result": result})
            except HookFailed as failure:
                failed.append(failure.detail)
        return failed

    def _programs(self, work: _Work, phase: str) -> list[Path]:
        """Those to run, in order. Raises `HookFailed` if it cannot be known which they are."""
        if self._path is None:
            return []
        found: list[Path] = []
        try:
            if not self._path.is_dir():
                raise HookFailed(
                    f"there is no directory {self._path} of hooks: create it, or change hooks.path"
                )
            _refuse_untrusted(self._path)
            for what in (_ANY, work.claim.action.name):
                directory = self._path / f"{what}.{phase}.d"
                if directory.is_dir():
                    _refuse_untrusted(directory)
                    found += sorted(
                        program
                        for program in directory.iterdir()
                        if _NAME.fullmatch(program.name) and os.access(program, os.X_OK)
                    )
        except OSError as error:
            raise HookFailed(
                f"the worker may not look at the hooks: {error.filename}: {error.strerror}; give "
                "its user access"
            ) from None
        return found

    def _run(self, program: Path, work: _Work, told: Mapping[str, Any]) -> None:
        command = Command(
            argv=(str(program),),
            seconds=self._seconds,
            environment=_variables(told),
            stdin=f"{json.dumps(told)}\n".encode(),
        )
        try:
            _refuse_untrusted(program)
            ran = start(command, answers=False).wait(work)
        except OutputHeld as held:
            raise HookFailed(
                f"hook {program} has left a process that holds its output open ({held})"
            ) from None
        except TimeoutError:
            raise HookFailed(f"hook {program} did not end within {self._seconds:g} s") from None
        except OSError as error:
            raise HookFailed(f"hook {program} cannot be run: {error.strerror}") from None
        if ran.status != 0:
            raise HookFailed(f"hook {program} {how_ended(ran.status)}: {last_lines(ran.said)}")


def _refuse_untrusted(path: Path) -> None:
    if why := why_untrusted(path):
        raise HookFailed(f"hooks are not run where others could exchange them: {why}")


def _told(work: _Work, phase: str) -> dict[str, Any]:
    """What a hook is told; None is what a job does not have."""
    claim = work.claim
    intent = claim.intent
    return {
        "phase": phase,
        "action": claim.action.name,
        "backend": intent.backend,
        **{kind: intent.name_of(kind) for kind in KINDS},
        "volume_id": intent.volume_id,
        "host": intent.host,
        "job": claim.job_id,
        "attempt": claim.attempt,
        "batch": claim.batch_id,
        "submitted_by": claim.submitted_by,
        "reason": intent.reason,
        "worker_host": work.host,
        "params": intent.params,
    }


def _variables(told: Mapping[str, Any]) -> dict[str, str]:
    """The same as variables, for programs that need no more than what is short."""
    return {
        f"ORCHESTRATOR_HOOK_{name.upper()}": "" if value is None else str(value)
        for name, value in told.items()
        if name not in _LONG
    }
