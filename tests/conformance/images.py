"""What tests of the `file` driver do with images behind its back, as hosts and strangers do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.domain.errors import InUse, Problem
from tests.conformance.calls import Claim, new_volume
from tests.conformance.systems import INSTALLATION, Files
from workers.backends.base import blockdevices
from workers.backends.base.references import VolumeRef
from workers.backends.file import uses
from workers.backends.file.driver import FileDriver

MIB = 2**20
NOBODY = 65534


def made(files: Files, name: str = "vm1", size: int = MIB) -> VolumeRef:
    volume = new_volume(name)
    files.driver.create(volume, size, {}, Claim())
    return volume


def attachable(files: Files) -> FileDriver:
    if "attach" not in files.driver.capabilities():
        pytest.skip("loop devices need root and /dev/loop-control")
    return files.driver


def needs_program(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")


@contextmanager
def in_use(match: str | None = None) -> Iterator[pytest.ExceptionInfo[InUse]]:
    """It is refused as in use, by somebody who stays: nobody need wait for them to let go."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InUse, match=match) as told:
        for module in (uses, blockdevices):
            patch.setattr(module, "_LET_GO", 0.0)
        yield told


@contextmanager
def user_of(image: Path, *command: str, mode: str = "<>") -> Iterator[subprocess.Popen[str]]:
    """A process that has an image open, run by ``command`` if any, as a hypervisor has."""
    script = f'exec 3{mode}"$0"; echo open; read line'
    with subprocess.Popen(
        [*command, "sh", "-c", script, str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        assert user.stdin is not None
        assert user.stdout.readline() == "open\n"
        try:
            yield user
        finally:
            user.stdin.close()
            user.wait()


def as_nobody(ask: Callable[[], object]) -> object:
    """What a worker that is not root would get: the answer, or the `Problem` itself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                answer: object = ask()
            except Problem as problem:
                answer = (type(problem), problem.detail)
            os.write(writing, pickle.dumps(answer))
        except BaseException as error:  # the test is to see it
            os.write(writing, pickle.dumps((type(error), repr(error))))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        answer = pickle.loads(answers.read())
    os.waitpid(child, 0)
    return answer


def run(
    files: Files,
    call: Claim,
    method: str,
    volume: VolumeRef,
    *more: object,
    only: Path | None = None,
    options: Mapping[str, str] | None = None,
    **inject: str,
) -> tuple[subprocess.CompletedProcess[str], str]:
    """One call in a process of its own whose system calls fail as is said, of those on ``only``
    this path: what it did, and the log of its system calls."""
    needs_program("strace")
    log = files.path.parent / "strace.log"
    wanted = {"job_id": call.job_id, "fence": call.fence, "method": method}
    wanted |= {"options": options or {}}
    traced = {"fsync", "fdatasync", "fadvise64", *inject}
    done = subprocess.run(
        [
            *("strace", "-f", "-y", "-o", str(log), "-e", f"trace={','.join(sorted(traced))}"),
            *(() if only is None else ("-P", str(only))),
            *(f"--inject={name}:{how}" for name, how in inject.items()),
            *(sys.executable, "-m", "tests.conformance.attempt", "file", "files", INSTALLATION),
            files.written_options(),
            json.dumps({**wanted, "arguments": [{"id": volume.id, "name": volume.name}, *more]}),
            "0",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text()
