"""What every driver with export policies promises of them, checked on the real system."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.domain.errors import (
    AlreadyExists,
    InUse,
    InvalidName,
    UnknownPolicy,
    UnknownVolume,
)
from orchestrator.domain.exports import Rule, parse_rules
from orchestrator.domain.installed import DRIVERS
from tests.conformance.calls import Claim, LeaseLost, new_snapshot, new_volume, stopped
from tests.conformance.conftest import Needs
from tests.conformance.systems import AbleDriver, System
from tests.conformance.test_drivers import SIZE, made, present
from workers.backends.base.facts import PolicyFacts
from workers.backends.base.references import PolicyRef, VolumeRef

#: One of each kind of client; a driver is asked for those that it announces.
CLIENTS = {
    "address": ["10.0.0.7", "10.0.0.8(ro)", "2001:db8::7(ro)"],
    "network": ["10.1.0.0/16", "2001:db8:1::/48", "0.0.0.0/0(ro)"],
    "host": ["web1.example.com", "web2(ro)"],
    "pattern": ["*.example.com", "web?(ro)"],
    "domain": [".example.com(ro)"],
    "netgroup": ["@Trusted"],
}


@pytest.fixture(autouse=True)
def _with_policies(needs: Needs) -> None:
    needs("policy")


def new_policy(name: str = "web") -> PolicyRef:
    return PolicyRef(uuid.uuid4().hex, name)


def rules(*written: str) -> tuple[Rule, ...]:
    return parse_rules(written)


def built(driver: AbleDriver, policy: PolicyRef, *written: str) -> PolicyRef:
    """What the inventory then knows of it."""
    native = driver.build_policy(policy, rules(*written), Claim())
    return replace(policy, native=native)


def published(driver: AbleDriver, name: str = "web", *written: str) -> PolicyRef:
    policy = built(driver, new_policy(name), *written)
    driver.publish_policy(policy, Claim())
    return policy


def listed(driver: AbleDriver) -> dict[str, tuple[Rule, ...]]:
    """Published policies, those that the storage has by itself left out."""
    return {one.name: one.rules for one in driver.list_policies() if one.name != "default"}


def there(driver: AbleDriver, policy: PolicyRef) -> PolicyFacts:
    facts = driver.inspect_policy(policy)
    assert facts is not None
    return facts


def told(of: Sequence[Rule]) -> list[tuple[str, str]]:
    return [(rule.client, rule.access) for rule in of]


def test_a_policy_is_published_in_one_step_with_all_its_rules(driver: AbleDriver) -> None:
    policy = built(driver, new_policy(), "10.0.0.7", "10.0.0.0/24(ro)", "2001:db8::/32")
    assert listed(driver) == {}
    assert there(driver, policy).rules == rules("10.0.0.7", "10.0.0.0/24(ro)", "2001:db8::/32")
    facts = driver.publish_policy(policy, Claim())
    assert facts.name == "web"
    assert facts.native == policy.native
    assert facts.id in (None, policy.id)
    assert there(driver, policy) == facts
    wanted = [("10.0.0.7", "rw"), ("10.0.0.0/24", "ro"), ("2001:db8::/32", "rw")]
    assert told(listed(driver)["web"]) == wanted


def test_building_and_publishing_may_be_repeated(driver: AbleDriver) -> None:
    policy = new_policy()
    first = driver.build_policy(policy, rules("10.0.0.7"), Claim())
    assert driver.build_policy(policy, rules("10.0.0.7"), Claim()) == first
    known = replace(policy, native=first)
    for _ in range(2):
        driver.publish_policy(known, Claim())
        assert listed(driver) == {"web": rules("10.0.0.7")}
    driver.discard_policy(known, Claim())
    assert listed(driver) == {"web": rules("10.0.0.7")}


def test_another_policy_of_the_name_is_never_overwritten(driver: AbleDriver) -> None:
    first = published(driver, "web", "10.0.0.7")
    second = built(driver, new_policy("web"), "0.0.0.0/0")
    with pytest.raises(AlreadyExists):
        driver.publish_policy(second, Claim())
    assert listed(driver) == {"web": rules("10.0.0.7")}
    driver.discard_policy(second, Claim())
    assert there(driver, first).rules == rules("10.0.0.7")
    driver.remove_policy(first, Claim())
    assert listed(driver) == {}


def test_discarding_takes_only_what_was_not_published(system: System, driver: AbleDriver) -> None:
    kept, dropped = published(driver, "kept", "10.0.0.7"), built(driver, new_policy("dropped"))
    for policy in (kept, dropped, new_policy("never")):
        driver.discard_policy(policy, Claim())
        driver.discard_policy(policy, Claim())
    assert listed(driver) == {"kept": rules("10.0.0.7")}
    assert driver.inspect_policy(dropped) is None
    assert system.leftovers() == []
    with pytest.raises(UnknownPolicy):
        driver.publish_policy(dropped, Claim())


def test_rules_are_kept_in_their_order_whatever_they_were(driver: AbleDriver) -> None:
    policy = published(driver, "web", "10.0.0.1", "10.0.0.2")
    for written in (
        ["10.0.0.1", "10.0.0.2"],
        ["10.0.0.1", "10.0.0.3", "10.0.0.2"],
        ["10.0.0.2", "10.0.0.3", "10.0.0.1"],
        ["10.0.0.2(ro)", "10.0.0.3", "10.0.0.1"],
        ["10.0.0.3"],
        [f"10.0.1.{number}" for number in range(40)],
        [f"10.0.1.{number}(ro)" for number in reversed(range(0, 40, 3))],
        [],
        ["2001:db8::7", "10.0.0.0/8(ro)"],
    ):
        facts = driver.set_rules(policy, rules(*written), Claim())
        assert facts.rules == rules(*written)
        assert there(driver, policy) == facts
        assert driver.set_rules(policy, rules(*written), Claim()) == facts
    assert facts.name == "web"


def test_every_kind_of_client_that_is_announced_is_told_back(
    system: System, driver: AbleDriver
) -> None:
    for kind in DRIVERS[system.kind].clients:
        policy = published(driver, f"of-{kind}", *CLIENTS[kind])
        assert there(driver, policy).rules == rules(*CLIENTS[kind])


def test_what_is_not_there_is_none_or_not_found(driver: AbleDriver) -> None:
    gone = published(driver, "gone", "10.0.0.7")
    driver.remove_policy(gone, Claim())
    driver.remove_policy(gone, Claim())
    volume = made(driver)
    for policy in (gone, new_policy("never")):
        assert driver.inspect_policy(policy) is None
        driver.remove_policy(policy, Claim())
        with pytest.raises(UnknownPolicy):
            driver.set_rules(policy, rules("10.0.0.7"), Claim())
        with pytest.raises(UnknownPolicy):
            driver.assign_policy(volume, policy, Claim())
    with pytest.raises(UnknownVolume):
        driver.assign_policy(new_volume("nobody"), published(driver), Claim())


def test_a_volume_has_the_policy_it_was_given(driver: AbleDriver) -> None:
    web, db = published(driver, "web"), published(driver, "a/b:c_d-e.f")
    volume = made(driver)
    assert present(driver, volume).policy is None
    for policy in (web, web, db, None, None):
        facts = driver.assign_policy(volume, policy, Claim())
        assert facts.policy == (policy and policy.name)
        assert present(driver, volume).policy == facts.policy


def test_what_is_made_has_its_policy_from_the_beginning(driver: AbleDriver, needs: Needs) -> None:
    web, db = published(driver, "web"), published(driver, "db")
    volume = VolumeRef(new_volume().id, "vm1", policy=web)
    assert driver.create(volume, SIZE, {}, Claim()).policy == "web"
    needs("clone", "snapshot")
    clone = VolumeRef(new_volume().id, "vm2", policy=db)
    assert driver.clone(clone, volume, SIZE, {}, Claim()).policy == "db"
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot, Claim())
    plain = driver.clone(new_volume("vm3"), snapshot, SIZE, {}, Claim())
    assert plain.policy is None
    assert present(driver, volume).policy == "web"


def test_a_policy_in_use_is_not_removed(driver: AbleDriver) -> None:
    policy = published(driver, "web", "10.0.0.7")
    volume = made(driver)
    driver.assign_policy(volume, policy, Claim())
    with pytest.raises(InUse):
        driver.remove_policy(policy, Claim())
    assert listed(driver) == {"web": rules("10.0.0.7")}
    assert present(driver, volume).policy == "web"
    driver.assign_policy(volume, None, Claim())
    driver.remove_policy(policy, Claim())
    assert listed(driver) == {}


def test_every_allowed_name_is_a_policy_of_its_own(driver: AbleDriver) -> None:
    names = ["a", "A", "a/b", "a:b", "a__2fb", "a_/b", "7", ".hidden", "a+b-c_d", "x" * 200]
    policies = {name: published(driver, name, f"10.0.0.{n}") for n, name in enumerate(names)}
    assert listed(driver) == {name: rules(f"10.0.0.{n}") for n, name in enumerate(names)}
    for policy in policies.values():
        driver.remove_policy(policy, Claim())
    assert listed(driver) == {}


@pytest.mark.parametrize("name", ["", "-x", "a b", "vöm", "..", "x" * 256])
def test_names_are_refused_again_by_the_driver(
    system: System, driver: AbleDriver, name: str
) -> None:
    with pytest.raises(InvalidName):
        driver.build_policy(new_policy(name), (), Claim())
    assert (listed(driver), system.leftovers()) == ({}, [])


def test_every_change_can_be_stopped_before_it_is_made(system: System, driver: AbleDriver) -> None:
    policy, volume = published(driver, "web", "10.0.0.7"), made(driver)
    new = new_policy("new")
    for change in (
        lambda call: driver.build_policy(new, rules("10.0.0.8"), call),
        lambda call: driver.set_rules(policy, rules("10.0.0.8", "10.0.0.9"), call),
        lambda call: driver.assign_policy(volume, policy, call),
        lambda call: driver.remove_policy(policy, call),
    ):
        with pytest.raises(LeaseLost):
            change(stopped(1))
        assert listed(driver) == {"web": rules("10.0.0.7")}
        assert present(driver, volume).policy is None
        assert system.leftovers() == []
