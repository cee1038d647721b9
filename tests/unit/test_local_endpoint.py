"""The files by which a local client finds its service and token."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.client import local
from orchestrator.client.endpoint import DEFAULT_URL, endpoint_for

URL = "http://127.0.0.1:8080"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and an environment that says nothing else."""
    for name in ("ORCHESTRATOR_DATA", "ORCHESTRATOR_URL", "ORCHESTRATOR_TOKEN", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def entries(home: Path) -> list[Path]:
    return sorted((home / ".local/state/orchestrator/endpoints").iterdir())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_written_is_found(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "data", URL, "secret")
    assert local.find() == local.find(URL) == local.LocalEndpoint(URL, "secret")
    assert local.find(URL + "/") is not None
    assert (tmp_path / "data/token").read_text() == "secret\n"
    assert [entry.name for entry in entries(home)] == ["127.0.0.1_8080.json"]


def test_only_the_owner_can_read_the_files_or_list_them(tmp_path: Path, home: Path) -> None:
    before = os.umask(0)
    try:
        local.write(tmp_path / "data", URL, "secret")
    finally:
        os.umask(before)
    [entry] = entries(home)
    for path in (tmp_path / "data/token", tmp_path / "data/endpoint.json", entry):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (tmp_path / "data", entry.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_data_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    local.write(data, URL, "secret")
    assert stat.S_IMODE(data.stat().st_mode) == 0o755


def test_nothing_else_is_left_in_the_directories(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "data", URL, "first")
    local.write(tmp_path / "data", URL, "second")
    assert names(tmp_path / "data") == ["endpoint.json", "token"]
    assert len(entries(home)) == 1
    assert local.find() == local.LocalEndpoint(URL, "second")


def test_the_named_data_directory_goes_before_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write(tmp_path / "one", URL, "one")
    local.write(tmp_path / "two", "http://127.0.0.1:9090", "two")
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "one"))
    assert local.find() == local.LocalEndpoint(URL, "one")


def test_without_a_url_the_latest_is_found(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "one", URL, "one")
    local.write(tmp_path / "two", "http://127.0.0.1:9090", "two")
    for age, entry in enumerate(entries(home)):
        os.utime(entry, (1000 - age, 1000 - age))
    found = local.find()
    assert found is not None
    assert found.token == "one"


def test_a_token_is_not_found_for_another_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write(tmp_path / "data", URL, "secret")
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    assert local.find("http://elsewhere.example:8080") is None
    assert endpoint_for("http://elsewhere.example:8080").token is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_open_to_others_is_refused_with_a_warning(
    tmp_path: Path, home: Path, mode: int
) -> None:
    local.write(tmp_path / "data", URL, "secret")
    entries(home)[0].chmod(mode)
    with pytest.warns(UserWarning, match="chmod 600"):
        assert local.find(URL) is None


def test_a_token_file_open_to_others_is_refused_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    local.write(tmp_path / "data", URL, "secret")
    entries(home)[0].unlink()
    (tmp_path / "data/token").chmod(0o644)
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    with pytest.warns(UserWarning, match=r"token is not used: others may read it \(mode 0644\)"):
        assert local.find() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_file_of_another_user_is_refused_with_a_warning(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "data", URL, "secret")
    os.chown(entries(home)[0], 12345, 12345)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert local.find(URL) is None


def test_a_link_is_not_followed(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "data", URL, "secret")
    [entry] = entries(home)
    entry.rename(tmp_path / "elsewhere.json")
    entry.symlink_to(tmp_path / "elsewhere.json")
    assert local.find(URL) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 3}', "\x00"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, home: Path, content: str) -> None:
    local.write(tmp_path / "data", URL, "secret")
    entries(home)[0].write_text(content)
    assert local.find() is None


def test_what_stopped_is_not_found_but_its_token_stays(tmp_path: Path, home: Path) -> None:
    local.write(tmp_path / "data", URL, "secret")
    local.remove(tmp_path / "data", URL)
    local.remove(tmp_path / "data", URL)
    assert local.find() is None
    assert entries(home) == []
    assert names(tmp_path / "data") == ["token"]


def test_stopping_leaves_what_another_data_directory_has_written(tmp_path: Path) -> None:
    local.write(tmp_path / "one", URL, "one")
    local.write(tmp_path / "two", URL, "two")
    local.remove(tmp_path / "one", URL)
    assert local.find() == local.LocalEndpoint(URL, "two")


@pytest.mark.parametrize("place", ["/dev/null/home", ""])
def test_a_home_that_cannot_be_used_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", place)
    monkeypatch.setenv("HOME", "/dev/null/home")
    local.write(tmp_path / "data", URL, "secret")
    assert local.find() is None
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    assert local.find() == local.LocalEndpoint(URL, "secret")
    local.remove(tmp_path / "data", URL)


def test_the_registry_is_where_the_environment_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    local.write(tmp_path / "data", "http://[::1]:8080", "secret")
    [entry] = (tmp_path / "state/orchestrator/endpoints").iterdir()
    assert entry.name == "___1__8080.json"


def test_arguments_go_before_the_environment_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (endpoint_for().url, endpoint_for().token) == (DEFAULT_URL, None)
    local.write(tmp_path / "data", "http://127.0.0.1:9090", "of-file")
    assert endpoint_for().token == "of-file"
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", "of-environment")
    found = endpoint_for()
    assert (found.url, found.token) == ("http://127.0.0.1:9090", "of-environment")
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://one.example")
    assert endpoint_for().url == "http://one.example"
    found = endpoint_for("two.example:80/", "of-argument")
    assert (found.url, found.token) == ("http://two.example:80", "of-argument")


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(local.LocalEndpoint(URL, "secret"))
    assert "secret" not in repr(endpoint_for(URL, "secret"))
