"""Ganeti's own code drives the provider that `orchestrator extstorage install` writes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ganeti.conftest import Installed

pytestmark = pytest.mark.slow

#: What a node daemon keeps of a disk, and what it makes of a name.
_DISK = """
device = extstorage.ExtStorageDevice
params = {"backend": "fast"}
names = dict(name="disk0", uuid="7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f")

def disk(name, size=32):
    return device(("orch", name), [], size, params, {}, **names)

def create(name, size=32):
    return device.Create(("orch", name), [], size, None, params, False, {}, **names)

def note(*what):
    told.append(list(what))
"""


def _size(device: str) -> int:
    entry = Path(f"/sys/class/block/{Path(device).name}/size")
    return int(entry.read_text()) * 512


def test_the_node_daemon_finds_it_whole(installed: Installed) -> None:
    [[success, found]] = installed.ganeti('told.append(ask("extstorage_diagnose"))')
    assert success
    [[name, directory, usable, fault, parameters]] = found
    assert (name, directory, fault) == ("orch", str(installed.directory), "")
    assert usable
    assert [name for name, _ in parameters] == ["backend"]


def test_a_disk_lives_on_the_provider(installed: Installed) -> None:
    told = installed.ganeti(
        _DISK
        + """
made = create("web1.ext.disk0")
note(made.attached, made.dev_path, made.uris)
made.Open(exclusive=True)
made.SetInfo("originstname+web1.example.org")
made.Grow(16, True, True, False)
made.Grow(16, False, True, False)
note(made.Attach(), made.dev_path, made.GetUserspaceAccessUri("kvm"))
made.Close()
made.Open(exclusive=False)
made.Close()
"""
    )
    (attached, device, uris), (again, same, uri) = told
    assert attached
    assert again
    assert device == same
    assert stat.S_ISBLK(os.stat(device).st_mode)  # noqa: PTH116 - as the node daemon looks
    assert _size(device) == 48 * 2**20
    [image] = installed.product.volumes.rglob("web1*.img")
    assert f"kvm:file:{image}" in uris
    assert uri == f"file:{image}"
    volume = installed.volumes()["web1.ext.disk0"]
    assert volume["size_bytes"] == 48 * 2**20
    assert volume["metadata"] == {
        "ganeti.name": "disk0",
        "ganeti.uuid": "7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f",
        "info": "originstname+web1.example.org",
    }
    with installed.product.client() as client:
        found = client.get("/v1/events", params={"kind": "volume.create"}).json()["items"]
    reasons = {one["reason"] for one in found if one["volume"] == "web1.ext.disk0"}
    assert reasons == {f"Ganeti on {installed.host}, disk disk0"}
    told = installed.ganeti(
        _DISK
        + """
there = disk("web1.ext.disk0")
snap = there.Snapshot()
note(snap)
for _ in range(2):
    copy = disk(snap[1])
    copy.Attach()
    note(copy.attached, copy.dev_path)
copy.Shutdown()
copy.Remove()
there.Shutdown()
there.Remove()
"""
    )
    assert told[0] == [["orch", "web1.ext.disk0.snap"]]
    assert told[1] == told[2]
    assert installed.volumes() == {}
    assert list(installed.product.volumes.rglob("web1*.img")) == []


def test_what_is_done_already_is_done(installed: Installed) -> None:
    told = installed.ganeti(
        _DISK
        + """
made = create("again")
devices = {made.dev_path}
for _ in range(3):
    made.Attach()
    devices.add(made.dev_path)
note(len(devices))
run = extstorage._ExtStorageAction
for action in ("detach", "detach", "remove", "remove", "detach"):
    run(action, made.unique_id, made.ext_params, name="disk0", uuid="u")
"""
    )
    assert told == [[1]]
    assert installed.volumes() == {}


def test_a_name_that_is_taken_is_not_touched(installed: Installed) -> None:
    told = installed.ganeti(
        _DISK
        + """
create("taken")
try:
    create("taken", 64)
except Exception as error:
    note(str(error))
"""
    )
    [[error]] = told
    assert "already_exists" in error
    assert installed.volumes()["taken"]["size_bytes"] == 32 * 2**20
    installed.ganeti(_DISK + 'disk("taken").Remove()')


def test_a_snapshot_that_an_export_has_left_is_replaced(installed: Installed) -> None:
    installed.ganeti(
        _DISK
        + """
made = create("exported")
made.Shutdown()
made.Snapshot()
"""
    )
    before = installed.volumes()["exported.snap"]["id"]
    told = installed.ganeti(
        _DISK
        + """
there = disk("exported")
there.Shutdown()
there.Snapshot()
create("other.snap")
other = create("other")
other.Shutdown()
try:
    other.Snapshot()
except Exception as error:
    note(str(error))
"""
    )
    assert installed.volumes()["exported.snap"]["id"] != before
    assert "no unused snapshot of other" in told[0][0]
    names = ["exported.snap", "exported", "other.snap", "other"]
    installed.ganeti(_DISK + 'for name in given["names"]: disk(name).Remove()', names=names)
    assert installed.volumes() == {}


def test_what_fails_says_why_and_which_job(installed: Installed) -> None:
    done = _run(installed, "create", VOL_NAME="huge", VOL_SIZE=str(2**40))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "(insufficient_capacity)" in done.stderr
    done = _run(installed, "attach", VOL_NAME="nobody")
    assert "(unknown_volume)" in done.stderr
    assert done.stdout == ""
    done = _run(installed, "create", VOL_NAME="odd", VOL_SIZE="12 MiB")
    assert "a size in MiB is a whole number above 0" in done.stderr
    more = {"EXTP_PROVIDER": "orch", "EXTP_ACCESS": "kernelspace", "EXTP_BAKEND": "ram"}
    done = _run(installed, "create", VOL_NAME="odd", VOL_SIZE="12", **more)
    assert "there is no parameter 'bakend'" in done.stderr
    assert installed.volumes() == {}
    done = _run(installed, "verify", "backend", "colour")
    assert "there is no parameter 'colour'" in done.stderr
    assert _run(installed, "verify", "backend").returncode == 0


def test_the_token_is_roots_alone_and_the_environment_does_not_matter(
    installed: Installed,
) -> None:
    config = installed.directory / "orchestrator.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert json.loads(config.read_text())["token"] == installed.product.token
    leaked = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "ORCHESTRATOR_URL": "http://x"}
    done = _run(installed, "create", VOL_NAME="vm", VOL_SIZE="8", **leaked)
    assert done.returncode == 0, done.stderr
    assert _run(installed, "remove", VOL_NAME="vm").returncode == 0


def test_many_at_once_make_no_double_and_leave_nothing(installed: Installed) -> None:
    def life(number: int) -> str:
        told = {"VOL_NAME": f"many{number}", "VOL_SIZE": "4"}
        assert _run(installed, "create", **told).returncode == 0
        device = _run(installed, "attach", **told).stdout.splitlines()[0]
        assert _run(installed, "attach", **told).stdout.splitlines()[0] == device
        return device

    numbers = range(50)
    with ThreadPoolExecutor(8) as pool:
        devices = list(pool.map(life, numbers))
        assert len(set(devices)) == len(numbers)
        assert len(installed.volumes()) == len(numbers)
        for script in ("detach", "remove"):
            ended = pool.map(
                lambda number, script=script: _run(installed, script, VOL_NAME=f"many{number}"),
                numbers,
            )
            assert {done.returncode for done in ended} == {0}
    assert installed.volumes() == {}
    assert list(installed.product.volumes.rglob("many*.img")) == []


def test_installing_is_refused_where_something_else_is(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")
    for directory, told in ((tmp_path / "mine", "something else"), (tmp_path / "a.b", "no name")):
        done = installed.product.run("extstorage", "install", str(directory), "--backend", "fast")
        assert done.returncode != 0
        assert told in done.stderr
    assert (tmp_path / "mine" / "notes").read_text() == "kept"
    again = installed.product.run(
        "extstorage", "install", str(installed.directory), "--backend", "fast"
    )
    assert again.returncode == 0, again.stderr


def _run(
    installed: Installed, script: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as the node daemon does."""
    return subprocess.run(
        [str(installed.directory / script), *arguments],
        cwd=installed.directory,
        env={"PATH": os.environ["PATH"], "EXTP_BACKEND": "fast", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,
    )


def test_a_disk_that_ganeti_no_longer_has_is_named(installed: Installed, tmp_path: Path) -> None:
    installed.ganeti(_DISK + 'create("web7.ext.disk0")')
    run = installed.product.run
    mine, listed = "7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f", tmp_path / "disks"
    listed.write_text(f"{mine}\n")
    done = run("extstorage", "reconcile", str(listed), "--json")
    assert (done.returncode, json.loads(done.stdout)["items"]) == (0, [])
    listed.write_text("0c7b1c52-7d9d-4c5c-8f70-5f5d7f0f3a11\n")
    done = run("extstorage", "reconcile", str(listed), "--json")
    [left] = json.loads(done.stdout)["items"]
    assert (left["name"], left["uuid"]) == ("web7.ext.disk0", mine)
    assert left["attached_to"] == [installed.host]
    done = run("extstorage", "reconcile", str(listed))
    assert "web7.ext.disk0" in done.stdout
    assert "detach and remove" in done.stderr
    listed.write_text("")
    assert run("extstorage", "reconcile", str(listed)).returncode == 2
    installed.ganeti(_DISK + 'there = disk("web7.ext.disk0")\nthere.Shutdown()\nthere.Remove()')
    assert installed.volumes() == {}
