"""What a run of tests that was killed has left is cleared; what lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.rooms import clear, hold, release
from workers.backends.file import loops

_RUN = """
import sys
from pathlib import Path
from tests.rigs.rooms import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def left(tmp_path: Path) -> Path:
    path = tmp_path / "some-run"
    path.mkdir()
    return path


@pytest.fixture
def run(left: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of tests that holds its directory."""
    made = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(left)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    yield made
    made.kill()
    made.communicate()


def test_what_a_killed_run_has_left_is_cleared(run: subprocess.Popen[str], left: Path) -> None:
    clear(left.parent, "some")
    assert left.exists(), "it lives"
    run.kill()
    run.wait()
    clear(left.parent, "another")
    assert left.exists(), "it is of another kind"
    clear(left.parent, "some")
    assert not left.exists()


def test_a_server_that_outlived_its_run_keeps_its_directory(left: Path) -> None:
    os.close(hold(left))
    (left / "server").mkdir()
    with subprocess.Popen(["cat"], cwd=left / "server", stdin=subprocess.PIPE) as server:
        clear(left.parent, "some")
        assert left.exists()
        server.kill()
    clear(left.parent, "some")
    assert not left.exists()


def test_a_directory_without_a_lock_is_nobodys_to_clear(left: Path) -> None:
    clear(left.parent, "some")
    assert left.exists()


@pytest.mark.skipif(not loops.available(), reason="loop devices need root")
def test_devices_of_images_that_were_deleted_are_detached_too(left: Path) -> None:
    os.close(hold(left))
    other = left.parent / "some-run-else.img"
    for image in (left / "a.img", left / "gone.img", other):
        image.write_bytes(bytes(2**20))
        subprocess.run(["losetup", "--find", str(image)], check=True)
    (left / "gone.img").unlink()
    try:
        clear(left.parent, "some")
        assert not left.exists()
        assert [Path(one).name for one in _backing(left.parent)] == [other.name]
    finally:
        release(left.parent)
    assert _backing(left.parent) == []


def _backing(below: Path) -> list[str]:
    """The images below a directory that loop devices hold."""
    told = subprocess.run(
        ["losetup", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True
    ).stdout
    return [line for line in told.splitlines() if line.startswith(str(below))]
