"""docs/tutorial.md, followed from top to bottom against a running service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Product

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.timeout(300)
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.start()
    try:
        for block in re.findall(r"```sh\n(.*?)```", _PAGE.read_text(), re.S):
            printed = _follow(product, block, tmp_path)
    finally:
        product.stop()
    assert "ghost" in printed and "web1" in printed


def _follow(product: Product, block: str, directory: Path) -> str:
    path = f"{Path(sys.executable).parent}:{product.env['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        env={**product.env, "PATH": path},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout
