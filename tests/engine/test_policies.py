"""Export policies and settings of volumes: checked at submission, applied in order, undone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    DependencyCycle,
    InUse,
    InvalidInput,
    Locked,
    Problem,
    UnknownPolicy,
    Unsupported,
    WrongState,
)
from orchestrator.resources.policy.views import list_policies
from orchestrator.resources.volume import locks
from orchestrator.resources.volume.views import volume_at
from orchestrator.store.tables import policies
from tests.engine.conftest import ADMIN, Engine, act, create
from workers.backends.base.references import PolicyRef
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.either_database

NETWORK, HOST = "10.0.0.0/24", "2001:db8::7(ro)"


def on_policy(verb: str, policy: str, backend: str = "ram", **more: Any) -> dict[str, Any]:
    """A request for an action on an export policy."""
    return {"action": f"policy.{verb}", "backend": backend, "policy": policy, **more}


def with_policy(volume: str, policy: str | None) -> dict[str, Any]:
    """A request to give a volume a policy."""
    return act("policy.assign", volume, **({"policy": policy} if policy else {}))


def made(policy: str, *rules: str) -> dict[str, Any]:
    return on_policy("create", policy, params={"rules": list(rules)})


def settings(volume: str, **wanted: Any) -> dict[str, Any]:
    return act("volume.update", volume, params={"settings": wanted})


def with_settings(volume: str, backend: str = "ram", **wanted: Any) -> dict[str, Any]:
    return create(volume, backend=backend, params={"size_bytes": "1M", "settings": wanted})


def done(engine: Engine, *requests: dict[str, Any]) -> list[str]:
    """Submit these, let them be done, and tell how they ended."""
    accepted = engine.submit(*requests)
    for _ in accepted.job_ids:
        engine.work()
    return engine.states(accepted.job_ids)


def recorded(engine: Engine, backend: str = "ram") -> dict[str, list[str]]:
    with engine.database.read() as connection:
        found = list_policies(connection, backend, after=None, limit=100)
    return {policy["name"]: policy["rules"] for policy in found}


def on_storage(engine: Engine) -> dict[str, list[str]]:
    driver = next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))
    return {facts.name: [r.written for r in facts.rules] for facts in driver.list_policies()}


def faults(engine: Engine) -> Faults:
    driver = next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))
    return Faults("ram", driver.installation)


def test_rules_are_kept_in_order_and_as_written(engine: Engine) -> None:
    assert done(engine, made("web/1", "10.0.0.9/24", HOST)) == ["succeeded"]
    assert recorded(engine) == on_storage(engine) == {"web/1": ["10.0.0.9/24", HOST]}


def test_a_rule_is_added_and_removed_once_however_it_is_written(engine: Engine) -> None:
    assert (
        done(
            engine,
            made("web", "10.0.0.9/24"),
            on_policy("add_rule", "web", params={"rule": NETWORK}),
            on_policy("add_rule", "web", params={"rule": "www.example.com"}),
            on_policy("add_rule", "web", params={"rule": HOST}),
            on_policy("remove_rule", "web", params={"rule": "WWW.example.com(rw)"}),
            on_policy("remove_rule", "web", params={"rule": "192.0.2.1"}),
        )
        == ["succeeded"] * 6
    )
    assert recorded(engine) == on_storage(engine) == {"web": ["10.0.0.9/24", HOST]}


def test_a_client_has_one_access(engine: Engine) -> None:
    done(engine, made("web", NETWORK))
    with pytest.raises(Conflict, match="remove it first"):
        engine.submit(on_policy("add_rule", "web", params={"rule": f"{NETWORK}(ro)"}))
    with pytest.raises(InvalidInput, match="different access"):
        engine.submit(made("other", NETWORK, "10.0.0.3/24(ro)"))


def test_no_rules_are_not_no_policy(engine: Engine) -> None:
    assert (
        done(engine, made("nobody"), create("vm1", policy="nobody"), create("vm2"))
        == ["succeeded"] * 3
    )
    assert recorded(engine) == {"nobody": []}
    assert [engine.volumes()[name]["policy"] for name in ("vm1", "vm2")] == ["nobody", None]


def test_a_policy_in_use_is_not_removed(engine: Engine) -> None:
    done(engine, made("web"), create("vm1", policy="web"))
    with pytest.raises(InUse, match="vm1"):
        engine.submit(on_policy("remove", "web"))
    assert done(engine, with_policy("vm1", None), on_policy("remove", "web")) == ["succeeded"] * 2
    assert recorded(engine) == on_storage(engine) == {}
    assert done(engine, made("web")) == ["succeeded"], "its name is free again"


def test_a_policy_that_will_be_in_use_is_not_removed(engine: Engine) -> None:
    done(engine, made("web"))
    accepted = engine.submit(create("vm1", policy="web"))
    with pytest.raises(InUse, match=f"job {accepted.job_ids[0]}"):
        engine.submit(on_policy("remove", "web"))


def test_the_storage_refuses_what_the_inventory_did_not_know(engine: Engine) -> None:
    done(engine, made("web"), create("vm1"))
    removal = engine.submit(on_policy("remove", "web"))
    driver = next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))
    policy = next(iter(driver.list_policies()))
    volume = next(iter(driver.list_volumes()))
    with driver._store.change() as db:
        db.execute("INSERT INTO exports (volume, policy) VALUES (?, ?)", (volume.id, policy.native))
    engine.work()
    job = engine.job(removal.job_ids[0])
    assert (job["state"], job["error"]["code"]) == ("failed", "in_use")
    assert recorded(engine) == {"web": []}


def test_a_policy_is_checked_with_what_comes_before(engine: Engine) -> None:
    with pytest.raises(UnknownPolicy):
        engine.submit(create("vm1", policy="web"))
    engine.submit(made("web"))
    with pytest.raises(AlreadyExists):
        engine.submit(made("web"))
    accepted = engine.submit(create("vm1", policy="web"))
    assert engine.job(accepted.job_ids[0])["state"] == "waiting", "behind the policy"
    engine.work()
    engine.work()
    assert engine.volumes()["vm1"]["policy"] == "web"


def test_a_driver_without_policies_refuses_them(engine: Engine) -> None:
    with pytest.raises(Unsupported):
        engine.submit(on_policy("create", "web", backend="fast", params={"rules": []}))
    with pytest.raises(Unsupported):
        engine.submit(create("vm1", backend="fast", policy="web"))


def test_a_policy_that_was_not_published_is_taken_away(engine: Engine) -> None:
    faults(engine).set(kind="fail", operation="publish_policy", code="backend_error")
    assert done(engine, made("web", NETWORK)) == ["failed"]
    assert recorded(engine) == on_storage(engine) == {}
    faults(engine).clear()
    assert done(engine, made("web", NETWORK)) == ["succeeded"]


@pytest.mark.parametrize("operation", ["build_policy", "publish_policy", "set_rules"])
def test_a_lost_reply_makes_no_second_policy(engine: Engine, operation: str) -> None:
    faults(engine).set(kind="lost reply", operation=operation, times=1)
    accepted = engine.submit(
        made("web", NETWORK), on_policy("set_rules", "web", params={"rules": [HOST]})
    )
    for _ in range(3):
        engine.work()
        engine.time_passes()
    assert engine.states(accepted.job_ids) == ["succeeded"] * 2
    assert recorded(engine) == on_storage(engine) == {"web": [HOST]}


def test_a_policy_whose_making_failed_is_gone_though_it_was_published(engine: Engine) -> None:
    faults(engine).set(kind="lost reply", operation="publish_policy")
    accepted = engine.submit({**made("web", NETWORK), "max_attempts": 2})
    for _ in range(2):
        engine.work()
        engine.time_passes()
    assert engine.states(accepted.job_ids) == ["failed"]
    assert recorded(engine) == on_storage(engine) == {}


def test_what_a_failed_change_left_is_recorded(engine: Engine) -> None:
    done(engine, made("web", NETWORK))
    faults(engine).set(kind="fail", operation="set_rules", when="after", times=1)
    assert done(engine, on_policy("set_rules", "web", params={"rules": [HOST]})) == ["failed"]
    assert recorded(engine) == on_storage(engine) == {"web": [HOST]}


def test_reapplying_mends_what_was_changed_by_hand(engine: Engine) -> None:
    done(engine, made("web", NETWORK))
    driver = next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))
    with driver._store.change() as db:
        db.execute("UPDATE policies SET rules = '[]'")
    assert on_storage(engine) == {"web": []}
    assert done(engine, on_policy("reapply", "web")) == ["succeeded"]
    assert on_storage(engine) == {"web": [NETWORK]}


def test_a_lock_of_another_host_forbids_another_policy(engine: Engine) -> None:
    done(engine, made("web"), create("vm1"))
    engine.database.transact(
        lambda connection: locks.take(
            connection, "ram", "vm1", "node1", ADMIN, reason=None, seconds=None
        )
    )
    with pytest.raises(Locked):
        engine.submit(with_policy("vm1", "web"))
    assert done(engine, with_policy("vm1", "web") | {"host": "node1"}) == ["succeeded"]


def test_settings_are_kept_and_changed(engine: Engine) -> None:
    done(engine, with_settings("vm1", compression=True, junction_path="/web"))
    done(engine, settings("vm1", snapshot_reserve_percent=20))
    found = engine.volumes()["vm1"]
    assert found["settings"] == {
        "compression": True,
        "junction_path": "/web",
        "snapshot_reserve_percent": 20,
    }
    assert found["address"] == "memory"


def test_a_maximum_may_be_more_than_any_volume_can_have(engine: Engine) -> None:
    done(engine, with_settings("vm1", autosize_enabled=True, autosize_max_bytes=2**100))
    assert engine.volumes()["vm1"]["settings"]["autosize_max_bytes"] == 2**100


@pytest.mark.parametrize("backend", ["ram", "fast"])
def test_a_junction_path_is_one_volume_s(engine: Engine, backend: str) -> None:
    waiting = engine.submit(with_settings("vm1", backend, junction_path="/a"))
    with pytest.raises(AlreadyExists, match="/a"):
        engine.submit(with_settings("vm2", backend, junction_path="/a"))
    engine.work()
    assert engine.states(waiting.job_ids) == ["succeeded"]
    with pytest.raises(AlreadyExists, match="/a"):
        engine.submit(with_settings("vm2", backend, junction_path="/a"))
    # The path is free once the volume has another one, in the same batch, too.
    assert (
        done(
            engine,
            {**settings("vm1", junction_path="/b"), "backend": backend, "ref": "away"},
            {**with_settings("vm2", backend, junction_path="/a"), "depends_on": ["away"]},
        )
        == ["succeeded"] * 2
    )
    with engine.database.read() as connection:
        assert volume_at(connection, backend, "/a")["name"] == "vm2"
        assert volume_at(connection, backend, "/b")["name"] == "vm1"


def test_a_junction_path_that_a_later_job_frees_is_still_taken_now(engine: Engine) -> None:
    done(engine, with_settings("vm1", junction_path="/a"))
    soon = datetime.now(UTC) + timedelta(hours=1)
    later = {
        **settings("vm1", junction_path="/b"),
        "run_at": soon.isoformat(),
    }
    # Checked against what the first leaves, which is then taken back: it has not begun.
    last = {**settings("vm1", compression=True), "run_at": (soon + timedelta(hours=1)).isoformat()}
    with pytest.raises(AlreadyExists, match="/a"):
        engine.submit(later, last, with_settings("vm2", junction_path="/a"))


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"autosize_enabled": True}, InvalidInput),
        ({"snapshot_reserve_percent": 91}, InvalidInput),
        ({"junction_path": "web"}, InvalidInput),
        ({"colour": "red"}, InvalidInput),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    engine: Engine, wanted: dict[str, Any], problem: type[Problem]
) -> None:
    with pytest.raises(problem):
        engine.submit(with_settings("vm1", **wanted))


def test_a_setting_that_the_driver_lacks_is_refused(engine: Engine) -> None:
    with pytest.raises(Unsupported, match="compression"):
        engine.submit(with_settings("vm1", "fast", compression=True))


def test_a_policy_of_another_id_is_not_ours(engine: Engine) -> None:
    done(engine, made("web", NETWORK))
    driver = next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))
    assert driver.inspect_policy(PolicyRef("0" * 32, "web")) is None


def driver_of(engine: Engine) -> MemoryDriver:
    return next(d for d in engine.worker.serving.drivers.values() if isinstance(d, MemoryDriver))


def spoil(engine: Engine, table: str, rules: str) -> None:
    """Write rules that nobody can read, into the inventory or onto the storage."""
    if table == "storage":
        with driver_of(engine)._store.change() as db:
            db.execute("UPDATE policies SET rules = ?", (rules,))
        return
    with engine.database.write() as connection:
        connection.execute(update(policies).values(rules=[rules]))


def test_what_nobody_can_read_keeps_no_other_job_from_running(engine: Engine) -> None:
    done(engine, made("web", NETWORK))
    waiting = engine.submit(on_policy("add_rule", "web", params={"rule": HOST}))
    spoil(engine, "inventory", "10.9.0.0/16 [krb5]")
    other = engine.submit(create("vm1"))
    engine.work()
    assert engine.states(other.job_ids) == ["succeeded"]
    job = engine.job(waiting.job_ids[0])
    assert (job["state"], job["error"]["code"]) == ("failed", "wrong_state")
    with pytest.raises(WrongState, match="set_rules"):
        engine.submit(on_policy("reapply", "web"))
    # What was there is not known: it is named anew.
    assert done(engine, on_policy("set_rules", "web", params={"rules": [NETWORK]})) == ["succeeded"]
    assert recorded(engine) == on_storage(engine) == {"web": [NETWORK]}


@pytest.mark.parametrize("jobs", ["rule", "volume"])
def test_a_circle_through_a_policy_is_refused(engine: Engine, jobs: str) -> None:
    done(engine, made("web"), create("vm1", policy="web"))
    circles = {
        "rule": (
            on_policy("add_rule", "web", params={"rule": HOST}, depends_on=["x"]),
            create("vm2", policy="web", ref="x"),
        ),
        "volume": (
            {**with_policy("vm1", None), "depends_on": ["x"]},
            on_policy("remove", "web", ref="x"),
        ),
    }
    with pytest.raises(DependencyCycle):
        engine.submit(*circles[jobs])


@pytest.mark.parametrize("freed", ["moved", "removed"])
def test_a_path_that_is_freed_before_is_taken_after_that(engine: Engine, freed: str) -> None:
    done(engine, with_settings("vm1", junction_path="/a"))
    freeing = (
        settings("vm1", junction_path="/b") if freed == "moved" else act("volume.remove", "vm1")
    )
    assert done(engine, freeing, with_settings("vm2", junction_path="/a")) == ["succeeded"] * 2
    with engine.database.read() as connection:
        assert volume_at(connection, "ram", "/a")["name"] == "vm2"


def test_a_path_that_unfinished_jobs_free_is_taken_after_them(engine: Engine) -> None:
    requests = (
        with_settings("vm1", junction_path="/a"),
        settings("vm1", junction_path="/b"),
        with_settings("vm2", junction_path="/a"),
    )
    accepted = [engine.submit(request).job_ids[0] for request in requests]
    for _ in accepted:
        engine.work()
    assert engine.states(accepted) == ["succeeded"] * 3


def test_a_path_given_behind_our_back_is_not_recorded(engine: Engine) -> None:
    done(engine, with_settings("vm1", junction_path="/a"), with_settings("vm2", compression=True))
    with driver_of(engine)._store.change() as db:
        db.execute("UPDATE exports SET junction = NULL, settings = '{}' WHERE junction = '/a'")
        db.execute(
            "UPDATE exports SET junction = '/a', settings = '{\"junction_path\": \"/a\"}' "
            "WHERE volume = ?",
            (engine.volumes()["vm2"]["id"],),
        )
    assert done(engine, settings("vm2", compression=False)) == ["succeeded"]
    with engine.database.read() as connection:
        assert volume_at(connection, "ram", "/a")["name"] == "vm1", "as recorded"
    accepted = engine.submit(act("volume.verify", "vm1"))
    engine.work()
    assert engine.job(accepted.job_ids[0])["result"]["agrees"] is False
