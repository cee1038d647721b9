"""Providers are found and judged as Ganeti's own code finds and judges them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rigs import ganeti
from workers.backends.extstorage.provider import (
    OPTIONAL,
    REQUIRED,
    diagnose,
    find,
    parse_parameters,
)

pytestmark = pytest.mark.slow


def _whole(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for script in (*REQUIRED, *OPTIONAL):
        (directory / script).write_text("#!/bin/sh\n")
        (directory / script).chmod(0o755)
    (directory / "parameters.list").write_text("path Where the images are.\nsize\tOf what\n")
    return directory


def _without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _not_executable(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).chmod(0o644)


def _dangling(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to(directory / "no-such")

    return spoil


def _directory(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).mkdir()

    return spoil


def _linked(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / name).rename(directory / "elsewhere")
        (directory / name).symlink_to("elsewhere")

    return spoil


SPOILT: dict[str, Callable[[Path], None]] = {
    "whole": lambda _: None,
    **{f"no-{name}": _without(name) for name in (*REQUIRED, *OPTIONAL)},
    "no-parameters": _without("parameters.list"),
    "create-not-executable": _not_executable("create"),
    "snapshot-not-executable": _not_executable("snapshot"),
    "parameters-not-executable": _not_executable("parameters.list"),
    "attach-dangling": _dangling("attach"),
    "open-dangling": _dangling("open"),
    "grow-a-directory": _directory("grow"),
    "close-a-directory": _directory("close"),
    "parameters-a-directory": _directory("parameters.list"),
    "create-linked": _linked("create"),
    "bad.name": lambda _: None,
    "bad name": lambda _: None,
    "b\u00e4d": lambda _: None,
    ".hidden": lambda _: None,
}

_DIAGNOSE = """
for name, path, status, why, parameters in backend.DiagnoseExtStorage():
    told.append([name, path, status, [list(one) for one in parameters]])
"""


@pytest.fixture
def search_path(tmp_path: Path) -> list[Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    for name, spoil in SPOILT.items():
        spoil(_whole(first / name))
    (first / "a-file").write_text("")
    (first / "linked").symlink_to(first / "whole")
    (first / "dangling").symlink_to(first / "nowhere")
    _whole(second / "whole")
    (first / "hides").write_text("")
    _whole(second / "hides")
    return [first, tmp_path / "absent", second]


def test_what_is_usable_is_what_ganeti_would_use(search_path: list[Path], tmp_path: Path) -> None:
    theirs = ganeti.run(_DIAGNOSE, search_path=search_path, node=tmp_path / "node")
    ours = diagnose(search_path)
    assert {(one.name, str(one.directory), one.usable) for one in ours} == {
        (name, path, status) for name, path, status, _ in theirs
    }
    assert {str(one.directory): one.parameters for one in ours if one.usable} == {
        path: dict(parameters) for _, path, status, parameters in theirs if status
    }


def test_every_fault_says_which_file_and_what_is_wrong(search_path: list[Path]) -> None:
    told = {one.name: one.faults for one in diagnose(search_path[:1])}
    assert told["whole"] == ()
    assert told["no-snapshot"] == ()
    assert "no-attach/attach is missing" in told["no-attach"][0]
    assert "chmod u+x" in told["create-not-executable"][0]
    assert "a link that leads nowhere" in told["attach-dangling"][0]
    assert "is not a regular file" in told["grow-a-directory"][0]
    assert "is no directory" in told["a-file"][0]
    assert "a link that leads nowhere" in told["dangling"][0]
    assert "no name of a provider" in told["bad.name"][0]
    assert ".hidden" not in told


def test_the_first_directory_of_the_search_path_counts(search_path: list[Path]) -> None:
    found = {name: find(name, search_path) for name in ("whole", "hides", "no", "../x", "bad.name")}
    assert found["whole"] is not None
    assert found["whole"].directory == search_path[0] / "whole"
    # What is no directory hides nothing.
    assert found["hides"] is not None
    assert found["hides"].directory == search_path[2] / "hides"
    assert (found["no"], found["../x"], found["bad.name"]) == (None, None, None)


def test_parameters_are_names_and_help() -> None:
    text = "pool The pool to use.\n\nthin\tAllocate late\nbare\n  \nlast  two  spaces\n"
    assert parse_parameters(text) == {
        "pool": "The pool to use.",
        "thin": "Allocate late",
        "bare": "",
        "last": "two  spaces",
    }
