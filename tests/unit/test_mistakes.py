"""Mistakes of a configuration: all at once, each with where it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.root import run
from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import CONFIG_VARIABLE, Settings, load_settings

MISTAKEN = """\
data = "/tmp/x"

[databse]
url = "x"

[database]
pool_sise = 3
idle_seconds = "many"

[backends.fast]
driver = "file"
paht = "/x"
max_jobs = 0

[backends."b c"]
driver = "memory"

[backends.slow]
driver = "flie"

[backends.ram]
driver = "memory"
time_limits = { "volume.craete" = 3 }

[worker]
threads = 0
lease_seconds = [
  1,
  2]
heartbeat_seconds = '''
one'''
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "orchestrator.toml"
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def refused() -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    return caught.value


def test_all_mistakes_are_told_each_with_its_line_and_the_nearest_name(config: Path) -> None:
    config.write_text(MISTAKEN)
    problem = refused()
    told = [error["detail"].removeprefix(f"{config}, ") for error in problem.facts["errors"]]
    assert [sentence.partition(" Input")[0] for sentence in told] == [
        "line 3: there is no setting 'databse': did you mean 'database'?",
        "line 7: database: there is no setting 'pool_sise': did you mean 'pool_size'?",
        "line 8: database.idle_seconds:",
        "line 12: backends.fast.paht: the driver 'file' has no option 'paht': did you mean 'path'?",
        "line 13: backends.fast.max_jobs:",
        "line 15: backends.b c: 'b c' is no backend name: use up to 63 of a-z 0-9 _ -, beginning "
        "with a letter or digit",
        "line 19: backends.slow.driver: there is no driver 'flie': did you mean 'file'?",
        "line 23: backends.ram.time_limits: there is no action 'volume.craete': did you mean "
        "'volume.create'?",
        "line 26: worker.threads:",
        "line 27: worker.lease_seconds:",
        "line 30: worker.heartbeat_seconds:",
        "line 10: backends.fast: 'path' is missing",
    ]
    assert problem.detail == problem.facts["errors"][0]["detail"]


def test_a_mistake_in_a_variable_names_the_variable(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[worker]\nthreads = 2\n")
    monkeypatch.setenv("ORCHESTRATOR_WORKER__THREADS", "none")
    assert refused().detail.startswith("ORCHESTRATOR_WORKER__THREADS: worker.threads: ")
    monkeypatch.setenv("ORCHESTRATOR_WORKER__THREADS", "2")
    monkeypatch.setenv("ORCHESTRATOR_WORKR__THREADS", "2")
    assert refused().detail == (
        "ORCHESTRATOR_WORKR__THREADS: there is no section 'workr': did you mean 'worker'?"
    )


def test_variables_that_kubernetes_gives_to_a_service_of_our_name_are_not_settings(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ORCHESTRATOR_PORT", "tcp://10.0.0.1:8080")
    assert isinstance(load_settings(), Settings)


def test_a_variable_with_a_section_that_is_no_json_is_named_without_its_value(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_BACKENDS", "{password")
    assert refused().detail.startswith("ORCHESTRATOR_BACKENDS is no JSON")
    assert "password" not in str(refused().document())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[a\nb = 1\n", "is no TOML: .*line 1"),
        (b"a = 1\na = 2\n", "is no TOML: .*line 2"),
        (b'a = "\xff"\n', "is not UTF-8"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(config: Path, content: bytes, told: str) -> None:
    config.write_bytes(content)
    with pytest.raises(InvalidInput, match=told):
        load_settings()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_file_that_is_not_there_is_blamed_on_who_named_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    # Set, so that what the command sets is undone.
    monkeypatch.setenv(CONFIG_VARIABLE, "/none.toml")
    option = ["--config", "/none.toml"] if how == "option" else []
    assert run(["db", "check", *option]) == 2
    named = "--config" if how == "option" else CONFIG_VARIABLE
    assert capsys.readouterr().err.startswith(f"error: {named} names /none.toml, which")


def test_checking_tells_what_the_settings_are_about_and_no_secret(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        '[database]\nurl = "postgresql+psycopg://u:se@cr/et@db:5432/o?password=secret"\n'
        '[broker]\nurl = "sentinel://:secret@a:1;sentinel://b:2/0?sentinel_password=secret"\n'
        '[backends.fast]\ndriver = "memory"\nhosts = ["elsewhere"]\n'
    )
    assert run(["config", "check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["database"] == "postgresql+psycopg://db:5432/o"
    assert told["broker"] == "sentinel://a:1;sentinel://b:2/0"
    assert (told["backends"], told["served_here"]) == ({"fast": "memory"}, [])
    config.write_text(MISTAKEN)
    assert run(["config", "check"]) == 2
    assert capsys.readouterr().err.count("line ") == 12


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('[database]\nurl = "mysql://u:secret@db/o"', "'mysql' are not supported"),
        ('[database]\nurl = "postgresql://db/o?sslmod=require"', "unknown option 'sslmod'"),
        ('[broker]\nurl = "amqp://u:secret@b/0"', "broker"),
        ('[api]\nlisten = "everywhere"', "is no address to listen on"),
    ],
)
def test_checking_finds_addresses_that_no_server_can_have(
    config: Path, capsys: pytest.CaptureFixture[str], written: str, told: str
) -> None:
    config.write_text(written)
    assert run(["config", "check"]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "secret" not in err
