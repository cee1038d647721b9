"""docs/tutorial.md and the examples of the README, followed against a running service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Product

_ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)


def _blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (_ROOT / page).read_text(), re.S)


def _run(product: Product, *command: str, directory: Path) -> str:
    path = f"{Path(sys.executable).parent}:{product.env['PATH']}"
    done = subprocess.run(
        command,
        env={**product.env, "PATH": path},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_tutorial_and_the_readme_work_as_they_are_written(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.start()
    try:
        for block in _blocks("docs/tutorial.md", "sh"):
            printed = _run(product, "bash", "-euo", "pipefail", "-c", block, directory=tmp_path)
        assert "ghost" in printed and "web1" in printed
        [commands] = [one for one in _blocks("README.md", "sh") if one.startswith("orchestrator b")]
        again = commands.replace("vm1", "another")
        _run(product, "bash", "-euo", "pipefail", "-c", again, directory=tmp_path)
        [program] = _blocks("README.md", "python")
        assert "succeeded" in _run(product, sys.executable, "-c", program, directory=tmp_path)
    finally:
        product.stop()
