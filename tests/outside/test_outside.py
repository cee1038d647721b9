"""Drivers of other distributions: found by their entry points, and refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from orchestrator.domain.errors import Unsupported
from orchestrator.domain.installed import DRIVERS, GROUP, Installed
from orchestrator.settings import BackendSettings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY = "workers.backends.memory.spec:SPEC"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the small distribution is installed into."""
    path = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(path), str(HERE / "distribution")],
        check=True,
    )
    return path


def _pytest(installed: Path, *arguments: str) -> str:
    """What pytest says in a process of its own that has the distribution on its path."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
            # Of its own: at its end pytest tidies up what other runs have left where all are.
            *(f"--basetemp={installed.parent / 'run'}", *arguments),
        ],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_driver_outside_the_tree_passes_the_conformance_suite(installed: Path) -> None:
    said = _pytest(installed, "tests/conformance/test_drivers.py", "-k", "tiny")
    assert "passed" in said


def test_a_driver_outside_the_tree_runs_jobs(installed: Path) -> None:
    assert "2 passed" in _pytest(installed, "tests/outside/jobs.py", "-k", "sqlite")


def test_an_api_host_loads_no_library_of_a_driver() -> None:
    loaded = (
        "import sys, orchestrator.settings\n"
        "print([m for m in sys.modules if m.startswith('netapp_ontap') or m.endswith('.driver')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"


def _point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (_point("new", "not_there.spec:SPEC"), "No module named 'not_there'"),
        (_point("new", "workers.backends.memory.spec:NONE"), "has no attribute 'NONE'"),
        (_point("new", "workers.backends.memory.spec:MemoryOptions"), "it is no DriverSpec"),
        (_point("new", MEMORY), "its spec is that of the driver 'memory'"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_refused_and_hinders_no_other(
    point: EntryPoint, why: str
) -> None:
    found = Installed(lambda: [point, _point("memory", MEMORY)])
    assert list(found) == ["memory"]
    with pytest.raises(Unsupported) as refused:
        found["new"]
    assert refused.value.detail.startswith(f"the driver 'new', {point.value} of ")
    assert why in refused.value.detail


def test_of_two_drivers_of_one_name_neither_is_used() -> None:
    found = Installed(lambda: [_point("memory", MEMORY), _point("memory", "other.spec:SPEC")])
    assert "memory" not in found
    assert found.why_not("memory") == (
        "there are two drivers 'memory', workers.backends.memory.spec:SPEC of an unknown "
        "distribution and other.spec:SPEC of an unknown distribution: remove one of the two "
        "distributions"
    )


def test_a_backend_of_a_driver_that_cannot_be_used_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DRIVERS.refused, "zfs", "the driver 'zfs' cannot be used: it is broken")
    with pytest.raises(ValueError, match="it is broken"):
        BackendSettings.model_validate({"driver": "zfs"})


def test_an_installation_without_drivers_says_what_to_do() -> None:
    assert "install again" in Installed(lambda: []).why_not("memory")
