"""Audits, repairs and approvals, as people and scripts ask for them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.acceptance.test_command_line import Shell

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(product: Any) -> Shell:
    return Shell(product)


@pytest.fixture
def name() -> str:
    """A name that nobody else uses: the product is shared."""
    return f"v{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stray(product: Any, shell: Shell, name: str) -> str:
    """A file that somebody has put among the images of backend ``fast``."""
    shell.json("volume", "create", name, "--backend", "fast", "size=1M", "--wait")
    (product.volumes / "volumes" / f"{name}.raw").write_bytes(b"x" * 4096)
    return f"{name}.raw"


def _about(audit: dict[str, Any], volume: str) -> list[dict[str, Any]]:
    return [found for found in audit["findings"] if found["volume"] == volume]


def test_a_stray_file_is_found_planned_and_adopted(shell: Shell, stray: str) -> None:
    audit = shell.json("audit", "run", "--backend", "fast")
    assert [job["state"] for job in audit["jobs"]] == ["succeeded"]
    [found] = _about(audit, stray)
    assert (found["kind"], found["detail"]["whose"]) == ("orphan", "foreign")
    number = str(found["id"])
    assert shell.json("audit", "show", number)["repairs"] == found["repairs"]
    listed = shell.json("audit", "findings", "--backend", "fast", "--kind", "orphan")
    assert number in [str(one["id"]) for one in listed["items"]]
    planned = shell.json("audit", "repair", number, "adopt", "--plan")
    assert [job["action"] for job in planned["jobs"]] == ["volume.adopt"]
    refused = shell.json("audit", "repair", number, "forget", status=2)
    assert refused["field"] == "repair"
    job = shell.json("audit", "repair", number, "adopt", "--wait", "--idempotency-key", "again")
    assert (job["state"], job["volume"]) == ("succeeded", stray)
    key = ("--idempotency-key", f"after-{stray}")
    after = shell.json("audit", "run", "--backend", "fast", *key)
    assert _about(after, stray) == []
    # The finding is closed: under its key the repair is still the one that was made.
    again = shell.json("audit", "repair", number, "adopt", "--idempotency-key", "again")
    assert again["id"] == job["id"]
    assert shell.json("audit", "run", "--backend", "fast", *key)["jobs"] == after["jobs"]
    closed = shell.json("audit", "show", number)
    assert (closed["state"], closed["repair_job"], closed["repairs"]) == ("closed", job["id"], [])
    assert shell.json("audit", "repair", number, "adopt", status=4)["code"] == "wrong_state"


def test_a_job_waits_for_an_approval(shell: Shell, name: str) -> None:
    words = ("submit", "volume.create", "--backend", "fast", "--volume", name, "size=1M")
    job = shell.json(*words, "--approval")
    assert (job["state"], job["waiting_on"]["kind"]) == ("waiting", "approval")
    shell.json("job", "approve", str(job["id"]), "--reason", "it may be")
    assert shell.json("job", "wait", str(job["id"]))["state"] == "succeeded"
    assert shell.json("job", "approve", str(job["id"]))["state"] == "succeeded"


def test_people_get_tables_of_findings(shell: Shell, stray: str) -> None:
    assert stray in shell.ok("audit", "run", "--backend", "fast")
    assert "orphan" in shell.ok("audit", "findings")
    assert "rules may repair" in shell.ok("audit", "acknowledge")
