"""What goes wrong around a command is told in a sentence, never in a traceback."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.root import run
from orchestrator.settings import default_data


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("db upgrade --data {file}/data", "Not a directory; a part of this path is a file"),
        ("db backup {directory}/none/b --data {data}", "a directory of this path is missing"),
        ("db upgrade --data /proc/none", "a directory of this path is missing"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_with_the_path_and_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    (tmp_path / "file").touch()
    data = tmp_path / "data"
    assert run(["db", "upgrade", "--data", str(data)]) == 0
    named = {"file": tmp_path / "file", "directory": tmp_path, "data": data}
    assert run([word.format(**named) for word in words.split()]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        (["volume", "show", "a\udcff"], {}, "argument 3 is not UTF-8"),
        (["job", "list"], {"ORCHESTRATOR_URL": "http://[::1"}, "is no URL"),
        (["job", "list"], {"ORCHESTRATOR_URL": "http://x:y"}, "is no URL"),
        (["job", "list"], {"ORCHESTRATOR_TOKEN": "a\udcff"}, "holds what no token has"),
        (["submit", "x", "--idempotency-key", "a b"], {}, "a key is 1 to 255 characters of ASCII"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    variables: dict[str, str],
    told: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(words) == 2
    assert told in capsys.readouterr().err


def test_who_has_no_home_directory_has_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/")
    assert default_data() == Path("/var/lib/orchestrator")
    monkeypatch.delenv("HOME")
    unknown = max(entry.pw_uid for entry in pwd.getpwall()) + 1
    while unknown in {entry.pw_uid for entry in pwd.getpwall()}:
        unknown += 1
    monkeypatch.setattr(os, "getuid", lambda: unknown)
    assert default_data() == Path("/var/lib/orchestrator")


def test_completion_of_backends_says_nothing_about_a_service_that_is_not_there() -> None:
    words = {"_ORCHESTRATOR_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    line = "orchestrator job list --backend "
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"],
        env={**os.environ, **words, "COMP_WORDS": line, "ORCHESTRATOR_URL": "http://[::1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_reader_that_has_gone_hears_of_no_failure() -> None:
    command = f"{sys.executable} -m orchestrator job list --json | true"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "ORCHESTRATOR_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (7, 141), "who reads until then may not have gone yet"
