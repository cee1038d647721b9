"""Nothing is struck, made anew or called wiped without proof; results tell what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.domain.errors import InUse, InvalidInput, Unsupported
from orchestrator.inventory.hosts import seen
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.upkeep import queue_due
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.columns import db_now
from orchestrator.store.tables import attachments
from tests.conformance.systems import PROVIDERS
from tests.engine.conftest import ADMIN, Engine, Worker, act, create
from tests.engine.test_audits import Audited
from workers.backends.base.call import Call
from workers.backends.base.facts import Removed
from workers.backends.base.references import VolumeRef
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

MIB = 2**20


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    provided = {
        "driver": "extstorage",
        "provider": "sparse",
        "search_path": [str(PROVIDERS)],
        "path": str(tmp_path / "driver"),
        "parameters": {"path": str(tmp_path)},
    }
    backends = {**settings.backends, "ext": BackendSettings.model_validate(provided)}
    return settings.model_copy(update={"backends": backends})


@pytest.fixture
def audited(engine: Engine) -> Audited:
    return Audited(engine)


def job(audited: Audited, request: dict[str, Any], **options: Any) -> Any:
    """How this ends; a person approves it where one has to."""
    audited.beat()
    [job_id] = audited.engine.submit({"max_attempts": 1, **request, **options}).job_ids
    if audited.engine.job(job_id)["waiting_on"]:
        audited.engine.database.transact(lambda c: approve(c, job_id, ADMIN, None))
        audited.engine.database.transact(queue_due)
    audited.work()
    return audited.engine.job(job_id)


def faults(audited: Audited) -> Faults:
    return Faults("ram", audited.ram().installation)


def another_file_in_its_place(audited: Audited, volume: str) -> Path:
    """Somebody put an image back from a backup: it bears no stamp."""
    image = audited.image(volume)
    image.unlink()
    image.write_bytes(b"kept" * 2**18)
    return image


# -- lost volumes -------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["volume.recreate", "volume.forget"])
def test_where_absence_cannot_be_known_nothing_counts_as_lost(engine: Engine, action: str) -> None:
    params = {"lost": True} if action == "volume.forget" else {}
    with pytest.raises(Unsupported, match=r"absence|cannot tell"):
        engine.submit(act("volume.create", "vm1", "ext", params={"size_bytes": MIB}),
                      act(action, "vm1", "ext", params=params))  # fmt: skip


@pytest.mark.parametrize("action", ["volume.recreate", "volume.forget"])
def test_what_stands_in_its_place_is_neither_lost_nor_touched(
    audited: Audited, action: str
) -> None:
    audited.do(create("vm1", backend="fast"))
    image = another_file_in_its_place(audited, "vm1")
    before = image.read_bytes(), image.stat().st_ino
    params = {"lost": True} if action == "volume.forget" else {}
    ended = job(audited, act(action, "vm1", "fast", params=params))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "conflict"), ended
    assert (image.read_bytes(), image.stat().st_ino) == before
    assert "vm1" in audited.engine.volumes("fast")


@pytest.mark.parametrize("action", ["volume.recreate", "volume.forget"])
def test_what_could_not_be_seen_is_not_lost(audited: Audited, action: str) -> None:
    audited.do(create("vm1"), act("snapshot.create", "vm1", snapshot="s1"))
    faults(audited).set(kind="unavailable", operation="inspect")
    params = {"lost": True} if action == "volume.forget" else {}
    ended = job(audited, act(action, "vm1", params=params))
    assert ended["state"] != "succeeded"
    faults(audited).clear()
    audited.engine.time_passes()
    audited.work()
    assert "vm1" in audited.engine.volumes()
    assert [one.name for one in audited.ram().list_volumes()] == ["vm1"]


def test_a_failed_recreate_takes_nothing_away(audited: Audited) -> None:
    audited.do(create("vm1"))
    id_ = audited.engine.volumes()["vm1"]["id"]
    audited.storage_sql("DELETE FROM volumes WHERE name = 'vm1'")
    faults(audited).set(kind="fail", operation="create", when="after", times=1)
    ended = job(audited, act("volume.recreate", "vm1"))
    assert ended["state"] == "failed"
    # What was made stays, and the record tells of it.
    assert [one.id for one in audited.ram().list_volumes()] == [id_]
    assert audited.engine.volumes()["vm1"]["id"] == id_


@pytest.mark.parametrize("policy", ["web", None], ids=["there", "lost too"])
def test_what_is_made_anew_has_the_export_policy_that_is_recorded(
    audited: Audited, policy: str | None
) -> None:
    made = {"action": "policy.create", "backend": "ram", "policy": "web"}
    audited.do({**made, "params": {"rules": ["10.0.0.0/8"]}}, create("vm1", policy="web"))
    audited.storage_sql("DELETE FROM exports")
    audited.storage_sql("DELETE FROM volumes WHERE name = 'vm1'")
    if policy is None:
        audited.storage_sql("DELETE FROM policies")
    ended = job(audited, act("volume.recreate", "vm1"))
    assert ended["state"] == "succeeded", ended["error"]
    assert [one.policy for one in audited.ram().list_volumes()] == [policy]
    assert audited.engine.volumes()["vm1"]["policy"] == policy


def test_what_is_made_anew_keeps_the_snapshots_that_are_there(audited: Audited) -> None:
    audited.do(
        create("vm1", backend="fast"),
        *(act("snapshot.create", "vm1", "fast", snapshot=name) for name in ("s1", "s2", "s3")),
    )
    audited.work()
    audited.image("vm1").unlink()
    next(audited.root.glob("snapshots/*/s2~*.img")).unlink()
    ended = job(audited, act("volume.recreate", "vm1", "fast"))
    assert ended["state"] == "succeeded", ended["error"]
    told = ended["result"]
    assert (told["kept_snapshots"], told["lost_snapshots"]) == (["s1", "s3"], ["s2"])


def test_what_is_left_of_a_lost_volume_is_told(audited: Audited) -> None:
    audited.do(
        create("vm1", backend="fast"),
        *(act("snapshot.create", "vm1", "fast", snapshot=name) for name in ("s1", "s2")),
    )
    audited.image("vm1").unlink()
    next(audited.root.glob("snapshots/*/s1~*.img")).unlink()
    ended = job(audited, act("volume.forget", "vm1", "fast", params={"lost": True}))
    assert ended["state"] == "succeeded", ended["error"]
    assert ended["result"]["snapshots_left"] == ["s2"]


# -- attached volumes ---------------------------------------------------------------------


def test_an_attached_volume_is_forgotten_only_by_force_and_that_is_told(audited: Audited) -> None:
    audited.do(create("vm1"), act("volume.attach", "vm1", host="here"))
    with pytest.raises(InUse, match="force=true"):
        audited.engine.submit(act("volume.forget", "vm1"))
    ended = job(audited, act("volume.forget", "vm1", params={"force": True}))
    assert (ended["state"], ended["result"]["attached_to"]) == ("succeeded", ["here"])


# -- results ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["ram", "fast"])
def test_a_removal_tells_how_much_it_has_wiped(audited: Audited, backend: str) -> None:
    audited.do(create("vm1", "2M", backend), create("vm2", "2M", backend))
    wiped = job(audited, act("volume.remove", "vm1", backend, params={"wipe": True}))
    plain = job(audited, act("volume.remove", "vm2", backend))
    assert wiped["result"] == {"removed": True, "wiped": True, "wiped_bytes": 2 * MIB}
    assert plain["result"] == {"removed": True, "wiped": False, "wiped_bytes": 0}


def test_a_removal_of_what_was_gone_has_wiped_nothing(audited: Audited) -> None:
    audited.do(create("vm1", backend="fast"))
    audited.image("vm1").unlink()
    ended = job(audited, act("volume.remove", "vm1", "fast", params={"wipe": True}))
    assert ended["result"] == {"removed": False, "wiped": False, "wiped_bytes": 0}


def test_a_removal_that_nobody_heard_of_does_not_say_that_it_has_wiped(audited: Audited) -> None:
    audited.do(create("vm1"))
    faults(audited).set(kind="lost reply", operation="remove", times=1)
    audited.engine.submit(act("volume.remove", "vm1", params={"wipe": True}))
    audited.work()
    audited.engine.time_passes()
    audited.work()
    with audited.engine.database.read() as connection:
        [job_id] = connection.execute(
            text("SELECT id FROM jobs WHERE action = 'volume.remove'")
        ).scalars()
    ended = audited.engine.job(job_id)
    assert ended["result"] == {"removed": True, "wiped": None, "wiped_bytes": None}


class _Forgetful(MemoryDriver):
    """Storage that says there was nothing to remove, and keeps it."""

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        return Removed(found=False)


def test_a_removal_strikes_only_what_is_seen_to_be_gone(audited: Audited) -> None:
    audited.do(create("vm1"))
    audited.ram().__class__ = _Forgetful
    ended = job(audited, act("volume.remove", "vm1"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "backend_error")
    assert "vm1" in audited.engine.volumes()


@pytest.mark.parametrize("backend", ["ram", "fast"])
def test_a_rollback_tells_which_snapshots_are_left(audited: Audited, backend: str) -> None:
    audited.do(create("vm1", backend=backend))
    for name in ("s1", "s2", "s3"):
        audited.do(act("snapshot.create", "vm1", backend, snapshot=name))
    params = {"discard_newer": True}
    ended = job(audited, act("volume.rollback", "vm1", backend, snapshot="s1", params=params))
    told = ended["result"]
    assert (told["snapshots_kept"], told["snapshots_deleted"]) == (["s1"], ["s2", "s3"])


# -- hosts --------------------------------------------------------------------------------


def attached_elsewhere(audited: Audited, host: str = "there") -> None:
    """Say that another host has the volume, as its worker would."""
    audited.do(create("vm1", backend="fast"))
    with audited.engine.database.write() as connection:
        volume = audited.engine.volumes("fast")["vm1"]["id"]
        connection.execute(
            attachments.insert().values(
                volume_id=volume, host=host, device="/dev/loop7", uris=[], read_only=False,
                boot_id="b", attached_at=db_now(),
            )
        )  # fmt: skip


def lives(audited: Audited, host: str) -> None:
    with audited.engine.database.write() as connection:
        seen(connection, f"{host}-1", host=host, pid=1, boot_id="b", queues=[])


def forced(host: str = "there", reason: str | None = "its power is off") -> dict[str, Any]:
    params = {"force": True, "fenced": True}
    return act("volume.detach", "vm1", "fast", host=host, params=params, reason=reason)


def test_a_host_whose_worker_is_alive_is_not_taken_for_fenced(audited: Audited) -> None:
    attached_elsewhere(audited)
    lives(audited, "there")
    with pytest.raises(InUse, match="is alive"):
        audited.engine.submit(forced())
    audited.sql("DELETE FROM workers WHERE host = 'there'")
    audited.beat()
    [job_id] = audited.engine.submit(forced()).job_ids
    # It comes back before anybody acts on that.
    lives(audited, "there")
    audited.work()
    ended = audited.engine.job(job_id)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "in_use")
    assert len(audited.engine.volumes("fast")["vm1"]["attachments"]) == 1
    audited.sql("DELETE FROM workers WHERE host = 'there'")
    assert job(audited, forced())["state"] == "succeeded"
    assert audited.engine.volumes("fast")["vm1"]["attachments"] == []


@pytest.mark.parametrize("reason", [None, "", "  \t"])
def test_a_blank_reason_is_none(audited: Audited, reason: str | None) -> None:
    attached_elsewhere(audited)
    with pytest.raises(InvalidInput, match="reason"):
        audited.engine.submit(forced(reason=reason))


@pytest.mark.parametrize(
    "request_",
    [
        act("snapshot.create", "vm1", "fast", snapshot="s1"),
        act("volume.clone", "vm2", "fast", params={"source": "vm1"}),
    ],
)
def test_what_another_host_may_write_to_is_read_there_if_it_can_be(
    audited: Audited, request_: dict[str, Any]
) -> None:
    engine = audited.engine
    attached_elsewhere(audited)
    there = Worker(engine.settings.model_copy(update={"host": "there"}), engine.database, "there-1")
    try:
        with engine.database.write() as connection:
            queues = there.runner.queues
            seen(connection, "there-1", host="there", pid=1, boot_id="b", queues=queues)
        [job_id] = engine.submit(request_).job_ids
        audited.work()
        assert engine.job(job_id)["state"] == "queued"
        there.work()
        ended = engine.job(job_id)
        assert (ended["state"], ended["host"]) == ("succeeded", "there"), ended
        # What only shows that it can be read anywhere travels to whoever is there.
        audited.sql("UPDATE attachments SET read_only = :yes", yes=True)
        again = {**request_, **({"snapshot": "s2"} if "snapshot" in request_ else {})}
        if again == request_:
            again["volume"] = "vm3"
        assert job(audited, again)["host"] is None
    finally:
        there.close()


@pytest.mark.parametrize(
    "request_",
    [
        act("snapshot.create", "vm1", "fast", snapshot="s1"),
        act("volume.clone", "vm2", "fast", params={"source": "vm1"}),
    ],
)
def test_what_another_host_may_write_to_is_not_read(
    audited: Audited, request_: dict[str, Any]
) -> None:
    attached_elsewhere(audited)
    ended = job(audited, request_)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "in_use"), ended
    assert "there" in ended["error"]["detail"]
    audited.sql("UPDATE attachments SET read_only = :yes", yes=True)
    assert job(audited, request_)["state"] == "succeeded"
