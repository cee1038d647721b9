"""Audits of a filer: what was done there behind everybody's back is found, named and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.findings.recording import list_findings
from orchestrator.findings.repairing import finding_view
from orchestrator.nas.edges.private import PrivateEngine
from tests.ontap.double import Double
from tests.ontap.test_engine import engine_on

MIB = 2**20

pytestmark = pytest.mark.slow


class Filed:
    """An engine on a filer with a few things, and what audits find."""

    def __init__(self, engine: PrivateEngine, double: Double) -> None:
        self.engine = engine
        self.filer = double.filer

    def audit(self) -> dict[str, int]:
        [job] = self.engine.run([{"action": "backend.audit"}])
        assert job["state"] == "succeeded", job["error"]
        found: dict[str, int] = job["result"]["findings"]
        return found

    def findings(self) -> list[dict[str, Any]]:
        with self.engine._database.read() as connection:
            rows: Any = list_findings(connection, {"state": "open"}, before=None, limit=100)
            return [finding_view(row) for row in rows]

    def repair(self, name: str) -> None:
        [found] = self.findings()
        [request] = [one["job"] for one in found["repairs"] if one["name"] == name]
        [job] = self.engine.run([request])
        assert job["state"] == "succeeded", job["error"]


@pytest.fixture
def filed(double: Double, tmp_path: Path) -> Iterator[Filed]:
    with engine_on(double, tmp_path) as engine:
        size = {"params": {"size_bytes": 64 * MIB, "settings": {"junction_path": "/vm1"}}}
        for request in (
            {"action": "policy.create", "policy": "web", "params": {"rules": ["10.0.0.0/8"]}},
            {"action": "volume.create", "volume": "vm1", "policy": "web", **size},
            {"action": "volume.create", "volume": "vm2", "params": {"size_bytes": 64 * MIB}},
            {"action": "snapshot.create", "volume": "vm1", "snapshot": "s1"},
        ):
            [job] = engine.run([request])
            assert job["state"] == "succeeded", job["error"]
        made = Filed(engine, double)
        vm1 = made.filer.named("vm1")
        made.filer._new_snapshot(vm1, "hourly.2026-11-21_2305", "")
        yield made


def gone(filed: Filed) -> None:
    filed.filer.volumes.pop(filed.filer.named("vm2")["uuid"])


def no_snapshot(filed: Filed) -> None:
    snapshots = filed.filer.named("vm1")["_snapshots"]
    snapshots[:] = [one for one in snapshots if one["name"] != "s1"]


def other_rule(filed: Filed) -> None:
    [policy] = [one for one in filed.filer.policies.records.values() if one["name"] == "web"]
    policy["rules"][0]["clients"] = [{"match": "0.0.0.0/0"}]


def resized(filed: Filed) -> None:
    filed.filer.named("vm2")["size"] = 128 * MIB


DAMAGES: list[tuple[Callable[[Filed], Any], str, str, str]] = [
    (gone, "ghost", "'vm2'", "forget"),
    (resized, "size", "128M", "record"),
    (no_snapshot, "snapshot", "'s1'", "record"),
    (other_rule, "policy", "0.0.0.0/0", "reapply"),
    (lambda filed: filed.filer.plant("stray"), "orphan", "no stamp of ours", "adopt"),
    (
        lambda filed: filed.filer.named("vm1")["nas"].update(path="/elsewhere"),
        "metadata",
        "/elsewhere",
        "apply",
    ),
]


@pytest.mark.parametrize(("does", "kind", "says", "repair"), DAMAGES)
def test_damage_at_a_filer_is_found_and_repaired(
    filed: Filed, does: Callable[[Filed], Any], kind: str, says: str, repair: str
) -> None:
    assert filed.audit() == {}, filed.findings()
    does(filed)
    assert filed.audit() == {kind: 1}, filed.findings()
    assert says in filed.findings()[0]["text"]
    filed.repair(repair)
    assert filed.audit() == {}, filed.findings()
