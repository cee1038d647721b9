"""Export policies of a filer: rules of others, few requests, and nobody let in by the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.errors import BackendUnavailable
from orchestrator.domain.exports import parse_rules
from tests.conformance.calls import Claim, new_volume
from tests.ontap.conftest import driver_on
from tests.ontap.double import Double, Fault
from workers.backends.base.references import PolicyRef
from workers.backends.ontap.driver import OntapDriver


def published(driver: OntapDriver, *written: str) -> PolicyRef:
    policy = PolicyRef(new_volume().id, "web")
    policy = replace(policy, native=driver.build_policy(policy, parse_rules(written), Claim()))
    driver.publish_policy(policy, Claim())
    return policy


def test_rules_of_others_are_told_as_they_are(double: Double, driver: OntapDriver) -> None:
    plain = {"ro_rule": ["any"], "rw_rule": ["any"]}
    double.filer.policies.create(
        {
            "name": "theirs",
            "svm": {"name": "svm1"},
            "rules": [
                {"clients": [{"match": "10.0.0.1"}, {"match": "10.0.0.0/255.0.0.0"}], **plain},
                {"clients": [{"match": "10.0.0.2"}], **plain, "protocols": ["cifs"]},
                {"clients": [{"match": "10.0.0.3"}], "ro_rule": ["krb5"], "rw_rule": ["krb5"]},
                {"clients": [{"match": "10.0.0.4"}], "ro_rule": ["sys"], "rw_rule": ["none"]},
            ],
        }
    )
    (facts,) = (one for one in driver.list_policies() if one.name == "theirs")
    assert facts.id is None
    assert facts.rules[:2] == parse_rules(["10.0.0.1", "10.0.0.0/8"])
    assert "cifs" in facts.rules[2].written
    assert "krb5" in facts.rules[3].written
    for rule, written in zip(facts.rules[2:4], ("10.0.0.2", "10.0.0.3"), strict=True):
        assert rule not in parse_rules([written]) + parse_rules([f"{written}(ro)"])
    assert facts.rules[4:] == parse_rules(["10.0.0.4(ro)"])


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        (["10.0.0.1"], ["10.0.0.1"], 0),
        (["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], 1),
        (["10.0.0.1", "10.0.0.2"], ["10.0.0.2"], 1),
        (["10.0.0.1", "10.0.0.2"], ["10.0.0.1(ro)", "10.0.0.2"], 1),
        ([f"10.0.0.{n}" for n in range(100)], [f"10.0.0.{n}" for n in range(100) if n != 50], 1),
    ],
)
def test_a_small_change_of_rules_is_a_small_change_at_the_filer(
    double: Double, driver: OntapDriver, before: list[str], after: list[str], most: int
) -> None:
    policy = published(driver, *before)
    double.forget()
    driver.set_rules(policy, parse_rules(after), Claim())
    changes = len(double.asked("POST|PATCH|DELETE"))
    assert changes <= most
    assert len(double.requests) - changes <= 2


CLIENTS = [*(f"10.0.0.{n}" for n in range(4)), "10.0.0.0/30", "10.0.0.0/31", "0.0.0.0/0"]
RULES = st.lists(
    st.tuples(st.sampled_from(CLIENTS), st.sampled_from(["rw", "ro"])),
    max_size=6,
    unique_by=lambda rule: rule[0],
).map(lambda rules: [f"{client}({access})" for client, access in rules])


def granted(record: dict[str, Any]) -> dict[str, str]:
    """What each client may do: the first rule that fits it counts."""
    result = {}
    for client in (*(f"10.0.0.{n}" for n in range(5)), "10.9.9.9"):
        for rule in record["rules"]:
            network = ip_network(rule["clients"][0]["match"])
            if ip_address(client) in network:
                result[client] = "rw" if rule["rw_rule"] == ["sys"] else "ro"
                break
    return result


@settings(max_examples=60, deadline=None)
@given(RULES, RULES)
def test_nobody_is_admitted_in_between_whom_neither_rules_admit(
    before: list[str], after: list[str]
) -> None:
    double = SHARED
    driver = driver_on(double)
    policy = published(driver, *before)
    record = double.filer.policies.get(str(policy.native))
    old, seen = granted(record), []
    double.changed = lambda: seen.append(granted(record))
    try:
        facts = driver.set_rules(policy, parse_rules(after), Claim())
    finally:
        double.changed = lambda: None
    assert facts.rules == parse_rules(after)
    new = granted(record)
    for moment in seen:
        for client, access in moment.items():
            assert access in (old.get(client), new.get(client))
    driver.remove_policy(policy, Claim())


SHARED = Double()


@pytest.fixture(scope="module", autouse=True)
def _shared() -> Iterator[None]:
    SHARED.start()
    yield
    SHARED.stop()


def test_a_filer_that_has_gone_is_unavailable(double: Double, driver: OntapDriver) -> None:
    double.faults = [Fault("drop before", times=9)]
    with pytest.raises(BackendUnavailable):
        list(driver.list_policies())
