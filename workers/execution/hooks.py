"""Hooks: an administrator's programs that run before and after an action.

``PATH/volume.create.pre.d/`` holds what runs before a `volume.create`, in the order of the
names, ``volume.create.post.d/`` what runs after it; ``any.pre.d`` and ``any.post.d`` run for
every action, first. A program that fails before an action stops the job before anything was
changed; one that fails after it is told with the job's result. No shell is involved.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from orchestrator.domain.errors import HookFailed
from orchestrator.jobs.claim import Claim
from orchestrator.settings import HooksSettings
from workers.processes import OutputHeld, how_ended, shown, stop, watch

#: What a program may be called; what else is in a directory is passed over (as run-parts does).
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ANY = "any"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: How much of what a program said is told.
_LINES = 20
_CHARACTERS = 2000


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
        for program in self._programs(work, "pre"):
            self._run(program, work, "pre", {})

    def after(self, work: _Work, result: Mapping[str, Any]) -> list[str]:
        """Run what wants to know; what went wrong with it, a sentence each."""
        failed: list[str] = []
        for program in self._programs(work, "post"):
            try:
                self._run(program, work, "post", {"RESULT": json.dumps(result)})
            except HookFailed as failure:
                failed.append(failure.detail)
        return failed

    def _programs(self, work: _Work, phase: str) -> Iterator[Path]:
        if self._path is None:
            return
        for what in (_ANY, work.claim.action.name):
            directory = self._path / f"{what}.{phase}.d"
            with suppress(FileNotFoundError):
                for program in sorted(directory.iterdir()):
                    if _NAME.fullmatch(program.name) and os.access(program, os.X_OK):
                        yield program

    def _run(self, program: Path, work: _Work, phase: str, more: Mapping[str, str]) -> None:
        for part in (program, program.parent):
            if part.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise HookFailed(f"{part} can be written by others than its owner: it is not run")
        try:
            process = subprocess.Popen(
                [str(program)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": _PATH, "LC_ALL": "C", **_told(work, phase, more)},
                start_new_session=True,
            )
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
            told = shown(said, lines=_LINES, characters=_CHARACTERS)
            raise HookFailed(f"hook {program} {how_ended(process.returncode)}: {told}")


def _told(work: _Work, phase: str, more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a hook; what a job does not have is empty."""
    claim = work.claim
    intent = claim.intent
    facts = {
        "PHASE": phase,
        "ACTION": claim.action.name,
        "BACKEND": intent.backend,
        "VOLUME": intent.volume,
        "VOLUME_ID": intent.volume_id,
        "SNAPSHOT": intent.snapshot,
        "POLICY": intent.policy,
        "HOST": intent.host,
        "PARAMS": json.dumps(intent.params),
        "JOB": claim.job_id,
        "ATTEMPT": claim.attempt,
        "BATCH": claim.batch_id,
        "SUBMITTED_BY": claim.submitted_by,
        "REASON": intent.reason,
        "WORKER_HOST": work.host,
        **more,
    }
    return {
        f"ORCHESTRATOR_HOOK_{name}": "" if value is None else str(value)
        for name, value in facts.items()
    }
