"""Audits: what was done behind the product's back is found, named and repaired; nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from orchestrator.findings.recording import list_findings
from orchestrator.findings.repairing import finding_view, repair_submission
from orchestrator.inventory.hosts import seen
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.upkeep import queue_due
from orchestrator.machine import boot_id
from orchestrator.resources.volume.locks import take
from orchestrator.settings import Settings
from orchestrator.store.columns import db_now
from orchestrator.store.tables import jobs, workers
from tests.engine.conftest import ADMIN, Engine, Worker, act, create
from workers.backends.file import loopcontrol, loops
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions
from workers.backends.file.stamps import ATTRIBUTE
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

MIB = 2**20
#: Seconds for which threads that find nothing to do leave the processor to the others.
_PAUSE = 0.01


class Audited:
    """An engine with something on both of its backends, and a look at what audits find."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.root = Path(engine.settings.data) / "volumes"

    def beat(self) -> None:
        """Let the worker count as alive."""
        with self.engine.database.write() as connection:
            seen(
                connection,
                "worker-1",
                host="here",
                pid=1,
                boot_id=boot_id(),
                queues=self.engine.worker.runner.queues,
            )

    def audit(self, backend: str) -> dict[str, Any]:
        self.beat()
        accepted = self.engine.submit(
            {"action": "backend.audit", "backend": backend, "host": "here"}
        )
        self.work()
        job = self.engine.job(accepted.job_ids[0])
        assert job["state"] == "succeeded", job["error"]
        result: dict[str, Any] = job["result"]
        return result

    def findings(self, state: str = "open") -> list[dict[str, Any]]:
        with self.engine.database.read() as connection:
            rows: Any = list_findings(connection, {"state": state}, before=None, limit=1000)
            return [finding_view(row) for row in rows]

    def repair(self, finding: int, name: str) -> Any:
        with self.engine.database.read() as connection:
            wanted = repair_submission(connection, finding, name, ADMIN)
        self.beat()
        job_id = self.submit(wanted)
        self.work()
        if self.engine.job(job_id)["waiting_on"]:
            assert self.engine.job(job_id)["waiting_on"]["kind"] == "approval"
            self.engine.database.transact(lambda c: approve(c, job_id, ADMIN, "tests"))
            self.engine.database.transact(queue_due)
            self.work()
        return self.engine.job(job_id)

    def submit(self, wanted: Submission) -> int:
        accepted = self.engine.database.transact(lambda c: submit(c, wanted, max_attempts=5))
        return accepted.job_ids[0]

    def do(self, *requests: dict[str, Any]) -> None:
        self.beat()
        accepted = self.engine.submit(*requests, batch=True)
        self.work()
        states = [(job["state"], job["error"]) for job in map(self.engine.job, accepted.job_ids)]
        assert all(state == "succeeded" for state, _ in states), states

    def work(self) -> None:
        for _ in range(4):
            self.engine.work()

    def image(self, volume: str) -> Path:
        (path,) = self.root.glob(f"volumes/**/{volume}~*.img")
        return path

    def ram(self) -> MemoryDriver:
        drivers = self.engine.worker.serving.drivers.values()
        return next(driver for driver in drivers if isinstance(driver, MemoryDriver))

    def sql(self, statement: str, **values: Any) -> None:
        """What somebody does to the database by hand."""
        with self.engine.database.write() as connection:
            connection.execute(text(statement), values)

    def storage_sql(self, statement: str, *values: Any) -> None:
        """What somebody does to the memory backend by hand."""
        with self.ram()._store.change() as db:
            db.execute("PRAGMA defer_foreign_keys = ON")
            db.execute(statement, values)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    audit = settings.audit.model_copy(update={"grace_hours": 0.0})
    return settings.model_copy(update={"audit": audit})


@pytest.fixture
def audited(engine: Engine) -> Iterator[Audited]:
    made = Audited(engine)
    for backend in ("fast", "ram"):
        made.do(
            create("vm1", backend=backend),
            create("vm2", "2M", backend=backend, ref="vm2"),
            act("snapshot.create", "vm1", backend, snapshot="s1"),
            act("volume.update", "vm1", backend, params={"metadata": {"owner": "billing"}}),
        )
    made.do(
        {
            "action": "policy.create",
            "backend": "ram",
            "policy": "web",
            "params": {"rules": ["10.0.0.0/8"]},
        },
    )
    made.do(act("policy.assign", "vm1", "ram", policy="web"))
    made.do(act("volume.attach", "vm2", "ram", host="here"))
    yield made


def lock_of_the_dead(audited: Audited) -> None:
    with audited.engine.database.write() as connection:
        row = {"id": "gone-1", "host": "gone", "pid": 1, "boot_id": None, "queues": []}
        times = {"started_at": db_now(-9000.0), "seen_at": db_now(-9000.0)}
        connection.execute(workers.insert().values(**row, **times))
        take(connection, "ram", "vm1", "gone", ADMIN, seconds=None, reason=None)


def old_job(audited: Audited) -> None:
    accepted = audited.engine.submit(create("later", run_at="2030-01-01T00:00:00Z"))
    with audited.engine.database.write() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == accepted.job_ids[0])
            .values(created_at=db_now(-1e7), run_at=None)
        )


def old_lock(audited: Audited) -> None:
    with audited.engine.database.write() as connection:
        take(connection, "ram", "vm1", "client", ADMIN, seconds=None, reason=None)
    audited.sql("UPDATE locks SET taken_at = '2020-01-01 00:00:00.000000'")


def row_deleted(audited: Audited) -> None:
    audited.sql("DELETE FROM snapshots")
    audited.sql("DELETE FROM volumes WHERE name = 'vm1' AND policy_id IS NULL")


def stray_policy(audited: Audited) -> None:
    audited.storage_sql(
        "UPDATE policies SET rules = ? WHERE name = 'web'", json.dumps(["0.0.0.0/0"])
    )


@dataclass(frozen=True)
class Damage:
    """Something done by hand, what an audit has to say of it, and how it can be repaired."""

    does: Callable[[Audited], Any]
    backend: str
    kind: str
    says: str
    repairs: tuple[str, ...]
    #: The sum of promises does not know what was done to rows, either.
    miscounts: bool = False


DAMAGES: dict[str, Damage] = {
    "an image was removed": Damage(
        lambda a: a.image("vm2").unlink(), "fast", "ghost", "'vm2'", ("forget", "recreate")
    ),
    "a volume was removed": Damage(
        lambda a: a.storage_sql("DELETE FROM volumes WHERE name = 'free'"),
        "ram",
        "ghost",
        "'free'",
        ("forget", "recreate"),
    ),
    "an image was truncated": Damage(
        lambda a: os.truncate(a.image("vm2"), MIB),
        "fast",
        "size",
        "what was behind is lost",
        ("record",),
    ),
    "a volume was grown": Damage(
        lambda a: a.storage_sql("UPDATE volumes SET size = 4194304 WHERE name = 'vm2'"),
        "ram",
        "size",
        "2M are recorded, and 4M there",
        ("record",),
    ),
    "a snapshot was deleted": Damage(
        lambda a: next(a.root.glob("snapshots/*/s1~*.img")).unlink(),
        "fast",
        "snapshot",
        "'s1' is recorded, and the storage has none",
        ("record",),
    ),
    "the row of a snapshot was deleted": Damage(
        lambda a: a.sql("DELETE FROM snapshots WHERE name = 's1'"),
        "fast",
        "snapshot",
        "'s1' is on the storage, and not recorded",
        ("record",),
    ),
    "an export rule was edited": Damage(
        stray_policy, "ram", "policy", "0.0.0.0/0", ("reapply", "record")
    ),
    "a volume was given another export policy": Damage(
        lambda a: a.storage_sql("UPDATE exports SET policy = NULL"),
        "ram",
        "policy",
        "no export policy",
        ("reapply", "record"),
    ),
    "a file was put there": Damage(
        lambda a: (a.root / "volumes" / "stray.raw").write_bytes(b"x" * 8192),
        "fast",
        "orphan",
        "no stamp of ours",
        ("adopt",),
    ),
    "a volume was made": Damage(
        lambda a: a.storage_sql("INSERT INTO volumes (name, size) VALUES ('stray', 8192)"),
        "ram",
        "orphan",
        "no stamp of ours",
        ("adopt",),
    ),
    "the row of a volume was deleted": Damage(
        row_deleted,
        "fast",
        "orphan",
        "a stamp of ours, and is of no volume of the inventory",
        ("adopt",),
        miscounts=True,
    ),
    "a removed volume came back": Damage(
        lambda a: a.sql(
            "UPDATE volumes SET state = 'removed', removed_at = changed_at WHERE name = 'free'"
        ),
        "fast",
        "orphan",
        "of a volume that was removed",
        ("adopt", "remove"),
        miscounts=True,
    ),
    "a row was given another name": Damage(
        lambda a: a.sql("UPDATE volumes SET name = 'other' WHERE name = 'vm2'"),
        "fast",
        "metadata",
        "recorded is name 'other'",
        ("record",),
    ),
    "the metadata of a row were changed": Damage(
        lambda a: a.sql("UPDATE volumes SET metadata = '{}' WHERE name = 'vm1'"),
        "fast",
        "metadata",
        "billing",
        ("record", "apply"),
    ),
    "a volume was detached": Damage(
        lambda a: a.storage_sql("DELETE FROM attachments"),
        "ram",
        "attachment",
        "recorded as attached to here, and is not",
        ("attach", "detach"),
    ),
    "the row of an attachment was deleted": Damage(
        lambda a: a.sql("DELETE FROM attachments"),
        "ram",
        "attachment",
        "in use here, and not recorded",
        ("attach",),
    ),
    "a host died with a lock": Damage(lock_of_the_dead, "ram", "lock", "gone", ("break",)),
    "a lock grew old": Damage(
        old_lock,
        "ram",
        "stuck",
        "since 2020-01-01",
        ("break",),
    ),
    "a job grew old": Damage(old_job, "ram", "stuck", "orchestrator job cancel", ()),
    "the sum of promises was changed": Damage(
        lambda a: a.sql("UPDATE promises SET promised_bytes = promised_bytes + 512"),
        "ram",
        "capacity",
        "add up to",
        ("recount",),
    ),
}
#: Which damage is repaired in each of its ways.
CASES = [(name, repair) for name, damage in DAMAGES.items() for repair in damage.repairs or ("",)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "repair"), CASES)
def test_damage_is_found_and_named_and_can_be_repaired(
    audited: Audited, name: str, repair: str
) -> None:
    damage = DAMAGES[name]
    audited.do(create("free", backend=damage.backend))
    assert audited.audit(damage.backend)["findings"] == {}
    damage.does(audited)
    result = audited.audit(damage.backend)
    if damage.miscounts:
        assert result["findings"] == {damage.kind: 1, "capacity": 1}, audited.findings()
        [sum_] = [one for one in audited.findings() if one["kind"] == "capacity"]
        assert audited.repair(sum_["id"], "recount")["state"] == "succeeded"
        result = audited.audit(damage.backend)
    assert result["findings"] == {damage.kind: 1}, audited.findings()
    [found] = audited.findings()
    assert (found["kind"], found["backend"]) == (damage.kind, damage.backend)
    assert damage.says in found["text"]
    assert tuple(one["name"] for one in found["repairs"]) == damage.repairs
    audited.audit(damage.backend)
    [again] = audited.findings()
    assert (again["id"], again["first_seen_at"]) == (found["id"], found["first_seen_at"])
    assert again["last_seen_at"] > found["last_seen_at"]
    if not repair:
        return
    job = audited.repair(found["id"], repair)
    assert job["state"] == "succeeded", job["error"]
    assert audited.audit(damage.backend)["findings"] == {}, audited.findings()
    assert audited.findings() == []
    assert found["id"] in [one["id"] for one in audited.findings("closed")]


@pytest.mark.skipif(not loops.available(), reason="loop devices need root")
@pytest.mark.parametrize("repair", ["attach", "detach"])
def test_a_loop_device_taken_away_by_hand_is_found(audited: Audited, repair: str) -> None:
    audited.do(act("volume.attach", "vm2", "fast", host="here"))
    assert audited.audit("fast")["findings"] == {}
    image = audited.image("vm2").stat()
    for loop in loops.loops_of(image):
        loopcontrol.detach(loop, image)
    assert audited.audit("fast")["findings"] == {"attachment": 1}
    [found] = audited.findings()
    assert audited.repair(found["id"], repair)["state"] == "succeeded"
    assert audited.audit("fast")["findings"] == {}
    if repair == "attach":
        audited.do(act("volume.detach", "vm2", "fast", host="here"))


# -- what is not a finding ------------------------------------------------------------------


def _busy_with(audited: Audited, backend: str, number: int) -> list[dict[str, Any]]:
    """Jobs that make, change and take away a volume, and what belongs to it."""
    name, copy, moved = f"c{number}", f"copy{number}", f"moved{number}"
    jobs_: list[dict[str, Any]] = [
        create(name, backend=backend),
        act("volume.grow", name, backend, params={"size_bytes": 2 * MIB}),
        act("snapshot.create", name, backend, snapshot="a"),
        act("volume.clone", copy, backend, params={"source": name}),
        act("volume.update", name, backend, params={"metadata": {"n": str(number)}}),
        act("volume.rename", copy, backend, params={"new_name": moved}),
        act("snapshot.delete", name, backend, snapshot="a"),
        act("volume.remove", name, backend),
        act("volume.remove", moved, backend),
    ]
    if backend == "ram":
        policy = f"p{number}"
        jobs_[3:3] = [
            {
                "action": "policy.create",
                "backend": backend,
                "policy": policy,
                "params": {"rules": ["10.0.0.1"]},
            },
            act("policy.assign", name, backend, policy=policy),
            {
                "action": "policy.set_rules",
                "backend": backend,
                "policy": policy,
                "params": {"rules": ["10.0.0.2"]},
            },
            act("volume.attach", name, backend, host="here"),
            act("volume.detach", name, backend, host="here"),
            act("policy.assign", name, backend),
            {"action": "policy.remove", "backend": backend, "policy": policy},
        ]
    return jobs_


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["ram", "fast"])
def test_nothing_is_flagged_while_jobs_churn(audited: Audited, backend: str) -> None:
    """A thousand jobs on one backend, which is audited again and again meanwhile."""
    engine = audited.engine
    audited.beat()
    churn = [job for n in range(64) for job in _busy_with(audited, backend, n)]
    extra = -(-max(0, 1000 - len(churn)) // 2)
    churn += [create(f"e{n}", backend=backend) for n in range(extra)]
    churn += [act("volume.remove", f"e{n}", backend) for n in range(extra)]
    assert len(churn) >= 1000
    accepted = engine.submit(*churn)
    other = engine.another_worker()
    done = threading.Event()

    def work(worker: Worker) -> None:
        while not done.wait(_PAUSE):
            worker.work()

    threads = [threading.Thread(target=work, args=(one,)) for one in (engine.worker, other)]
    for thread in threads:
        thread.start()
    audits: list[dict[str, Any]] = []
    try:
        while True:
            before = engine.batch(accepted.batch_id or 0)
            [job_id] = engine.submit(
                {"action": "backend.audit", "backend": backend, "priority": -20}
            ).job_ids
            while engine.job(job_id)["finished_at"] is None:
                engine.database.transact(queue_due)
                done.wait(_PAUSE)
            audits.append(engine.job(job_id))
            if before["finished_at"] is not None:
                break
    finally:
        done.set()
        for thread in threads:
            thread.join()
    batch = engine.batch(accepted.batch_id or 0)
    assert batch["succeeded"] == len(churn), batch
    assert [one["state"] for one in audits] == ["succeeded"] * len(audits)
    assert [one["result"]["findings"] for one in audits] == [{}] * len(audits)
    assert any(one["result"]["volumes_busy"] for one in audits), "none saw a busy volume"
    assert audited.findings() == audited.findings("closed") == []


def test_what_a_job_is_changing_is_left_out_and_its_findings_stay(audited: Audited) -> None:
    audited.storage_sql("UPDATE volumes SET size = 4194304 WHERE name = 'vm1'")
    assert audited.audit("ram")["findings"] == {"size": 1}
    [found] = audited.findings()
    faults = Faults("ram", audited.ram().installation)
    faults.set(kind="fail", operation="grow", code="backend_busy")
    grow = act("volume.grow", "vm1", "ram", params={"size_bytes": 8 * MIB})
    [job_id] = audited.engine.submit(grow).job_ids
    audited.work()
    assert audited.engine.job(job_id)["waiting_on"]["kind"] == "back_off"
    result = audited.audit("ram")
    assert (result["findings"], result["volumes_busy"]) == ({}, 1)
    assert [one["id"] for one in audited.findings()] == [found["id"]]
    faults.clear()
    audited.engine.time_passes()
    audited.work()
    assert audited.engine.states([job_id]) == ["succeeded"]
    assert audited.audit("ram")["findings"] == {}
    assert audited.findings() == []


def test_a_backend_that_cannot_be_read_whole_is_not_judged(audited: Audited) -> None:
    audited.do(create("free"))
    audited.storage_sql("DELETE FROM volumes WHERE name = 'free'")
    faults = Faults("ram", audited.ram().installation)
    faults.set(kind="fail", operation="list_snapshots", times=1)
    [job_id] = audited.engine.submit({"action": "backend.audit", "backend": "ram"}).job_ids
    audited.work()
    job = audited.engine.job(job_id)
    assert (job["state"], job["result"]) == ("failed", None)
    assert audited.findings() == []
    assert audited.audit("ram")["findings"] == {"ghost": 1}


def test_another_storage_in_its_place_is_not_audited(audited: Audited) -> None:
    marker = audited.root / ".orchestrator" / "identity.json"
    written = marker.read_text()
    FileDriver("fast", FileOptions(path=audited.root), "0" * 32).write_identity(
        "f" * 32, replace=True
    )
    [job_id] = audited.engine.submit({"action": "backend.audit", "backend": "fast"}).job_ids
    audited.work()
    job = audited.engine.job(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "identity_mismatch")
    assert audited.findings() == []
    marker.unlink()
    [job_id] = audited.engine.submit({"action": "backend.audit", "backend": "fast"}).job_ids
    audited.work()
    assert audited.engine.job(job_id)["waiting_on"]["kind"] == "backend"
    marker.write_text(written)
    audited.engine.worker.serving.look_at_unusable()
    audited.work()
    assert audited.engine.states([job_id]) == ["succeeded"]
    assert audited.audit("fast")["findings"] == {}


# -- what is never removed ------------------------------------------------------------------


def test_what_is_not_ours_or_was_forgotten_is_never_removed(audited: Audited) -> None:
    audited.do(act("volume.forget", "vm2", "fast"))
    (audited.root / "volumes" / "stray.raw").write_bytes(b"x" * 8192)
    assert audited.audit("fast")["findings"] == {"orphan": 2}
    for found in audited.findings():
        assert [one["name"] for one in found["repairs"]] == ["adopt"]
        request = act(
            "volume.remove_orphan", found["volume"], "fast", params={"finding": found["id"]}
        )
        [job_id] = audited.engine.submit(request).job_ids
        audited.work()
        job = audited.engine.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "wrong_state")
    assert (audited.root / "volumes" / "stray.raw").read_bytes() == b"x" * 8192
    assert audited.image("vm2").exists()


def test_an_adopted_image_keeps_its_contents_and_snapshots(audited: Audited) -> None:
    with audited.image("vm1").open("r+b") as file:
        file.write(b"precious")
    audited.do(act("volume.forget", "vm1", "fast"))
    audited.audit("fast")
    [found] = audited.findings()
    assert audited.repair(found["id"], "adopt")["state"] == "succeeded"
    assert audited.audit("fast")["findings"] == {}
    volume = audited.engine.volumes("fast")["vm1"]
    assert volume["metadata"] == {"owner": "billing"}
    audited.do(act("snapshot.create", "vm1", "fast", snapshot="s2"))
    with audited.image("vm1").open("rb") as file:
        assert file.read(8) == b"precious"
    audited.do(act("volume.rollback", "vm1", "fast", snapshot="s2"))
    audited.do(act("snapshot.delete", "vm1", "fast", snapshot="s1"))
    audited.do(act("snapshot.delete", "vm1", "fast", snapshot="s2"))
    audited.do(act("volume.remove", "vm1", "fast"))
    assert audited.audit("fast")["findings"] == {}


def test_a_copy_of_an_image_is_a_finding_of_its_own_and_stays(audited: Audited) -> None:
    kept = audited.image("vm2")
    copy = kept.with_name(kept.name.replace("vm2~", "copy~"))
    shutil.copy2(kept, copy)
    os.setxattr(copy, ATTRIBUTE, os.getxattr(kept, ATTRIBUTE))
    audited.sql(
        "UPDATE volumes SET state = 'removed', removed_at = changed_at WHERE name = 'vm2'"
        " AND policy_id IS NULL AND backend_id = (SELECT id FROM backends WHERE name = 'fast')"
    )
    assert audited.audit("fast")["findings"] == {"orphan": 2, "capacity": 1}
    orphans = [one for one in audited.findings() if one["kind"] == "orphan"]
    assert {one["detail"]["whose"]: len(one["repairs"]) for one in orphans} == {
        "unknown": 0,
        "removed": 2,
    }
    [removed] = [one for one in orphans if one["repairs"]]
    assert audited.repair(removed["id"], "remove")["state"] == "succeeded"
    assert not kept.exists()
    assert copy.exists()
