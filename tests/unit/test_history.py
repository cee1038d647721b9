"""The table of kinds of events against the code that writes them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.states import Ending
from orchestrator.history.kinds import EVENT_KINDS, check_kind

ROOT = Path(__file__).parents[2]
KIND = re.compile(
    r"(archives|backend|database|events|finding|job|jobs|lock|queue|quota|schedule|token)"
    r"\.[a-z_]+"
)
#: Where words of this form mean something else.
ELSEWHERE = (
    "orchestrator/failpoints.py",
    "orchestrator/actions/schedules.py",
    "orchestrator/store",
)
LOGGED = {"debug", "info", "warning", "error", "exception", "reach", "Trouble", "Said"}


def written() -> Iterator[str]:
    for package in ("orchestrator", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            if not str(path.relative_to(ROOT)).startswith(ELSEWHERE):
                yield from in_module(ast.parse(path.read_text()))


def in_module(tree: ast.Module) -> Iterator[str]:
    logged = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in LOGGED
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in logged:
            text = node.value if isinstance(node.value, str) else ""
            if KIND.fullmatch(text):
                yield text


def test_every_kind_of_event_that_is_written_is_in_the_table() -> None:
    assert set(written()) - EVENT_KINDS == set()
    # The end of a lost attempt is reported as the loss of its lease.
    endings = set(Ending) - {Ending.LOST}
    assert {f"job.{ending}" for ending in endings} - EVENT_KINDS == set()


def test_a_kind_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r": did you mean 'job\.succeeded'\?"):
        check_kind("job.succeded")
