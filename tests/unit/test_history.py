"""The kinds of events against the code that writes them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.contract.events import Event
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.states import EventKind
from orchestrator.history.kinds import check_kind

ROOT = Path(__file__).parents[2]
#: Where the kinds are declared, and where such words mean something else.
ELSEWHERE = ("orchestrator/domain/states.py", "orchestrator/failpoints.py")
KINDS = frozenset(kind.value for kind in EventKind)
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
            yield from {node.value} & KINDS if isinstance(node.value, str) else ()


def test_no_kind_of_event_is_written_as_text() -> None:
    assert sorted(written()) == []


def test_a_kind_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r": did you mean 'job\.succeeded'\?"):
        check_kind("job.succeded")


def test_the_answer_has_objects_where_there_are_some() -> None:
    told = {"number": 1, "at": "2026-01-01T00:00:00Z", "kind": "volume.clone", "actor": "anna"}
    assert "objects" not in Event.model_validate({**told, "objects": None}).model_dump()
    source = {"role": "source", "kind": "volume", "name": "vm", "id": "a", "backend": "fast"}
    answer = Event.model_validate({**told, "objects": [source]})
    assert answer.model_dump()["objects"] == [source]
