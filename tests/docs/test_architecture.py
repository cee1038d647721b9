"""docs/architecture.md shows the code as it is: paths, floors and states."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from orchestrator.domain.states import (
    FINISHED,
    NEXT_JOB_STATES,
    NEXT_VOLUME_STATES,
    VolumeState,
)
from tests.docs.reference import DOCS

ROOT = DOCS.parent
TEXT = (DOCS / "architecture.md").read_text()

_PATH = re.compile(r"`((?:orchestrator|workers|migrations|tests)(?:/\w+)*(?:\.py)?)(?::(\w+))?`")
_ARROW = re.compile(r"^ +(\w+) --> (\w+)", re.MULTILINE)


def _section(heading: str) -> str:
    [found] = [part for part in re.split(r"^## ", TEXT, flags=re.M) if part.startswith(heading)]
    return found


def _is_there(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


def test_every_path_exists() -> None:
    named = {path for path, _ in _PATH.findall(TEXT)}
    assert {path for path in named if not _is_there(path)} == set()


def test_every_name_is_defined_in_its_file() -> None:
    for path, name in _PATH.findall(TEXT):
        if name:
            source = (ROOT / path).read_text()
            assert re.search(rf"^(?:(?:async )?def|class) {name}\b", source, re.M), (path, name)


def test_the_floors_are_those_that_imports_are_checked_by() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [layers] = [
        contract["layers"]
        for contract in pyproject["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    checked = [module.strip() for layer in layers for module in re.split(r"[|:]", layer)]
    rows = [line for line in _section("Floors").splitlines() if line.startswith("| ")]
    shown = [path for row in rows for path, _ in _PATH.findall(row.split("|")[2])]
    assert [path.replace("/", ".") for path in shown] == checked


def _drawn(heading: str) -> set[tuple[str, str]]:
    return set(_ARROW.findall(_section(heading)))


def _declared(following: Mapping[Any, frozenset[Any]]) -> set[tuple[str, str]]:
    return {(str(one), str(other)) for one, others in following.items() for other in others}


def test_the_diagrams_show_the_tables_of_states() -> None:
    assert _drawn("States of a job") == _declared(NEXT_JOB_STATES)
    assert _drawn("States of a volume") == _declared(NEXT_VOLUME_STATES)


def test_nothing_follows_an_end() -> None:
    assert {state for state, others in NEXT_JOB_STATES.items() if not others} == set(FINISHED)
    assert NEXT_VOLUME_STATES[VolumeState.REMOVED] == frozenset()
