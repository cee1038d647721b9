"""Which paths are trusted: what others could exchange, or lead elsewhere, is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.domain.errors import InvalidInput
from orchestrator.ledger.chain import key_of
from orchestrator.settings import AuditSettings, Settings
from orchestrator.trust import require_trusted_config, why_untrusted

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """DIR/above/own/file, which nobody else can change."""
    own = tmp_path / "above" / "own"
    own.mkdir(parents=True)
    (own.parent).chmod(0o755)
    own.chmod(0o755)
    (own / "file").write_text("")
    (own / "file").chmod(0o644)
    return own / "file"


def test_what_only_root_and_we_can_change_is_trusted(file: Path) -> None:
    assert why_untrusted(file) is None
    assert why_untrusted(file.parent) is None
    assert why_untrusted(file.parent / "not" / "there") is None
    assert why_untrusted("/") is None


@pytest.mark.parametrize("part", ["above", "above/own", "above/own/file"])
@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_what_others_may_write_to_is_not(file: Path, tmp_path: Path, part: str, mode: int) -> None:
    place = tmp_path / part
    place.chmod(mode)
    why = why_untrusted(file)
    assert why is not None
    assert f"(mode {mode:04o})" in why
    # What it says helps.
    subprocess.run(why.rpartition(": ")[2].strip("'"), shell=True, check=True)
    assert why_untrusted(file) is None


@pytest.mark.parametrize("part", ["above", "above/own", "above/own/file"])
def test_what_belongs_to_others_is_not(file: Path, tmp_path: Path, part: str) -> None:
    os.chown(tmp_path / part, NOBODY, -1)
    why = why_untrusted(file)
    assert why is not None
    assert "belongs to user nobody" in why
    subprocess.run(why.rpartition(": ")[2].strip("'"), shell=True, check=True)
    assert why_untrusted(file) is None


def test_in_a_sticky_directory_nobody_renames_what_is_ours(file: Path) -> None:
    above = file.parent.parent
    above.chmod(0o1777)
    assert why_untrusted(file) is None
    assert why_untrusted(above) is not None  # but anybody may put something into it
    os.chown(file.parent, NOBODY, -1)
    assert why_untrusted(file) is not None
    os.chown(file.parent, 0, -1)
    os.chown(above, NOBODY, -1)  # whose owner may rename everything
    assert why_untrusted(file) is not None


def test_a_group_that_is_its_owners_alone_may_write_to_what_leads_there(file: Path) -> None:
    above = file.parent.parent
    above.chmod(0o775)
    assert why_untrusted(file) is None  # group root, of which nobody else is
    os.chown(above, -1, 65534)
    assert why_untrusted(file) is not None
    os.chown(above, -1, 0)
    file.parent.chmod(0o775)
    assert why_untrusted(file) is None
    assert why_untrusted(file.parent) is not None  # what is trusted itself has no such friends


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl (package acl) is not there")
def test_a_list_of_users_who_may_write_is_not_taken_for_a_group(file: Path) -> None:
    above = file.parent.parent
    done = subprocess.run(
        ["setfacl", "-m", f"u:{NOBODY}:rwx", above], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("the file system has no access lists")
    assert above.stat().st_mode & 0o777 == 0o775
    assert why_untrusted(file) is not None


def test_links_are_followed_one_by_one(file: Path, tmp_path: Path) -> None:
    ways = tmp_path / "ways"
    ways.mkdir()
    (ways / "absolute").symlink_to(file.parent)
    (ways / "relative").symlink_to("../above/./own/../own")
    (ways / "chain").symlink_to("relative")
    for name in ("absolute", "relative", "chain"):
        assert why_untrusted(ways / name / "file") is None
    file.parent.parent.chmod(0o777)
    for name in ("absolute", "relative", "chain"):
        assert str(file.parent.parent) in str(why_untrusted(ways / name / "file"))
    file.parent.parent.chmod(0o755)
    ways.chmod(0o777)
    assert str(ways) in str(why_untrusted(ways / "absolute"))
    ways.chmod(0o1777)
    assert why_untrusted(ways / "absolute" / "file") is None
    os.lchown(ways / "absolute", NOBODY, NOBODY)
    assert "'chown -h root " in str(why_untrusted(ways / "absolute" / "file"))
    (ways / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        why_untrusted(ways / "circle")
    (ways / "here").symlink_to(".")
    assert why_untrusted(ways / "here") is not None


# -- the data directory ------------------------------------------------------------------------


def up(data: Path, command: str = "up") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", command, "--data", data],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "ORCHESTRATOR_API__LISTEN": "127.0.0.1:0"},
    )


@pytest.mark.parametrize("command", ["up", "api", "worker", "scheduler"])
def test_no_service_starts_on_data_that_others_could_have_put_there(
    tmp_path: Path, command: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "audit.key").write_text("planted")
    data.chmod(0o777)
    refused = up(data, command)
    assert refused.returncode == 2
    assert f"'chmod go-w {data}'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [path.name for path in data.iterdir()] == ["audit.key"]


@pytest.mark.parametrize("command", ["up", "api", "worker", "scheduler"])
def test_no_service_starts_with_a_configuration_that_others_could_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    config = tmp_path / "its" / "orchestrator.toml"
    config.parent.mkdir()
    config.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(config))
    for path in (config, config.parent):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        refused = up(tmp_path / "data", command)
        assert refused.returncode == 2
        assert f"'chmod go-w {path}'" in refused.stderr
        path.chmod(mode)
    require_trusted_config(config)


def test_a_configuration_that_is_mounted_read_only_is_its_containers(tmp_path: Path) -> None:
    config = tmp_path / "orchestrator.toml"
    config.write_text("")
    os.chown(config, NOBODY, NOBODY)
    with pytest.raises(InvalidInput, match="configuration file cannot be trusted"):
        require_trusted_config(config)
    look = "import sys, pathlib, orchestrator.trust as t; " + (
        "t.require_trusted_config(pathlib.Path(sys.argv[1]))"
    )
    mount = f"mount --bind {config} {config} && mount -o remount,bind,ro {config}"
    script = f'{mount} && exec "$0" -c "$1" {config}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, look],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ermission denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr


def test_a_key_that_others_could_have_planted_or_read_is_not_used(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    made = key_of(settings, make=True)
    key = settings.data / "audit.key"
    assert key_of(settings) == made
    for mode, why in ((0o666, "chmod go-w"), (0o604, "chmod 600")):
        key.chmod(mode)
        with pytest.raises(InvalidInput, match=why):
            key_of(settings)
    key.chmod(0o600)
    os.chown(key, NOBODY, NOBODY)
    with pytest.raises(InvalidInput, match="belongs to user nobody"):
        key_of(settings, make=True)
    os.chown(key, 0, 0)
    settings.data.chmod(0o777)
    with pytest.raises(InvalidInput, match="the data directory cannot be trusted"):
        key_of(settings)
    configured = settings.model_copy(update={"audit": AuditSettings(key=SecretStr("k"))})
    assert key_of(configured) == b"k"
