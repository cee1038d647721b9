"""A job that is canceled while it waits for another attempt begins nothing anew.

The storage is asked what has become of it: nothing, all of it, or a part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from orchestrator.actions.registry import ACTIONS
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.upkeep import queue_due
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.database import Database
from tests.conformance.systems import release_loops
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from tests.engine.test_audits import Audited
from tests.engine.test_execution import _claim, _driver, _faults
from tests.engine.test_extstorage import Provider
from workers.actions.registry import HANDLERS
from workers.backends.file import loops

pytestmark = pytest.mark.either_database

#: Actions that are undone where they were canceled, because they make something new.
MAKE = {name for name, action in ACTIONS.items() if action.creates} | {"volume.export"}
#: Those that write nothing into their journals: they read, or change the inventory alone.
TOUCH_NOTHING = {
    *("volume.forget", "volume.reconcile", "volume.break_lock", "volume.verify"),
    *("volume.client_locks", "policy.verify"),
    *("backend.refresh", "backend.verify", "backend.audit"),
    *("backend.recount", "backend.diagnose", "backend.drain", "backend.resume"),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    audit = settings.audit.model_copy(update={"grace_hours": 0.0})
    return settings.model_copy(update={"audit": audit})


@pytest.fixture
def audited(engine: Engine) -> Audited:
    made = Audited(engine)
    made.beat()
    return made


def test_each_action_that_changes_what_is_there_tells_what_has_become_of_it() -> None:
    told = {name for name, handler in HANDLERS.items() if handler.outcome is not None}
    assert told == HANDLERS.keys() - MAKE - TOUCH_NOTHING


@dataclass(frozen=True)
class Case:
    """An action, what there must be before it, and which of the driver's calls does it."""

    request: dict[str, Any]
    operation: str
    before: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return str(self.request["action"]).replace(".", "_")


def of_policy(action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "backend": "ram", "policy": "web", **more}


SNAPSHOTS = tuple(act("snapshot.create", "a", snapshot=name) for name in ("s1", "s2"))
POLICY = of_policy("policy.create", params={"rules": ["10.0.0.0/8"]})
HERE = {"host": "here"}
CASES = [
    Case(grow("a", "2M"), "grow"),
    Case(act("volume.update", "a", params={"metadata": {"k": "v"}}), "set_metadata"),
    Case(
        act("volume.update", "a", params={"settings": {"snapshot_reserve_percent": 10}}),
        "configure",
    ),
    Case(act("volume.set_info", "a", params={"info": "text"}), "set_metadata"),
    Case(act("volume.rename", "a", params={"new_name": "b"}), "rename"),
    Case(act("volume.rollback", "a", snapshot="s2"), "rollback", SNAPSHOTS),
    Case(act("volume.restrict", "a"), "restrict"),
    Case(act("volume.unrestrict", "a"), "unrestrict", (act("volume.restrict", "a"),)),
    Case(act("volume.remove", "a"), "remove"),
    Case(act("volume.purge", "a"), "remove", (act("volume.restrict", "a"),)),
    Case(act("volume.attach", "a", **HERE), "attach"),
    Case(act("volume.detach", "a", **HERE), "detach", (act("volume.attach", "a", **HERE),)),
    Case(act("snapshot.delete", "a", snapshot="s1"), "delete_snapshot", SNAPSHOTS),
    Case(of_policy("policy.remove"), "remove_policy", (POLICY,)),
    Case(of_policy("policy.add_rule", params={"rule": "10.1.0.0/16"}), "set_rules", (POLICY,)),
    Case(of_policy("policy.remove_rule", params={"rule": "10.0.0.0/8"}), "set_rules", (POLICY,)),
    Case(of_policy("policy.set_rules", params={"rules": ["10.2.0.1"]}), "set_rules", (POLICY,)),
    Case(act("policy.assign", "a", policy="web"), "assign_policy", (POLICY,)),
]
#: Those tried each time; the others with the slow tests.
OFTEN = {"grow", "rename", "rollback", "remove", "attach", "delete_snapshot", "assign_policy"}
EACH = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case.operation in OFTEN else pytest.mark.slow)
        for case in CASES
    ],
    ids=[case.name for case in CASES],
)


def canceled_in_back_off(audited: Audited, case: Case, fault: str) -> Any:
    """Begin it, let its first attempt fail, and cancel it; the job when nothing is left to do."""
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(case.request).job_ids
    faults.set(operation=case.operation, kind=fault, times=1)  # type: ignore[arg-type]
    engine.work()
    assert engine.job(job_id)["state"] == "waiting", engine.job(job_id)
    again = case.operation if case.operation != "set_rules" else "build_policy"
    # Whoever does it again ends otherwise.
    faults.set(operation=again, kind="fail", code="internal_error")
    engine.cancel(job_id)
    engine.work()
    faults.clear()
    return engine.job(job_id)


@EACH
def test_canceled_before_anything_happened_nothing_does(audited: Audited, case: Case) -> None:
    audited.do(create("a"), *case.before)
    before = audited.engine.volumes()
    job = canceled_in_back_off(audited, case, "unavailable")
    assert (job["state"], job["error"]["code"]) == ("canceled", "canceled")
    after = audited.engine.volumes()
    assert {**after["a"], "jobs": [], "changed_at": None} == {
        **before["a"],
        "jobs": [],
        "changed_at": None,
    }
    assert audited.audit("ram")["findings"] == {}


@EACH
def test_canceled_after_all_of_it_happened_it_succeeds(audited: Audited, case: Case) -> None:
    audited.do(create("a"), *case.before)
    job = canceled_in_back_off(audited, case, "lost reply")
    assert job["state"] == "succeeded", job["error"]
    assert audited.audit("ram")["findings"] == {}
    volume = audited.engine.volumes().get("a", {})
    match job["action"]:
        case "volume.grow":
            assert volume["size_bytes"] == 2 * 2**20
        case "volume.restrict":
            assert volume["state"] == "restricted"
        case "volume.unrestrict":
            assert volume["state"] == "available"
        case "volume.remove" | "volume.purge" | "volume.rename":
            assert not volume
        case "volume.attach":
            assert [one["host"] for one in volume["attachments"]] == ["here"]
        case "volume.detach":
            assert volume["attachments"] == []
        case "policy.assign":
            assert volume["policy"] == "web"


@EACH
def test_canceled_when_its_worker_has_died_nothing_happens(audited: Audited, case: Case) -> None:
    audited.do(create("a"), *case.before)
    engine = audited.engine
    [job_id] = engine.submit(case.request).job_ids
    _faults(engine).set(operation=case.operation, kind="unavailable", times=1)
    engine.work()
    engine.time_passes()
    queue = "host.here" if "host" in case.request else "backend.ram"
    for name in (queue, "backend.ram"):
        _claim(engine, queue=name, worker="dead")
    assert engine.job(job_id)["state"] == "running"
    engine.cancel(job_id)
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"
    assert audited.audit("ram")["findings"] == {}


# -- parts --------------------------------------------------------------------------------


def test_an_update_of_which_the_first_half_happened_tells_that(audited: Audited) -> None:
    audited.do(create("a"))
    params = {"metadata": {"k": "v"}, "settings": {"snapshot_reserve_percent": 10}}
    case = Case(act("volume.update", "a", params=params), "configure")
    job = canceled_in_back_off(audited, case, "unavailable")
    assert (job["state"], job["error"]["code"]) == ("failed", "canceled")
    assert "the metadata is as asked for" in job["error"]["detail"]
    volume = audited.engine.volumes()["a"]
    assert (volume["metadata"], volume["state"]) == ({"k": "v"}, "available")
    assert audited.audit("ram")["findings"] == {}


def test_a_rollback_that_left_newer_snapshots_names_them(audited: Audited) -> None:
    audited.do(create("a"), *SNAPSHOTS)
    params = {"discard_newer": True}
    case = Case(act("volume.rollback", "a", snapshot="s1", params=params), "delete_snapshot")
    job = canceled_in_back_off(audited, case, "unavailable")
    assert (job["state"], job["error"]["snapshots"]) == ("failed", ["s2"])
    assert audited.audit("ram")["findings"] == {}


def test_a_rollback_whose_newer_snapshots_are_gone_succeeds(audited: Audited) -> None:
    audited.do(create("a"), *SNAPSHOTS)
    params = {"discard_newer": True}
    case = Case(act("volume.rollback", "a", snapshot="s1", params=params), "delete_snapshot")
    job = canceled_in_back_off(audited, case, "lost reply")
    assert job["state"] == "succeeded"
    assert audited.audit("ram")["findings"] == {}


def test_a_wipe_tells_how_far_it_came(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.actions.volume.wipe._LEAST_PART", 2**20)
    monkeypatch.setattr("workers.actions.volume.wipe._WIPED_IN_PARTS", 4)
    audited.do(create("a", "4M"))
    faults = _faults(audited.engine)
    [job_id] = audited.engine.submit(act("volume.wipe", "a")).job_ids
    # The third of four parts.
    for _ in range(2):
        faults.set(operation="wipe", kind="slow", seconds=0.0, times=1)
    faults.set(operation="wipe", kind="unavailable", times=1)
    audited.engine.work()
    audited.engine.cancel(job_id)
    faults.set(operation="wipe", kind="fail")
    audited.engine.work()
    job = audited.engine.job(job_id)
    assert (job["state"], job["error"]["wiped_bytes"]) == ("canceled", 2 * 2**20)


def test_a_removal_that_may_have_wiped_says_so(audited: Audited) -> None:
    audited.do(create("a"))
    case = Case(act("volume.remove", "a", params={"wipe": True}), "remove")
    job = canceled_in_back_off(audited, case, "unavailable")
    assert (job["state"], job["error"]["wipe_begun"]) == ("failed", True)
    assert audited.engine.volumes()["a"]["state"] == "available"


# -- what has no record, or gets it ---------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "ending"), [("unavailable", "canceled"), ("lost reply", "succeeded")]
)
def test_an_adoption(audited: Audited, fault: str, ending: str) -> None:
    audited.storage_sql("INSERT INTO volumes (name, size) VALUES ('old', 4096)")
    case = Case(act("volume.adopt", "old"), "inspect" if fault == "unavailable" else "adopt")
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(case.request).job_ids
    faults.set(operation="adopt", kind=fault, times=1)  # type: ignore[arg-type]
    engine.work()
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["state"] == ending
    assert ("old" in engine.volumes()) is (ending == "succeeded")


@pytest.mark.parametrize(
    ("fault", "ending"), [("unavailable", "canceled"), ("lost reply", "succeeded")]
)
def test_a_recreation(audited: Audited, fault: str, ending: str) -> None:
    audited.do(create("a"))
    audited.storage_sql("DELETE FROM volumes")
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(act("volume.recreate", "a")).job_ids
    engine.database.transact(lambda c: approve(c, job_id, ADMIN, "tests"))
    engine.database.transact(queue_due)
    faults.set(operation="create", kind=fault, times=1)  # type: ignore[arg-type]
    engine.work()
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["state"] == ending
    assert len(list(_driver(engine).list_volumes())) == (ending == "succeeded")


@pytest.mark.parametrize(
    ("fault", "ending"), [("unavailable", "failed"), ("lost reply", "succeeded")]
)
def test_a_removal_of_an_orphan(audited: Audited, fault: str, ending: str) -> None:
    audited.do(create("a"))
    audited.sql("UPDATE volumes SET state = 'removed', removed_at = changed_at")
    audited.audit("ram")
    [found] = [one for one in audited.findings() if one["kind"] == "orphan"]
    engine, faults = audited.engine, _faults(audited.engine)
    params = {"finding": found["id"]}
    [job_id] = engine.submit(act("volume.remove_orphan", "a", params=params)).job_ids
    faults.set(operation="remove", kind=fault, times=1)  # type: ignore[arg-type]
    engine.work()
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["state"] == ending
    assert len(list(_driver(engine).list_volumes())) == (ending == "failed")


class _Leaving:
    """A driver whose worker is told to stop while it looks what there is."""

    def __init__(self, driver: Any, stopping: threading.Event) -> None:
        self._driver, self._stopping = driver, stopping

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._driver)

    def inspect(self, volume: Any) -> Any:
        self._stopping.set()
        return self._driver.inspect(volume)


def test_a_worker_that_leaves_while_a_cancel_is_judged_leaves_that_to_another(
    audited: Audited,
) -> None:
    audited.storage_sql("INSERT INTO volumes (name, size) VALUES ('old', 4096)")
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(act("volume.adopt", "old")).job_ids
    faults.set(operation="adopt", kind="lost reply", times=1)
    engine.work()
    engine.cancel(job_id)
    worker = engine.worker
    drivers, stopping = worker.serving.drivers, worker.leases.stopping
    [ram] = [id_ for id_, driver in drivers.items() if driver.backend == "ram"]
    kept, drivers[ram] = drivers[ram], cast(Any, _Leaving(drivers[ram], stopping))
    engine.work()
    drivers[ram] = kept
    job = engine.job(job_id)
    assert (job["state"], job["cancel_requested"]) == ("queued", True)
    assert [one["outcome"] for one in job["attempts"]] == ["retried", "handed_back"]
    assert job["attempt"] == 1
    engine.another_worker().work()
    # It bears our stamp: all of it had happened.
    assert engine.job(job_id)["state"] == "succeeded"
    assert "old" in engine.volumes()


class _Meanwhile:
    """A driver that is asked for its marker just when somebody does something else."""

    def __init__(self, driver: Any, happens: Callable[[], None]) -> None:
        self._driver, self._happens = driver, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._driver)

    def read_identity(self) -> str | None:
        self._happens()
        found: str | None = self._driver.read_identity()
        return found


@pytest.mark.parametrize(
    ("fault", "ending"), [("unavailable", "canceled"), ("lost reply", "succeeded")]
)
@EACH
def test_a_cancel_that_comes_before_another_attempt_has_begun(
    audited: Audited, case: Case, fault: str, ending: str
) -> None:
    audited.do(create("a"), *case.before)
    engine, worker = audited.engine, audited.engine.worker
    [job_id] = engine.submit(case.request).job_ids
    _faults(engine).set(operation=case.operation, kind=fault, times=1)  # type: ignore[arg-type]
    engine.work()
    engine.time_passes()

    def cancel() -> None:
        if not engine.job(job_id)["cancel_requested"]:
            engine.cancel(job_id)
            worker.leases._beat()

    drivers = worker.serving.drivers
    [ram] = [id_ for id_, driver in drivers.items() if driver.backend == "ram"]
    drivers[ram] = cast(Any, _Meanwhile(drivers[ram], cancel))
    engine.work()
    job = engine.job(job_id)
    assert job["cancel_requested"]
    assert job["state"] == ending, job["error"]


# -- what cannot be seen ----------------------------------------------------------------------


def test_what_cannot_be_seen_is_told_and_looked_at_again(audited: Audited) -> None:
    audited.do(create("a"))
    case = Case(grow("a", "2M"), "grow")
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(case.request).job_ids
    faults.set(operation="grow", kind="unavailable", times=1)
    engine.work()
    engine.cancel(job_id)
    faults.set(operation="inspect", kind="fail", code="access_denied")
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "canceled")
    assert "could not be seen" in job["error"]["detail"]
    assert engine.volumes()["a"]["state"] == "error"
    with engine.database.read() as connection:
        due = connection.execute(
            text("SELECT count(*) FROM volumes WHERE look_again_at > '2000-01-01'")
        )
        assert due.scalar() == 1


def test_a_cancel_while_the_storage_is_away_waits_for_it(audited: Audited) -> None:
    audited.do(create("a"))
    engine, faults = audited.engine, _faults(audited.engine)
    [job_id] = engine.submit(grow("a", "2M")).job_ids
    faults.set(operation="grow", kind="unavailable", times=1)
    engine.work()
    faults.set(operation="read_identity", kind="fail", code="outage")
    engine.cancel(job_id)
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["waiting_on"]["kind"]) == ("waiting", "backend")
    faults.clear()
    engine.worker.serving.look_at_unusable()
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"


# -- a provider that hangs --------------------------------------------------------------------


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    release_loops(made.images)


@pytest.fixture
def on_provider(settings: Settings, provider: Provider) -> Iterator[Audited]:
    """An engine with a provider as a backend, whose scripts may take two seconds each."""
    scripts = ("create", "remove", "grow", "attach", "detach", "setinfo", "open", "close")
    given = {**provider.settings().model_dump(), "timeouts": dict.fromkeys(scripts, 2)}
    backends = {**settings.backends, "ext": BackendSettings.model_validate(given)}
    engine = Engine(
        settings.model_copy(update={"backends": backends}), Database(settings.database_url)
    )
    made = Audited(engine)
    made.beat()
    yield made
    engine.close()


@dataclass(frozen=True)
class Hang:
    """An action, the script that hangs, and how it ends if that had its effect before."""

    request: dict[str, Any]
    script: str
    before: tuple[dict[str, Any], ...] = ()
    #: Without: `canceled`. What a provider cannot tell is not guessed.
    without: str = "canceled"
    with_effect: str = "succeeded"


ATTACH = act("volume.attach", "a", "ext", **HERE)
OPEN = act("volume.open", "a", "ext", params={"exclusive": True}, **HERE)
HANGS = [
    Hang(grow("a", "16M", "ext"), "grow"),
    Hang(
        act("volume.set_info", "a", "ext", params={"info": "x"}), "setinfo", (), "failed", "failed"
    ),
    Hang(ATTACH, "attach", (), "canceled", "canceled"),
    Hang(OPEN, "open", (ATTACH,), "canceled", "canceled"),
    Hang(act("volume.close", "a", "ext", **HERE), "close", (ATTACH, OPEN), "succeeded"),
]


@pytest.mark.skipif(not loops.available(), reason="loop devices need root")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("effect", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize(
    "hang",
    # Each takes the time that the script has.
    [
        pytest.param(hang, marks=[] if hang.script in ("grow", "attach") else pytest.mark.slow)
        for hang in HANGS
    ],
    ids=[hang.script for hang in HANGS],
)
def test_a_script_that_hangs(
    on_provider: Audited, provider: Provider, hang: Hang, effect: bool
) -> None:
    on_provider.do(create("a", "8M", "ext"), *hang.before)
    script = provider.directory / hang.script
    whole = script.read_text()
    script.write_text(f"#!/bin/sh\n{whole if effect else ''}\nsleep 60\n")
    engine = on_provider.engine
    [job_id] = engine.submit(hang.request).job_ids
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "timed_out"
    ran = provider.room / "ran"
    script.write_text(f"#!/bin/sh\ntouch {ran}\n{whole.removeprefix('#!/bin/sh')}")
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["state"] == (hang.with_effect if effect else hang.without)
    if hang.script in ("grow", "setinfo", "open"):
        assert not ran.exists()
    assert provider.processes() == []
    volume = engine.volumes("ext")["a"]
    assert volume["state"] == "available"
    size = 2 * 8 if effect and hang.script == "grow" else 8
    assert volume["size_bytes"] == size * 2**20


@pytest.mark.skipif(not loops.available(), reason="loop devices need root")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("effect", [False, True], ids=["before it", "after it"])
def test_a_removal_that_hangs(on_provider: Audited, provider: Provider, effect: bool) -> None:
    on_provider.do(create("a", "8M", "ext"))
    script = provider.directory / "remove"
    whole = script.read_text()
    script.write_text(f"#!/bin/sh\n{whole if effect else ''}\nsleep 60\n")
    engine = on_provider.engine
    [job_id] = engine.submit(act("volume.remove", "a", "ext")).job_ids
    engine.work()
    script.write_text(whole)
    engine.cancel(job_id)
    engine.work()
    # That an image cannot be attached does not prove that it is gone: the record stays.
    assert engine.job(job_id)["state"] == ("failed" if effect else "canceled")
    assert engine.volumes("ext")["a"]["state"] == ("error" if effect else "available")
    assert len(list(provider.images.iterdir())) == (not effect)
