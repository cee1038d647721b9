"""docs/python-client.md, its examples run from top to bottom against a running service."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import Client
from tests.acceptance.conftest import Product

_PAGE = Path(__file__).parents[2] / "docs" / "python-client.md"
_EXAMPLES = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.S)


@pytest.mark.timeout(300)
def test_the_examples_work_as_they_are_written(
    product: Product, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_URL", product.url)
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", product.token)
    with Client() as client:
        earlier = {job.id for job in client.jobs()}
    blocking, awaited, *further = _EXAMPLES
    _run(blocking, {})
    assert capsys.readouterr().out == "10737418240\n"
    _run(awaited, {})
    assert "job.succeeded" in capsys.readouterr().out
    with Client() as client:
        names: dict[str, Any] = {"client": client}
        for example in further:
            _run(example, names)
        for job in client.jobs():
            if job.id not in earlier:
                client.wait(job.id).raise_for_state()
        assert names["failed"] == []
        assert client.volume.get("fast", "vm1").size_bytes == 30 * 2**30


def _run(example: str, names: dict[str, Any]) -> None:
    """Run an example, which may await."""
    code = compile(example, str(_PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)
