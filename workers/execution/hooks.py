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
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

from orchestrator.domain.errors import HookFailed
from orchestrator.jobs.claim import Claim
from orchestrator.settings import HooksSettings
from orchestrator.trust import why_untrusted
from workers.backends.base.processes import OutputHeld, how_ended, shown, stop, watch

#: What a program may be called; what else is in a directory is passed over (as run-parts does).
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ANY = "any"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: How much of what a program said is told.
_LINES = 20
_CHARACTERS = 2000
#: What stands on standard input only.
_LONG = {"params", "result"}


class _Work(Protocol):
    """What hooks may know of an attempt."""

    claim: Claim
    host: str

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""


class Hooks:
    """The hooks of this host."""

    def __init__(self, settings: HooksSettings) -> None:
        self._path = settings.path
        self._seconds = settings.seconds

    def before(self, work: _Work) -> None:
        """Run what must succeed first. Raises `HookFailed`."""
        told = _told(work, "pre")
        for program in self._programs(work, "pre"):
            self._run(program, work, told)

    def after(self, work: _Work, result: Mapping[str, Any]) -> list[str]:
        """Run what wants to know; what went wrong with it, a sentence each."""
        told = {**_told(work, "post"), "result": result}
        failed: list[str] = []
        try:
            programs = self._programs(work, "post")
        except HookFailed as failure:
            return [failure.detail]
        for program in programs:
            try:
                self._run(program, work, told)
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
        try:
            _refuse_untrusted(program)
            process = _start(program, told)
        except OSError as error:
            raise HookFailed(f"hook {program} cannot be run: {error.strerror}") from None
        try:
            said = watch(process, self._seconds, work.checkpoint)
        except OutputHeld as held:
            raise HookFailed(
                f"hook {program} has left a process that holds its output open ({held})"
            ) from None
        except TimeoutError:
            raise HookFailed(f"hook {program} did not end within {self._seconds:g} s") from None
        finally:
            stop(process)
        if process.returncode != 0:
            shows = shown(said, lines=_LINES, characters=_CHARACTERS)
            raise HookFailed(f"hook {program} {how_ended(process.returncode)}: {shows}")


def _refuse_untrusted(path: Path) -> None:
    if why := why_untrusted(path):
        raise HookFailed(f"hooks are not run where others could exchange them: {why}")


def _start(program: Path, told: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Run a program that reads what it is told from a file: it need not read it, or all of it."""
    with TemporaryFile() as document:
        document.write(f"{json.dumps(told)}\n".encode())
        document.seek(0)
        return subprocess.Popen(
            [str(program)],
            stdin=document,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C", **_variables(told)},
            start_new_session=True,
        )


def _told(work: _Work, phase: str) -> dict[str, Any]:
    """What a hook is told; None is what a job does not have."""
    claim = work.claim
    intent = claim.intent
    return {
        "phase": phase,
        "action": claim.action.name,
        "backend": intent.backend,
        "volume": intent.volume,
        "volume_id": intent.volume_id,
        "snapshot": intent.snapshot,
        "policy": intent.policy,
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
