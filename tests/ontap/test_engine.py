"""The driver under the whole engine: workers killed at every request, work that takes its time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.errors import Conflict, IdentityMismatch, Problem
from orchestrator.nas import NetappStorage
from orchestrator.nas.edges.private import PrivateEngine
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import jobs
from tests.ontap.conftest import leftovers
from tests.ontap.double import PASSWORD, USER, Double, Fault, Request
from tests.ontap.filer import Filer
from tests.ontap.processes import Child, Forks

pytestmark = pytest.mark.slow

#: More requests than a creation takes.
MANY = 40

CREATE = {
    "action": "volume.create",
    "volume": "vx",
    "params": {"size_bytes": 64 * 2**20, "settings": {"junction_path": "/x"}},
}


def engine_on(double: Double, data: Path, **options: Any) -> AbstractContextManager[PrivateEngine]:
    """The engine of one process, with a filer as its backend."""
    return engine_at(double.port, data, **options)


@contextmanager
def engine_at(port: int, data: Path, **options: Any) -> Iterator[PrivateEngine]:
    """The same, by the filer's port."""
    backend = {
        "driver": "ontap",
        "hostname": "127.0.0.1",
        "port": port,
        "scheme": "http",
        "username": USER,
        "password": PASSWORD,
        "vserver": "svm1",
        "poll": 0.01,
        **options,
    }
    engine = PrivateEngine(backend, data)
    yield engine
    engine.close()


def _create(port: int, data: Path) -> Iterator[None]:
    """What the worker does that will be killed."""
    with engine_at(port, data) as engine:
        yield
        engine.run([CREATE])


def expire_leases(data: Path) -> None:
    """Let the leases of the dead run out, and every back-off come to its end."""
    database = Database(f"sqlite:///{data / 'orchestrator.db'}", pool_size=1)
    with database.write() as connection:
        connection.execute(
            update(jobs).values(lease_expires_at=db_now(-1)).where(jobs.c.state == "running")
        )
        connection.execute(
            update(jobs).values(not_before=db_now(-1)).where(jobs.c.not_before.is_not(None))
        )
    database.close()


def published(double: Double) -> dict[str, str]:
    """The volumes of the SVM that are to be seen and bear a stamp: names and stamps."""
    return {
        one["name"]: one["comment"]
        for one in double.filer.volumes.values()
        if "id=" in one["comment"] and not one["name"].startswith("orchestrator_new_")
    }


def test_a_worker_killed_at_any_request_of_a_creation_leaves_one_volume(
    double: Double, forks: Forks, tmp_path: Path
) -> None:
    # Behind the effect of each request: before it, things are as behind the one before.
    for number in range(1, MANY):
        double.filer, data = Filer(), tmp_path / str(number)
        double.forget()
        worker = forks.child(_create, double.port, data)

        def kill(_request: Request, worker: Child = worker) -> None:
            os.kill(worker.pid, signal.SIGKILL)

        double.forget()
        double.faults = [Fault("call after", number=number, hook=kill)]
        survived = worker.go() == 0
        double.forget()
        with engine_on(double, data) as engine:
            if not survived:
                expire_leases(data)
                recover(engine)
            [volume] = engine.volumes()
            assert volume["state"] == "available"
            assert list(published(double)) == ["vx"]
            assert f"id={volume['id']} " in published(double)["vx"]
            assert engine.volume_at("/x")["id"] == volume["id"]
            assert leftovers(double) == []
        if survived:
            return
    raise AssertionError("more requests than expected")


def recover(engine: PrivateEngine) -> None:
    """Let what the dead have left be done."""
    for _ in range(MANY):
        engine.tick()
        if all(not volume["jobs"] for volume in engine.volumes()) and engine.volumes():
            return
        expire_leases(engine.directory)
    raise AssertionError("the job of the dead was not taken up")


def test_a_creation_that_the_filer_refuses_leaves_nothing(double: Double, tmp_path: Path) -> None:
    double.filer.jobs.failing = {1: (524288, "The aggregate has failed.")}
    with engine_on(double, tmp_path) as engine:
        with pytest.raises(Problem):
            engine.run([CREATE])
        assert engine.volumes() == []
        assert published(double) == {}
        assert leftovers(double) == []
        engine.run([CREATE])
        assert list(published(double)) == ["vx"]


def test_what_the_filer_takes_long_for_holds_up_nothing_else(
    double: Double, tmp_path: Path
) -> None:
    with engine_on(double, tmp_path, patience=0) as engine:
        double.filer.jobs.held = True
        ended: list[Any] = []
        waiter = threading.Thread(target=lambda: ended.extend(engine.run([CREATE])))
        waiter.start()
        # Other work is done while the filer is at it, however often that is looked at.
        for _ in range(3):
            [other] = engine.run([{"action": "backend.refresh"}])
            assert other["state"] == "succeeded"
        double.filer.jobs.held = False
        waiter.join()
        [job] = ended
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert list(published(double)) == ["vx"]


def test_an_svm_of_another_installation_is_refused_until_it_is_accepted(
    double: Double, tmp_path: Path
) -> None:
    with engine_on(double, tmp_path / "one") as engine:
        engine.run([CREATE])
    with pytest.raises(IdentityMismatch), engine_on(double, tmp_path / "two"):
        pass
    options: dict[str, Any] = {"scheme": "http", "port": double.port, "poll": 0.01}
    storage = NetappStorage(
        "127.0.0.1",
        USER,
        PASSWORD,
        "svm1",
        data=tmp_path / "two",
        accept_identity=True,
        **options,
    )
    assert storage.volumes == []
    assert storage.adopt_volumes() == [], "it bears a mark of ours that nobody knows"
    assert storage.adopt_volumes(take_over=True) == ["vx"]
    assert storage.patch_volume("vx", size_total=2**27)["size_total"] == 2**27
    storage.close()


def test_one_volume_that_cannot_be_adopted_holds_up_no_other(
    double: Double, tmp_path: Path
) -> None:
    for name in ("aaa", "my__dev1", "x__00y", "zzz"):
        double.filer.plant(name)
    with engine_on(double, tmp_path) as engine:
        storage = NetappStorage.__new__(NetappStorage)
        storage._engine = engine
        storage._begin(engine, discard_newer=False)
        assert storage.adopt_volumes() == ["aaa", "zzz"]


def test_a_rule_that_we_have_no_words_for_is_neither_lost_nor_recorded(
    double: Double, tmp_path: Path
) -> None:
    with engine_on(double, tmp_path) as engine:
        rules = {"rules": ["10.0.0.0/24"]}
        engine.run([{"action": "policy.create", "policy": "web", "params": rules}])
        [policy] = [p for p in double.filer.policies.records.values() if p["name"] == "web"]
        foreign = {"clients": [{"match": "10.9.0.0/16"}], "ro_rule": ["krb5"], "rw_rule": ["krb5"]}
        double.filer.policies.add_rule(str(policy["id"]), {**foreign, "protocols": ["nfs"]})
        with pytest.raises(Conflict, match="krb5"):
            engine.run(
                [{"action": "policy.add_rule", "policy": "web", "params": {"rule": "10.1.0.1"}}]
            )
        assert engine.policy("web")["rules"] == ["10.0.0.0/24"]
        # Nothing else on the backend is held up by it, and it can be mended.
        engine.run([CREATE])
        engine.run([{"action": "policy.set_rules", "policy": "web", "params": rules}])
        assert engine.policy("web")["state"] == "available"


def test_snapshots_keep_the_filers_order_when_their_volume_is_adopted_again(
    double: Double, tmp_path: Path
) -> None:
    names = ["zulu", "alfa", "mike"]
    with engine_on(double, tmp_path) as engine:
        engine.run([CREATE])
        for minute, name in enumerate(names):
            engine.run([{"action": "snapshot.create", "volume": "vx", "snapshot": name}])
            [volume] = [one for one in double.filer.volumes.values() if one["name"] == "vx"]
            newest = volume["_snapshots"][-1]
            newest["create_time"] = f"2026-05-01T00:0{minute}:00+00:00"
        assert [one["name"] for one in engine.snapshots("vx")] == names
        engine.run([{"action": "volume.forget", "volume": "vx"}])
        adopt = {"action": "volume.adopt", "volume": "vx", "params": {"take_over": True}}
        [adopted] = engine.run([adopt])
        assert adopted["result"]["snapshots"] == names
        assert [one["name"] for one in engine.snapshots("vx")] == names
        rollback = {"action": "volume.rollback", "volume": "vx", "snapshot": "alfa"}
        [rolled] = engine.run([{**rollback, "params": {"discard_newer": True}}])
        assert rolled["result"]["snapshots_kept"] == names[:2]
        assert rolled["result"]["snapshots_deleted"] == names[2:]


@pytest.mark.parametrize("comment", ["kept", "cleared"])
def test_an_adoption_whose_answer_was_lost_goes_on_where_it_was(
    double: Double, tmp_path: Path, comment: str
) -> None:
    with engine_on(double, tmp_path) as engine:
        engine.run([CREATE])
        engine.run([{"action": "snapshot.create", "volume": "vx", "snapshot": "s1"}])
        engine.run([{"action": "volume.forget", "volume": "vx"}])
        if comment == "cleared":
            double.filer.named("vx")["comment"] = ""
        double.forget()
        # Its stamp is on the filer, and nobody has heard of that.
        double.faults = [Fault("drop after", method="PATCH", path="volumes/[^/]+$")]
        adopt = {"action": "volume.adopt", "volume": "vx", "params": {"take_over": True}}
        [adopted] = engine.run([adopt])
        assert adopted["attempt"] == 2
        assert adopted["result"]["snapshots"] == ["s1"]
        assert (adopted["result"]["taken_over"] is not None) == (comment == "kept")
        assert [one["name"] for one in engine.snapshots("vx")] == ["s1"]
        [job] = engine.run([{"action": "volume.rollback", "volume": "vx", "snapshot": "s1"}])
        assert job["state"] == "succeeded"


def _fail_to_make_policy(double: Double, engine: PrivateEngine) -> None:
    """A policy in error: its creation failed, and what it has left cannot be inspected."""
    request = {"action": "policy.create", "policy": "web", "params": {"rules": ["10.0.0.0/24"]}}
    with pytest.raises(Problem):
        engine.run([{**request, "max_attempts": 1}])
    double.forget()
    assert engine.policy("web")["state"] == "error"


@pytest.mark.parametrize("verb", ["set_rules", "reapply"])
def test_a_policy_that_was_never_made_is_not_taken_for_another_s_of_its_name(
    double: Double, tmp_path: Path, verb: str
) -> None:
    with engine_on(double, tmp_path) as engine:
        double.filer.policies.create({"name": "web", "svm": {"name": "svm1"}, "rules": []})
        blind = Fault("status", status=403, method="GET", path="export-policies", times=100)

        def discarded() -> None:
            if double.asked("DELETE", "export-policies"):
                double.faults = [blind]

        double.changed = discarded
        _fail_to_make_policy(double, engine)
        double.changed = lambda: None
        params = {"rules": ["10.9.0.0/16"]} if verb == "set_rules" else {}
        with pytest.raises(Conflict, match="never made"):
            engine.run([{"action": f"policy.{verb}", "policy": "web", "params": params}])
        [web] = [p for p in double.filer.policies.records.values() if p["name"] == "web"]
        assert web["rules"] == []


def test_a_policy_that_was_published_unheard_is_removed_with_its_record(
    double: Double, tmp_path: Path
) -> None:
    with engine_on(double, tmp_path) as engine:
        blind = Fault("status", status=403, method="GET|DELETE", path="export-policies", times=100)

        def published(_request: Request) -> None:
            double.faults = [blind]

        double.faults = [
            Fault("call after", method="PATCH", path="export-policies", hook=published)
        ]
        _fail_to_make_policy(double, engine)
        assert "web" in [p["name"] for p in double.filer.policies.records.values()]
        engine.run([{"action": "policy.remove", "policy": "web"}])
        assert "web" not in [p["name"] for p in double.filer.policies.records.values()]
