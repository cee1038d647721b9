"""Snapshots that others have moved, replaced, cut short or written to: nothing of them is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.settings import Settings
from orchestrator.store.tables import events, snapshots
from tests.engine.conftest import Engine, act, create
from tests.engine.test_audits import Audited
from tests.engine.test_differences import ended, texts, verified
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

MIB = 2**20


@pytest.fixture
def settings(settings: Settings) -> Settings:
    audit = settings.audit.model_copy(update={"grace_hours": 0.0})
    return settings.model_copy(update={"audit": audit})


@pytest.fixture
def audited(engine: Engine) -> Audited:
    made = Audited(engine)
    made.do(create("vm1", "2M", backend="fast"))
    made.image("vm1").write_bytes(b"before".ljust(2 * MIB, b"."))
    made.do(*(act("snapshot.create", "vm1", "fast", snapshot=name) for name in ("s1", "s2")))
    made.image("vm1").write_bytes(b"behind".ljust(2 * MIB, b"."))
    return made


def image(audited: Audited, snapshot: str) -> Path:
    (path,) = audited.root.glob(f"snapshots/*/{snapshot}~*.img")
    return path


def states(audited: Audited) -> dict[str, str]:
    with audited.engine.database.read() as connection:
        rows = connection.execute(select(snapshots.c.name, snapshots.c.state)).all()
    return {row.name: row.state for row in rows}


def told(audited: Audited, kind: str) -> list[str | None]:
    """The snapshots of which history has an event of this kind."""
    with audited.engine.database.read() as connection:
        query = select(events.c.snapshot).where(events.c.kind == kind).order_by(events.c.commit_id)
        return list(connection.execute(query).scalars())


def wiped_in_vain(audited: Audited) -> Any:
    """The job of a change that is refused, as somebody has the volume open."""
    with audited.image("vm1").open("r+b"):
        job = ended(audited, act("volume.wipe", "vm1", "fast"))
    assert (job["state"], job["error"]["code"]) == ("failed", "in_use")
    return job


# -- another size -------------------------------------------------------------------------


@pytest.mark.parametrize("there_now", [MIB, 4 * MIB], ids=["cut short", "grown"])
def test_a_snapshot_of_another_size_is_told_and_used_for_nothing(
    audited: Audited, there_now: int
) -> None:
    os.truncate(image(audited, "s1"), there_now)
    [size] = verified(audited, "vm1")["differences"].values()
    sizes = (size["recorded"]["size_bytes"], size["found"]["size_bytes"])
    assert sizes == (2 * MIB, there_now)
    delete_newer = {"discard_newer": True}
    for request in (
        act("volume.rollback", "vm1", "fast", snapshot="s1", params=delete_newer),
        act("volume.clone", "vm2", "fast", snapshot="s1", params={"source": "vm1"}),
        act(
            "volume.copy",
            "vm3",
            "ram",
            snapshot="s1",
            params={"source": "vm1", "source_backend": "fast"},
        ),
    ):
        job = ended(audited, request)
        assert (job["state"], job["error"]["code"]) == ("failed", "drift"), job
        assert f"{there_now} bytes" in job["error"]["detail"]
        assert f"{2 * MIB} in the inventory" in job["error"]["detail"]
    assert audited.image("vm1").read_bytes().startswith(b"behind")
    assert audited.image("vm1").stat().st_size == 2 * MIB
    assert states(audited) == {"s1": "available", "s2": "available"}
    # As the error says.
    audited.do(act("volume.reconcile", "vm1", "fast", params={"what": ["snapshots"]}))
    audited.do(act("volume.rollback", "vm1", "fast", snapshot="s1", params=delete_newer))
    assert audited.image("vm1").stat().st_size == there_now


def test_a_snapshot_in_memory_of_another_size_is_used_for_nothing(audited: Audited) -> None:
    audited.do(create("r1", "2M"), act("snapshot.create", "r1", snapshot="s"))
    audited.storage_sql("UPDATE snapshots SET size = ?", MIB)
    job = ended(audited, act("volume.rollback", "r1", snapshot="s"))
    assert (job["state"], job["error"]["code"]) == ("failed", "drift"), job


def test_a_rollback_begins_only_if_its_end_can_be_seen(audited: Audited) -> None:
    audited.do(create("r1", "2M"), act("snapshot.create", "r1", snapshot="s"))
    faults = Faults("ram", audited.ram().installation)
    faults.set(kind="fail", code="access_denied", operation="list_snapshots", times=1)
    job = ended(audited, act("volume.rollback", "r1", snapshot="s"))
    assert (job["state"], job["error"]["code"]) == ("failed", "access_denied")
    assert audited.engine.volumes()["r1"]["state"] == "available"


# -- not where it is recorded -------------------------------------------------------------


@pytest.fixture(params=["moved away", "replaced"])
def taken(request: pytest.FixtureRequest, audited: Audited, tmp_path: Path) -> Iterator[Path]:
    """Where the image of s1 belongs, which somebody has taken away."""
    place = image(audited, "s1")
    inode = place.stat().st_ino
    place.rename(tmp_path / "kept")
    if request.param == "replaced":
        place.write_bytes(b"somebody else's")
    yield place
    assert place.stat().st_ino == inode, "it was to be put back"


def put_back(place: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").rename(place)


def test_a_snapshot_that_is_not_found_keeps_its_record(
    audited: Audited, taken: Path, tmp_path: Path
) -> None:
    job = wiped_in_vain(audited)
    assert job["error"]["snapshots_missing"] == ["s1"]
    assert "snapshots s1" in job["error"]["detail"]
    assert states(audited) == {"s1": "error", "s2": "available"}
    assert told(audited, "snapshot.missing") == ["s1"]
    # Told once, however often it is not found.
    assert "snapshots_missing" not in wiped_in_vain(audited)["error"]
    assert told(audited, "snapshot.missing") == ["s1"]
    assert not verified(audited, "vm1")["agrees"] or taken.exists()
    put_back(taken, tmp_path)
    again = verified(audited, "vm1")
    assert again["snapshots_usable_again"] == ["s1"]
    assert states(audited) == {"s1": "available", "s2": "available"}
    audited.do(act("volume.rollback", "vm1", "fast", snapshot="s1", params={"discard_newer": True}))
    assert audited.image("vm1").read_bytes().startswith(b"before")
    assert told(audited, "snapshot.struck") == ["s2"]


def test_a_rollback_to_a_snapshot_that_is_not_found_strikes_nothing(
    audited: Audited, taken: Path, tmp_path: Path
) -> None:
    newer = {"discard_newer": True}
    job = ended(audited, act("volume.rollback", "vm1", "fast", snapshot="s1", params=newer))
    assert job["state"] == "failed"
    assert states(audited) == {"s1": "error", "s2": "available"}
    put_back(taken, tmp_path)
    verified(audited, "vm1")
    audited.do(act("volume.rollback", "vm1", "fast", snapshot="s1", params=newer))


def test_a_rollback_strikes_only_what_it_deletes(
    audited: Audited, taken: Path, tmp_path: Path
) -> None:
    job = ended(audited, act("volume.rollback", "vm1", "fast", snapshot="s2"))
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["snapshots_deleted"], job["result"]["snapshots_missing"]) == ([], ["s1"])
    assert states(audited) == {"s1": "error", "s2": "available"}
    put_back(taken, tmp_path)


def test_what_stands_in_a_snapshots_place_strikes_no_record(
    audited: Audited, taken: Path, tmp_path: Path
) -> None:
    theirs = taken.read_bytes() if taken.exists() else None
    audited.do(act("volume.reconcile", "vm1", "fast", params={"what": ["snapshots"]}))
    if theirs is None:
        assert states(audited)["s1"] == "removed"
        assert told(audited, "snapshot.struck") == ["s1"]
    else:
        job = ended(audited, act("snapshot.delete", "vm1", "fast", snapshot="s1"))
        assert job["error"]["code"] == "conflict"
        assert taken.read_bytes() == theirs
        assert states(audited)["s1"] == "error"
    put_back(taken, tmp_path)


def test_a_missing_snapshot_can_be_deleted(audited: Audited) -> None:
    image(audited, "s1").unlink()
    wiped_in_vain(audited)
    assert states(audited)["s1"] == "error"
    audited.do(
        *(act("snapshot.delete", "vm1", "fast", snapshot=name) for name in ("s1", "s2")),
        act("volume.remove", "vm1", "fast"),
    )


def test_looking_again_takes_no_snapshot_away_that_was_usable_once(
    audited: Audited, tmp_path: Path
) -> None:
    place = image(audited, "s1")
    place.rename(tmp_path / "kept")
    wiped_in_vain(audited)
    put_back(place, tmp_path)
    # Whatever the reason is for which the engine looks again.
    audited.sql("UPDATE volumes SET look_again_at = changed_at, state = 'error'")
    assert verified(audited, "vm1")["settled"] == "available"
    assert place.exists()
    assert states(audited) == {"s1": "available", "s2": "available"}


def test_looking_again_strikes_only_what_was_to_be_deleted(engine: Engine) -> None:
    audited = Audited(engine)
    audited.do(
        create("r1"), *(act("snapshot.create", "r1", snapshot=name) for name in ("s1", "s2"))
    )
    audited.storage_sql("DELETE FROM snapshots WHERE name = 's1'")
    audited.sql("UPDATE volumes SET look_again_at = changed_at, state = 'error'")
    settled = verified(audited, "r1", "ram")
    assert settled["differences"] == {"snapshots_missing": ["s1"]}
    assert states(audited) == {"s1": "error", "s2": "available"}


# -- what others do to an image -----------------------------------------------------------


def test_a_hard_link_to_a_snapshot_is_told(audited: Audited, tmp_path: Path) -> None:
    os.link(image(audited, "s1"), tmp_path / "another name")
    differences = verified(audited, "vm1")["differences"]
    assert differences == {"snapshots.s1.links": {"recorded": 1, "found": 2}}
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    [found] = audited.findings()
    assert "snapshot 's1' has 2 names" in found["text"]
    assert (found["snapshot"], found["repairs"]) == ("s1", [])
    (tmp_path / "another name").unlink()
    assert audited.audit("fast")["findings"] == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_snapshot_that_belongs_to_others_is_told(audited: Audited) -> None:
    os.chown(image(audited, "s1"), 64055, 64055)
    assert list(verified(audited, "vm1")["differences"]) == ["snapshots.s1.owner"]
    assert audited.audit("fast")["findings"] == {"metadata": 1}
    assert "others than the worker" in texts(audited)[0]


def test_a_snapshot_that_was_written_to_is_told_until_somebody_knows(audited: Audited) -> None:
    assert audited.audit("fast")["findings"] == {}
    audited.sql("UPDATE events SET at = :long", long="2026-01-01 00:00:00.000000")
    image(audited, "s1").write_bytes(b"x" * 2 * MIB)
    # What happens to the volume meanwhile is no reason to write to a snapshot of it.
    audited.do(act("volume.grow", "vm1", "fast", params={"size_bytes": "3M"}))
    assert "snapshots.s1.written" in verified(audited, "vm1")["differences"]
    audited.audit("fast")
    assert any("snapshot 's1' was last written" in text for text in texts(audited))
    audited.do(act("volume.reconcile", "vm1", "fast", params={"what": ["snapshots"]}))
    assert audited.audit("fast")["findings"] == {}
    assert verified(audited, "vm1")["agrees"]
