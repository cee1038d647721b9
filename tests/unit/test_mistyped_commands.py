"""Commands that there are not: the nearest is named, and never one that takes something away."""

import pytest

from orchestrator.cli.root import run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("volume creat vm1", "'orchestrator volume creat': did you mean 'create'?"),
        ("jb list", "'orchestrator jb': did you mean 'job'?"),
        ("job lst", "'orchestrator job lst': did you mean 'list'?"),
        ("volume set_info vm1", "'orchestrator volume set_info': did you mean 'set-info'?"),
        ("volume move vm1", "there is no command 'orchestrator volume move'"),
        ("volume remov vm1", "there is no command 'orchestrator volume remov'"),
        ("token revok t", "there is no command 'orchestrator token revok'"),
        ("db restor file", "there is no command 'orchestrator db restor'"),
        ("db downgrad base", "there is no command 'orchestrator db downgrad'"),
        ("lock brek vm1", "there is no command 'orchestrator lock brek'"),
        ("explode", "there is no command 'orchestrator explode'"),
    ],
)
def test_a_mistyped_command_names_the_nearest_that_loses_nothing(
    capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    assert run(words.split()) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(told)
