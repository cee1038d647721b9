"""Schedules as people and scripts use them: by the command line, HTTP and the client."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from typing import Any

import pytest

from orchestrator.client import Client
from tests.acceptance.conftest import Product
from tests.acceptance.test_command_line import Shell, create

MADE = ("--cron", "0 3 * * *", "--action", "snapshot.create", "--backend", "fast")

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(product: Product) -> Shell:
    return Shell(product)


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def test_a_schedule_is_made_run_shown_and_removed(shell: Shell, name: str) -> None:
    create(shell, f"{name}-1")
    made = shell.json(
        "schedule", "create", name, *MADE, "--volume", f"{name}-*", "--keep", "last=1,daily=7",
        "--reason", "nightly",
    )  # fmt: skip
    assert made["next_at"].endswith("T03:00:00Z")
    assert made["keep"] == {"last": 1, "hourly": 0, "daily": 7, "weekly": 0}
    again = shell.json(
        "schedule", "create", name, *MADE, "--volume", "*", "--keep", "last=1", status=4
    )
    assert again["code"] == "already_exists"
    told = shell.json("schedule", "run", name)
    [job] = told["job_ids"]
    ended = shell.json("job", "wait", str(job))
    assert (ended["state"], ended["reason"]) == ("succeeded", f"schedule {name}")
    assert ended["snapshot"].startswith(f"{name}-20")
    shown = shell.json("schedule", "show", name)
    assert shown["last_jobs"] == {"succeeded": 1}
    assert shown["last_result"]["jobs"] == [job, job]
    assert "1 submitted" in shell.ok("schedule", "list")
    assert shell.json("schedule", "disable", name)["next_at"] is None
    assert shell.json("schedule", "enable", name)["next_at"] == made["next_at"]
    assert shell.json("schedule", "remove", name) == {"name": name, "removed": True}
    assert shell.json("schedule", "show", name, status=3)["code"] == "unknown_schedule"


NIGHTLY = {
    **{"cron": "0 3 * * *", "action": "snapshot.create", "backend": "fast", "volumes": ["vm*"]},
    **{"keep": {"daily": 7}},
}


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"cron": "0 3 * *"}, 422, "cron"),
        ({"volumes": ["a b"]}, 422, "volumes.0"),
        ({"volumes": None}, 422, "volumes"),
        ({"keep": {"last": 0}}, 422, "keep"),
        ({"keep": {"yearly": 1}}, 422, "keep.yearly"),
        ({"action": "volume.remove"}, 422, "action"),
        ({"backend": "nowhere"}, 404, "backend"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(
    product: Product, name: str, changed: dict[str, Any], status: int, field: str
) -> None:
    with product.client() as http:
        answer = http.put(f"/v1/schedules/{name}", json=NIGHTLY | changed)
        assert (answer.status_code, answer.json()["field"]) == (status, field)
        assert http.get(f"/v1/schedules/{name}").status_code == 404


def test_only_administrators_change_schedules(product: Product, name: str) -> None:
    wanted = {"cron": "0 3 * * *", "action": "backend.refresh", "backend": "fast"}
    with product.client() as admin:
        made = admin.post("/v1/tokens", json={"name": name, "role": "operator"}).json()
        assert admin.put(f"/v1/schedules/{name}", json=wanted).status_code == 200
        page = admin.get("/v1/schedules", params={"limit": 1}).json()
        assert (len(page["items"]), page["cursor"] is None) == (1, False)
        less = {"Authorization": f"Bearer {made['token']}"}
        path = f"/v1/schedules/{name}"
        answers = [
            admin.put(path, json=wanted, headers=less),
            admin.patch(path, json={"enabled": False}, headers=less),
            admin.post(f"{path}/run", headers=less),
            admin.delete(path, headers=less),
        ]
        assert {answer.status_code for answer in answers} == {403}
        assert admin.get(path, headers=less).json()["enabled"]
        assert admin.delete(path).status_code == 204


def test_the_scheduler_exports_events(product: Product, name: str) -> None:
    with Client(product.url, product.token) as client:
        client.put_schedule(name, "0 3 * * *", "events.export")
        told = client.run_schedule(name)
        assert (told.job_ids, told.result) == ([], None)
        until = time.monotonic() + 60
        while not (result := client.schedule(name).last_result):
            assert time.monotonic() < until
            time.sleep(0.05)
        client.remove_schedule(name)
        exported = product.data / "exports" / str(result.file)
        with gzip.open(exported, "rt") as file:
            *lines, head = map(json.loads, file)
        epoch = client.event_page(0, limit=1).epoch
        link = {"number": result.last, "link": result.link, "epoch": epoch}
        assert head["head"] == link
        page = client.event_page(0, limit=5)
        wanted = [json.loads(event.model_dump_json()) for event in page.items]
        assert lines[: len(wanted)] == wanted
