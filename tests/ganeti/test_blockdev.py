"""Ganeti's node daemon does with disks of the provider whatever its master asks it for.

Its call ``blockdev_create`` is the function ``BlockdevCreate`` of ``ganeti.backend``, and so on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.ganeti.conftest import Installed

pytestmark = pytest.mark.slow

_MIB = 2**20

#: The master's side: what it knows of an instance and its disks, and how it asks a node.
_MASTER = """
instance = objects.Instance(name="web1.example.org", hypervisor=constants.HT_KVM).ToDict()

def disk(name, size=32, **params):
    made = objects.Disk(
        dev_type=constants.DT_EXT, logical_id=("orch", name), size=size, iv_name="disk/0",
        name="root", uuid="7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f", mode=constants.DISK_RDWR,
        params=dict(params, provider="orch", backend="fast"),
    )
    # As it does before it sends one to a node.
    [defaults] = objects.Disk.ComputeLDParams(made.dev_type, constants.DISK_DT_DEFAULTS)
    made.params = objects.FillDict(defaults, made.params)
    made.UpdateDynamicDiskParams("node", {})
    return made.ToDict(include_dynamic_params=True)

def ok(call, *params):
    success, answer = ask("blockdev_" + call, *params)
    assert success, answer
    return answer

def refused(call, *params):
    success, answer = ask("blockdev_" + call, *params)
    assert not success, answer
    return answer

def create(name, size=32):
    info = "originstname+web1.example.org"
    return ok("create", disk(name, size), size, "web1.example.org", True, info, False)

def assemble(name):
    device, link, uri = ok("assemble", disk(name), instance, True, 0)
    return device

def remove(*names):
    for name in names:
        ok("shutdown", disk(name))
        ok("remove", disk(name))
"""


def _node(installed: Installed, code: str, **given: Any) -> Any:
    return installed.ganeti(_MASTER + code, **given)


def _made(installed: Installed, name: str) -> str:
    """Make a disk and hand it to the instance; the device."""
    [device] = _node(
        installed, "create(given['name']); told.append(assemble(given['name']))", name=name
    )
    return str(device)


def _removed(installed: Installed, *names: str) -> None:
    _node(installed, "remove(*given['names'])", names=names)
    assert installed.volumes() == {}


def _write(device: str, data: bytes) -> None:
    with Path(device).open("r+b") as file:
        file.write(data)


def _read(device: str) -> bytes:
    return Path(device).read_bytes()


def _openings(installed: Installed, name: str) -> dict[str, str | None]:
    """How the nodes that a disk is attached to have it open."""
    attached = installed.volumes()[name]["attachments"]
    return {one["host"]: one["opening"] for one in attached}


def _holds_an_image(device: str) -> bool:
    return Path(f"/sys/class/block/{Path(device).name}/loop/backing_file").exists()


def test_an_instances_disk_from_its_making_to_its_end(installed: Installed) -> None:
    [told] = _node(
        installed,
        """
name = "web1.ext.disk0"
made = create(name)
# A node is asked twice: to prepare, and then to use.
prepared = ok("assemble", disk(name), instance, False, 0)
device, link, uri = ok("assemble", disk(name), instance, True, 0)
told.append(dict(
    made=made,
    prepared=prepared,
    device=device,
    link=os.readlink(link),
    uri=uri,
    userspace=ok("assemble", disk(name, access="userspace"), instance, True, 0)[2],
    known=utils.ReadFile(pathutils.BDEV_CACHE_DIR + "/bdev_" + os.path.basename(device)),
    found=ok("find", disk(name)),
    dimensions=ok("getdimensions", [disk(name)]),
    mirrored=ok("getmirrorstatus", [disk(name)]),
    paused=ok("pause_resume_sync", [disk(name)], True),
))
""",
    )
    device = told["device"]
    number = Path(device).stat().st_rdev
    assert told["made"] == ["orch", "web1.ext.disk0"]
    assert told["prepared"] == [True, True]
    assert told["link"] == device
    assert told["uri"] is None
    [image] = installed.product.volumes.rglob("web1*.img")
    assert told["userspace"] == f"file:{image}"
    assert told["known"] == "web1.example.org primary disk/0\n"
    found = told["found"]
    assert (found["dev_path"], found["major"], found["minor"]) == (
        device,
        os.major(number),
        os.minor(number),
    )
    assert not found["is_degraded"]
    assert told["mirrored"] == [found]
    assert told["paused"] == [[True, None]]
    assert told["dimensions"] == [[32 * _MIB, None]]
    volume = installed.volumes()["web1.ext.disk0"]
    assert volume["size_bytes"] == 32 * _MIB
    assert volume["metadata"] == {
        "ganeti.name": "root",
        "ganeti.uuid": "7ad1d1de-5d1f-4f2b-9d5b-6a9e5c1d3e4f",
        "info": "originstname+web1.example.org",
    }
    assert _openings(installed, "web1.ext.disk0") == {installed.host: "exclusive"}

    told = _node(
        installed,
        """
link = pathutils.DISK_LINKS_DIR + "/web1.example.org:0"
told.append(os.path.islink(link))
ok("close", "web1.example.org", [disk("web1.ext.disk0")])
told.append(os.path.islink(link))
""",
    )
    assert told == [True, False]
    assert _openings(installed, "web1.ext.disk0") == {installed.host: None}
    assert _holds_an_image(device)

    told = _node(
        installed,
        """
ok("shutdown", disk("web1.ext.disk0"))
told.extend(os.listdir(pathutils.BDEV_CACHE_DIR))
""",
    )
    assert told == []
    assert _openings(installed, "web1.ext.disk0") == {}
    assert not _holds_an_image(device)

    _node(installed, 'ok("remove", disk("web1.ext.disk0"))')
    assert installed.volumes() == {}
    assert not image.exists()


@pytest.mark.parametrize(("exclusive", "opening"), [(True, "exclusive"), (False, "shared")])
def test_opening_is_what_the_master_says_and_closing_ends_it(
    installed: Installed, exclusive: bool, opening: str
) -> None:
    device = _made(installed, "opened")
    [link] = _node(
        installed,
        """
ok("close", "web1.example.org", [disk("opened")])
ok("open", "web1.example.org", [disk("opened")], given["exclusive"])
told.append(os.readlink(pathutils.DISK_LINKS_DIR + "/web1.example.org:0"))
""",
        exclusive=exclusive,
    )
    assert link == device
    assert _openings(installed, "opened") == {installed.host: opening}
    # Without the name of an instance, its links stay.
    [linked] = _node(
        installed,
        """
for _ in range(2):
    ok("close", "", [disk("opened")])
told.append(os.path.islink(pathutils.DISK_LINKS_DIR + "/web1.example.org:0"))
""",
    )
    assert linked
    assert _openings(installed, "opened") == {installed.host: None}
    _removed(installed, "opened")


def test_a_disk_grows_while_it_is_used(installed: Installed) -> None:
    device = _made(installed, "grown")
    with Path(device).open("r+b", buffering=0) as used:
        used.write(b"\xaa" * 32 * _MIB)
        [before, after, again] = _node(
            installed,
            """
def size():
    [[found, spindles]] = ok("getdimensions", [disk("grown")])
    return found

def grow(dry_run, backing):
    ok("grow", disk("grown"), 16, dry_run, backing, False)

# Tried on every node first, then done below, then above: nothing is above here.
grow(True, True)
told.append(size())
grow(False, True)
told.append(size())
grow(False, False)
# Asked again by a master that did not come to write down the new size.
grow(False, True)
told.append(size())
""",
        )
        assert (before, after, again) == (32 * _MIB, 48 * _MIB, 48 * _MIB)
        assert used.seek(0, os.SEEK_END) == 48 * _MIB
    assert installed.volumes()["grown"]["size_bytes"] == 48 * _MIB
    assert _read(device) == b"\xaa" * 32 * _MIB + bytes(16 * _MIB)
    _removed(installed, "grown")


def test_growing_beyond_the_room_there_is_changes_nothing(installed: Installed) -> None:
    _made(installed, "greedy")
    told = _node(
        installed,
        """
told.append(refused("grow", disk("greedy"), 2**40, False, True, False))
told.append(ok("getdimensions", [disk("greedy")]))
""",
    )
    assert "(insufficient_capacity)" in told[0]
    assert told[1] == [[32 * _MIB, None]]
    assert installed.volumes()["greedy"]["size_bytes"] == 32 * _MIB
    _removed(installed, "greedy")


def test_wiping_overwrites_the_part_that_is_named(installed: Installed) -> None:
    device = _made(installed, "wiped")
    _write(device, b"\xaa" * 32 * _MIB)
    told = _node(
        installed,
        """
# In pieces, as the master does it.
for offset in (8, 11, 14):
    ok("wipe", disk("wiped"), offset, 3)
for offset, size in ((33, 1), (30, 3), (-1, 1), (0, -1)):
    told.append(refused("wipe", disk("wiped"), offset, size))
""",
    )
    assert len(set(told)) == 4
    written = b"\xaa" * 8 * _MIB + bytes(9 * _MIB) + b"\xaa" * 15 * _MIB
    assert _read(device) == written
    # What was grown.
    _node(installed, 'ok("grow", disk("wiped"), 16, False, True, False)')
    _write(device, written + b"\xaa" * 16 * _MIB)
    _node(installed, 'ok("wipe", disk("wiped", 48), 32, 16)')
    assert _read(device) == written + bytes(16 * _MIB)
    _removed(installed, "wiped")


def test_an_image_is_laid_down_and_a_disk_converted(installed: Installed, tmp_path: Path) -> None:
    device, target = _made(installed, "imaged"), _made(installed, "converted")
    _write(device, b"\xaa" * 32 * _MIB)
    image = tmp_path / "image"
    image.write_bytes(os.urandom(5 * _MIB))
    [error] = _node(
        installed,
        """
told.append(refused("image", disk("imaged"), given["image"], 33))
ok("image", disk("imaged"), given["image"], 32)
ok("convert", disk("imaged"), disk("converted"))
""",
        image=str(image),
    )
    assert "bigger than device size" in error
    written = image.read_bytes() + b"\xaa" * 27 * _MIB
    assert _read(device) == written
    assert _read(target) == written
    _removed(installed, "imaged", "converted")


def test_the_text_that_is_kept_with_a_disk_is_what_ganeti_makes_of_it(
    installed: Installed,
) -> None:
    _made(installed, "told")
    _node(installed, """ok("setinfo", disk("told"), "-originst name+d\\u00fc" + "x" * 200)""")
    text = "_originst_name+d_"
    metadata = installed.volumes()["told"]["metadata"]
    assert metadata["info"] == text + "x" * (128 - len(text))
    assert metadata["ganeti.name"] == "root"
    _removed(installed, "told")


def test_an_export_reads_a_snapshot_of_a_disk_in_use(on_xfs: Installed) -> None:
    device = _made(on_xfs, "exported")
    content = os.urandom(32 * _MIB)
    with Path(device).open("r+b", buffering=0) as used:
        used.write(content)
        os.fsync(used)
        [told] = _node(
            on_xfs,
            """
# What is left of an export that broke off.
ok("snapshot", disk("exported"), None, None)
snapshot = ok("snapshot", disk("exported"), None, None)
copy = objects.Disk(
    dev_type=constants.DT_EXT, logical_id=tuple(snapshot), size=32, iv_name="disk/0",
    params=disk("exported")["params"], uuid="0c2b7f5e-6a53-4bb6-8dd6-8f2f0a2f1f10",
).ToDict()
told.append(dict(snapshot=snapshot, device=ok("find", copy)["dev_path"], copy=copy))
""",
        )
        assert told["snapshot"] == ["orch", "exported.snap"]
        assert told["device"] != device
        used.seek(0)
        used.write(b"\xaa" * _MIB)
    assert _read(told["device"]) == content
    # A snapshot that somebody reads is no leftover.
    [error] = _node(on_xfs, """told.append(refused("snapshot", disk("exported"), None, None))""")
    assert "no unused snapshot of exported" in error
    assert _read(told["device"]) == content
    _node(
        on_xfs,
        """
ok("shutdown", given["copy"])
ok("remove", given["copy"])
""",
        copy=told["copy"],
    )
    assert list(on_xfs.volumes()) == ["exported"]
    assert _read(device) == b"\xaa" * _MIB + content[_MIB:]
    _removed(on_xfs, "exported")


def test_a_snapshot_may_have_a_name_and_a_size_of_its_own(on_xfs: Installed) -> None:
    device = _made(on_xfs, "origin")
    content = os.urandom(32 * _MIB)
    _write(device, content)
    told = _node(
        on_xfs,
        """
told.append(ok("snapshot", disk("origin"), "before-upgrade", 48))
told.append(assemble("before-upgrade"))
""",
    )
    assert told[0] == ["orch", "before-upgrade"]
    assert _read(told[1]) == content + bytes(16 * _MIB)
    _removed(on_xfs, "before-upgrade", "origin")


def test_renaming_a_disk_leaves_its_volume_as_it_is(installed: Installed) -> None:
    # The interface has no script for it, and Ganeti takes that for success.
    device = _made(installed, "old")
    told = _node(
        installed,
        """
ok("rename", [[disk("old"), ("orch", "new")]])
told.append(ok("find", disk("old"))["dev_path"])
told.append(refused("find", disk("new")))
""",
    )
    assert told[0] == device
    assert "(unknown_volume)" in told[1]
    assert list(installed.volumes()) == ["old"]
    _removed(installed, "old")


def test_a_disk_that_cannot_be_made_leaves_nothing_behind(installed: Installed) -> None:
    _made(installed, "taken")
    before = installed.volumes()["taken"]
    told = _node(
        installed,
        """
def cannot(name, size, exclusive_storage=False):
    answer = refused("create", disk(name, size), size, "web2", True, "web2", exclusive_storage)
    told.append(answer)

cannot("taken", 64)
cannot("huge", 2**40)
cannot("odd", 32, True)
""",
    )
    assert "(already_exists)" in told[0]
    assert "(insufficient_capacity)" in told[1]
    assert "exclusive_storage" in told[2]
    assert installed.volumes() == {"taken": before}
    assert len(list(installed.product.volumes.rglob("*.img"))) == 1
    _removed(installed, "taken")


def test_a_disk_that_is_held_open_stays_where_it_is(installed: Installed) -> None:
    device = _made(installed, "held")
    code = """
# It would try again for half a minute.
constants.DISK_REMOVE_RETRY_TIMEOUT = 0
for call in ("shutdown", "remove"):
    told.append(refused(call, disk("held")))
"""
    with Path(device).open("rb"):
        for error in _node(installed, code):
            assert f"{device} is held open" in error
            assert "(in_use)" in error
        assert _openings(installed, "held") == {installed.host: "exclusive"}
        assert _holds_an_image(device)
    _node(installed, 'ok("remove", disk("held"))')
    assert installed.volumes() == {}
    assert not _holds_an_image(device)


def test_every_call_tells_that_a_disk_is_not_there(installed: Installed) -> None:
    answers, calls = _node(
        installed,
        """
gone = disk("gone")
calls = dict(
    addchildren=(gone, [gone]),
    assemble=(gone, instance, True, 0),
    close=("", [gone]),
    convert=(gone, gone),
    find=(gone,),
    getdimensions=([gone],),
    getmirrorstatus=([gone],),
    getmirrorstatus_multi=([gone],),
    grow=(gone, 16, True, True, False),
    image=(gone, "/dev/null", 1),
    open=("web1.example.org", [gone], True),
    pause_resume_sync=([gone], True),
    remove=(gone,),
    removechildren=(gone, [gone]),
    rename=([[gone, ("orch", "new")]],),
    setinfo=(gone, "text"),
    shutdown=(gone,),
    snapshot=(gone, None, None),
    wipe=(gone, 0, 1),
)
told.append(dict((name, ask("blockdev_" + name, *calls[name])) for name in calls))
begin = "perspective_blockdev_"
told.append([one[len(begin):] for one in dir(noded.NodeRequestHandler) if one.startswith(begin)])
""",
    )
    # What is new in another version of Ganeti belongs into these tests.
    assert {*answers, "create"} == set(calls)
    # To make sure that it is gone is what remove is asked for.
    assert answers.pop("remove") == [True, None]
    assert answers.pop("getdimensions") == [True, [None]]
    # These answer for each disk by itself.
    for call in ("getmirrorstatus_multi", "pause_resume_sync"):
        [answers[call]] = answers[call][1]
    # These keep what the provider has said to themselves.
    for call in ("image", "wipe", "pause_resume_sync"):
        success, error = answers.pop(call)
        assert not success
        assert "device not found" in error
    for call, (success, error) in answers.items():
        assert not success, call
        assert "(unknown_volume)" in error, call
    assert installed.volumes() == {}


def test_a_disk_that_is_open_exclusively_is_not_opened_by_another_node(
    installed: Installed, elsewhere: Installed
) -> None:
    _made(installed, "owned")
    errors = _node(
        elsewhere,
        """
ok("assemble", disk("owned"), instance, False, 0)
told.append(refused("assemble", disk("owned"), instance, True, 0))
for exclusive in (True, False):
    told.append(refused("open", "web1.example.org", [disk("owned")], exclusive))
""",
    )
    for error in errors:
        assert f"open on {installed.host} (exclusive)" in error
        assert "(in_use)" in error
    # Attached all the same: a migration does that first, on the node it goes to.
    assert _openings(installed, "owned") == {installed.host: "exclusive", elsewhere.host: None}
    [error] = _node(
        elsewhere,
        """
constants.DISK_REMOVE_RETRY_TIMEOUT = 0
told.append(refused("remove", disk("owned")))
""",
    )
    assert "(in_use)" in error
    assert _openings(installed, "owned") == {installed.host: "exclusive"}
    _removed(installed, "owned")


def test_a_migration_opens_a_disk_on_both_nodes_and_leaves_it_on_one(
    installed: Installed, elsewhere: Installed
) -> None:
    # In the order of Ganeti's cmdlib/instance_migration.py. Both nodes are this machine and have
    # one device between them: it goes with the first to detach, and is made again when looked for.
    device = _made(installed, "moved")
    steps = {
        "close": """ok("close", "web1.example.org", [disk("moved")])""",
        "share": """ok("open", "web1.example.org", [disk("moved")], False)""",
        "own": """ok("open", "web1.example.org", [disk("moved")], True)""",
        "shutdown": """ok("shutdown", disk("moved"))""",
    }
    here, there = installed.host, elsewhere.host
    _node(elsewhere, steps["close"])
    assert _openings(installed, "moved") == {here: "exclusive", there: None}
    _node(installed, steps["share"])
    _node(elsewhere, steps["share"])
    assert _openings(installed, "moved") == {here: "shared", there: "shared"}
    _node(installed, steps["close"])
    _node(elsewhere, steps["own"])
    assert _openings(installed, "moved") == {here: None, there: "exclusive"}
    _node(installed, steps["shutdown"])
    assert _openings(installed, "moved") == {there: "exclusive"}
    [found] = _node(elsewhere, """told.append(ok("find", disk("moved"))["dev_path"])""")
    assert _holds_an_image(found)
    _removed(elsewhere, "moved")
    assert not _holds_an_image(device)
