"""What `volume.verify` and audits compare: devices, links, owners, times, order, strays."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from orchestrator.resources.changes import apply
from orchestrator.resources.volume.changes import set_volume
from orchestrator.settings import Settings
from orchestrator.store.tables import snapshots
from tests.engine.conftest import Engine, act, create
from tests.engine.test_audits import Audited
from workers.backends.file import loopcontrol, loops
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

MIB = 2**20
needs_loops = pytest.mark.skipif(not loops.available(), reason="loop devices need root")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    audit = settings.audit.model_copy(update={"grace_hours": 0.0})
    return settings.model_copy(update={"audit": audit})


@pytest.fixture
def audited(engine: Engine) -> Audited:
    made = Audited(engine)
    made.do(create("vm1", backend="fast"), create("vm2", "2M", backend="fast"))
    return made


def ended(audited: Audited, request: dict[str, Any]) -> Any:
    audited.beat()
    [job_id] = audited.engine.submit({"max_attempts": 1, **request}).job_ids
    audited.work()
    return audited.engine.job(job_id)


def verified(audited: Audited, volume: str, backend: str = "fast") -> dict[str, Any]:
    job = ended(audited, act("volume.verify", volume, backend))
    assert job["state"] == "succeeded", job["error"]
    result: dict[str, Any] = job["result"]
    return result


def device(audited: Audited, volume: str) -> str:
    [attachment] = audited.engine.volumes("fast")[volume]["attachments"]
    return str(attachment["device"])


def texts(audited: Audited) -> list[str]:
    return [one["text"] for one in audited.findings()]


def detached_by_hand(audited: Audited, volume: str) -> None:
    image = audited.image(volume).stat()
    for loop in loops.loops_of(image):
        loopcontrol.detach(loop, image)


# -- devices ------------------------------------------------------------------------------


@needs_loops
def test_a_device_that_is_gone_is_told(audited: Audited) -> None:
    audited.do(act("volume.attach", "vm1", "fast", host="here"))
    assert verified(audited, "vm1")["agrees"]
    path = device(audited, "vm1")
    detached_by_hand(audited, "vm1")
    told = verified(audited, "vm1")
    assert told["differences"] == {"attachments.here": {"recorded": path, "found": None}}


@needs_loops
def test_a_device_that_is_another_volumes_by_now_is_told(audited: Audited) -> None:
    audited.do(act("volume.attach", "vm1", "fast", host="here"))
    audited.do(act("volume.attach", "vm2", "fast", host="here"))
    other = device(audited, "vm2")
    audited.sql(
        "UPDATE attachments SET device = :other WHERE volume_id = "
        "(SELECT id FROM volumes WHERE name = 'vm1')", other=other,
    )  # fmt: skip
    told = verified(audited, "vm1")["differences"]["attachments.here"]
    assert told["recorded"] == other
    assert told["found"] != [other]
    audited.audit("fast")
    assert any(other in text and "vm1" in text for text in texts(audited))
    for volume in ("vm1", "vm2"):
        detached_by_hand(audited, volume)


@needs_loops
def test_a_device_that_is_too_short_is_told(audited: Audited) -> None:
    audited.do(act("volume.attach", "vm2", "fast", host="here"))
    image = audited.image("vm2")
    detached_by_hand(audited, "vm2")
    os.truncate(image, MIB)
    with image.open("rb") as opened:
        loop = loopcontrol.attach(opened.fileno(), "0" * 32, read_only=False)
    audited.sql("UPDATE attachments SET device = :path", path=loop.path)
    told = verified(audited, "vm2")["differences"]
    assert told["attachments.here"]["found"] == {"size_bytes": MIB}
    assert told["size_bytes"] == {"recorded": 2 * MIB, "found": MIB}
    detached_by_hand(audited, "vm2")


@needs_loops
def test_a_device_that_nobody_recorded_is_told(audited: Audited) -> None:
    audited.do(act("volume.attach", "vm1", "fast", host="here"))
    audited.sql("DELETE FROM attachments")
    assert "attachments.here" in verified(audited, "vm1")["differences"]
    detached_by_hand(audited, "vm1")


@needs_loops
def test_what_hosts_do_with_it_does_not_keep_a_volume_in_error(audited: Audited) -> None:
    audited.do(act("volume.attach", "vm1", "fast", host="here"))
    detached_by_hand(audited, "vm1")
    audited.sql("UPDATE volumes SET state = 'error' WHERE name = 'vm1'")
    assert not verified(audited, "vm1")["agrees"]
    assert audited.engine.volumes("fast")["vm1"]["state"] == "available"


# -- images -------------------------------------------------------------------------------


def test_a_hard_link_is_told(audited: Audited, tmp_path: Path) -> None:
    os.link(audited.image("vm1"), tmp_path / "another name")
    assert verified(audited, "vm1")["differences"] == {"links": {"recorded": 1, "found": 2}}
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    [found] = audited.findings()
    assert "hard links" in found["text"]
    assert found["repairs"] == []
    (tmp_path / "another name").unlink()
    assert audited.audit("fast")["findings"] == {}


def test_a_further_name_beside_an_image_is_told_for_what_it_is(audited: Audited) -> None:
    image = audited.image("vm1")
    beside = image.with_name("beside.img")
    os.link(image, beside)
    audited.audit("fast")
    [found] = [one for one in audited.findings() if one["kind"] == "orphan"]
    assert "the stamp of volume 'vm1'" in found["text"]
    assert found["repairs"] == []
    # What bears the stamp of none that is recorded can be adopted, as the finding says.
    audited.do(act("volume.forget", "vm1", "fast"))
    image.unlink()
    audited.audit("fast")
    [found] = [one for one in audited.findings() if one["kind"] == "orphan"]
    assert [one["name"] for one in found["repairs"]] == ["adopt"]
    assert audited.repair(found["id"], "adopt")["state"] == "succeeded"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_image_that_belongs_to_others_is_told(audited: Audited) -> None:
    os.chown(audited.image("vm1"), 64055, 64055)
    assert list(verified(audited, "vm1")["differences"]) == ["owner"]
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    assert "others than the worker" in texts(audited)[0]


def test_what_was_written_behind_our_back_is_told_until_somebody_knows(audited: Audited) -> None:
    assert audited.audit("fast")["findings"] == {}
    image = audited.image("vm1")
    audited.sql(
        "UPDATE events SET at = :long WHERE volume = 'vm1'", long="2026-01-01 00:00:00.000000"
    )
    image.write_bytes(b"x" * MIB)
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    assert "by hand" in texts(audited)[0]
    assert verified(audited, "vm1")["written_by_hand_after"] == "2026-01-01T00:00:00Z"
    # A look at it is no knowledge of it.
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    audited.do(act("volume.reconcile", "vm1", "fast", params={"what": ["size"]}))
    assert audited.audit("fast")["findings"] == {}


# -- snapshots ----------------------------------------------------------------------------


def test_another_order_of_snapshots_is_told_and_recorded(audited: Audited) -> None:
    for name in ("s1", "s2", "s3"):
        audited.do(act("snapshot.create", "vm1", "fast", snapshot=name))
    audited.sql("UPDATE snapshots SET position = 4 - position")
    told = verified(audited, "vm1")["differences"]
    assert told["snapshots"] == {"recorded": ["s3", "s2", "s1"], "found": ["s1", "s2", "s3"]}
    assert audited.audit("fast")["findings"] == {"snapshot": 1}
    [found] = audited.findings()
    assert "in the order s3, s2, s1" in found["text"]
    assert audited.repair(found["id"], "record")["state"] == "succeeded"
    assert audited.audit("fast")["findings"] == {}
    assert verified(audited, "vm1")["agrees"]


# -- what is not there, and what stands in its place --------------------------------------


def test_what_stands_in_a_volumes_place_makes_no_ghost(audited: Audited) -> None:
    image = audited.image("vm1")
    image.unlink()
    image.write_bytes(b"restored" * 2**17)
    found = audited.audit("fast")["findings"]
    assert "ghost" not in found
    told = {one["kind"]: one for one in audited.findings() if one["volume"] == "vm1"}
    assert "stands in its place" in told["metadata"]["text"]
    assert told["metadata"]["repairs"] == []
    assert "stands in its place" in verified(audited, "vm1")["differences"]["storage"]


@pytest.mark.parametrize("operation", ["list_volumes", "inspect", "list_snapshots"])
def test_what_cannot_be_seen_fails_the_audit(audited: Audited, operation: str) -> None:
    audited.do(create("r1"), create("r2"))
    audited.storage_sql("DELETE FROM volumes WHERE name = 'r1'")
    faults = Faults("ram", audited.ram().installation)
    faults.set(kind="unavailable", operation=operation)
    assert ended(audited, {"action": "backend.audit", "backend": "ram"})["state"] != "succeeded"
    assert audited.findings() == []
    faults.clear()
    audited.engine.time_passes()
    audited.audit("ram")
    assert [one["kind"] for one in audited.findings()] == ["ghost"]


# -- adoption -----------------------------------------------------------------------------


def test_an_adopted_volume_keeps_its_policy_and_settings(audited: Audited) -> None:
    policy = {"action": "policy.create", "backend": "ram", "policy": "web",
              "params": {"rules": ["10.0.0.0/8"]}}  # fmt: skip
    settings = {"autosize_enabled": True, "autosize_max_bytes": "8M"}
    audited.do(policy, create("r1"))
    audited.do(act("policy.assign", "r1", policy="web"))
    audited.do(act("volume.update", "r1", params={"settings": settings}))
    before = audited.engine.volumes()["r1"]
    audited.do(act("volume.forget", "r1"))
    adopted = ended(audited, act("volume.adopt", "r1", params={"take_over": True}))
    assert adopted["state"] == "succeeded", adopted["error"]
    assert (adopted["result"]["policy"], adopted["result"]["policy_known"]) == ("web", True)
    after = audited.engine.volumes()["r1"]
    for part in ("policy", "settings", "metadata", "parameters", "size_bytes"):
        assert after[part] == before[part], part
    assert audited.audit("ram")["findings"] == {}


def test_a_copy_of_a_live_volume_is_not_adopted_and_the_volume_is_named(audited: Audited) -> None:
    audited.do(create("r1"))
    with audited.ram()._store.change() as db:
        db.execute("UPDATE volumes SET name = 'other' WHERE name = 'r1'")
    job = ended(audited, act("volume.adopt", "other", params={"take_over": True}))
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict")
    assert "'r1' of backend ram" in job["error"]["detail"]


def test_snapshots_of_a_volume_that_was_removed_are_found_and_removed(audited: Audited) -> None:
    audited.do(act("snapshot.create", "vm1", "fast", snapshot="s1"))
    with audited.engine.database.read() as connection:
        recorded = connection.execute(select(snapshots.c.volume_id)).scalar_one()
    directory = audited.root / "snapshots" / recorded
    kept = audited.root / "kept"
    shutil.copytree(directory, kept)
    copied_stamps(directory, kept)
    audited.do(act("snapshot.delete", "vm1", "fast", snapshot="s1"))
    audited.do(act("volume.remove", "vm1", "fast"))
    assert audited.audit("fast")["findings"] == {}
    shutil.rmtree(directory, ignore_errors=True)
    kept.rename(directory)
    assert audited.audit("fast")["findings"] == {"orphan": 1}
    [found] = audited.findings()
    assert "s1" in found["text"]
    assert "the volume is not" in found["text"]
    assert [one["name"] for one in found["repairs"]] == ["remove"]
    job = audited.repair(found["id"], "remove")
    assert (job["state"], job["result"]["snapshots_deleted"]) == ("succeeded", ["s1"]), job
    assert audited.audit("fast")["findings"] == {}


def test_snapshots_below_an_unknown_id_are_found_and_left(audited: Audited) -> None:
    audited.do(act("snapshot.create", "vm1", "fast", snapshot="s1"))
    [directory] = audited.root.glob("snapshots/*")
    unknown = audited.root / "snapshots" / ("e" * 32)
    shutil.copytree(directory, unknown)
    copied_stamps(directory, unknown)
    audited.audit("fast")
    [found] = audited.findings()
    assert (found["kind"], found["repairs"]) == ("orphan", [])
    assert "e" * 32 in found["text"]


def copied_stamps(directory: Path, copy: Path) -> None:
    """Extended attributes, which copying leaves behind on some systems."""
    for path in directory.iterdir():
        for name in os.listxattr(path):
            os.setxattr(copy / path.name, name, os.getxattr(path, name))


# -- what was lost, and is there again ----------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True], ids=["available", "restricted"])
def test_what_is_back_is_what_it_was_whatever_snapshots_nobody_knows(
    audited: Audited, hidden: bool
) -> None:
    audited.do(act("snapshot.create", "vm1", "fast", snapshot="s1"))
    if hidden:
        audited.do(act("volume.restrict", "vm1", "fast"))
    lost = set_volume(audited.engine.volumes("fast")["vm1"]["id"], state="error", detail="lost")
    with audited.engine.database.write() as connection:
        connection.execute(delete(snapshots))
        apply(connection, [lost], datetime.now(UTC))
    told = verified(audited, "vm1")
    assert told["differences"] == {"snapshots": {"recorded": [], "found": ["s1"]}}
    volume = audited.engine.volumes("fast")["vm1"]
    expected = "restricted" if hidden else "available"
    assert (volume["state"], volume["detail"]) == (expected, None)
