"""The double refuses what a filer refuses, and answers as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ontap.double import PASSWORD, USER, Double


class Client:
    """Asks the double as the documentation says, without the driver."""

    def __init__(self, double: Double) -> None:
        self._base = f"http://127.0.0.1:{double.port}"
        self._session = requests.Session()
        self._session.auth = (USER, PASSWORD)

    def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        answer = self._session.request(
            method, self._base + path, json=body, params=query, timeout=10
        )
        return answer.status_code, answer.json()


@pytest.fixture
def ask(double: Double) -> Client:
    return Client(double)


VOLUME = {
    "name": "vol1",
    "svm": {"name": "svm1"},
    "aggregates": [{"name": "aggr1"}],
    "size": 20 * 2**20,
}


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"uuid": "x"}, "uuid"),
        ({"is_svm_root": True}, "is_svm_root"),
        ({"space": {"used": 1}}, "space.used"),
        ({"svm": {"name": "svm1", "subtype": "x"}}, "svm.subtype"),
        ({"state": "asleep"}, "state"),
        ({"size": "large"}, "size"),
        ({"aggregates": [{"name": "aggr1", "state": "online"}]}, "aggregates.state"),
    ],
)
def test_a_body_with_what_is_not_documented_for_it_is_refused(
    ask: Client, body: dict[str, Any], target: str
) -> None:
    status, answer = ask("POST", "/api/storage/volumes", {**VOLUME, **body})
    assert status == 400
    assert answer["error"]["target"] == target
    assert set(answer["error"]) == {"message", "code", "target"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "1st"}, 400),
        ({"name": "a-b"}, 400),
        ({"name": "x" * 204}, 400),
        ({"name": "vol0"}, 409),
        ({"size": 19 * 2**20}, 400),
        ({"nas": {"path": "/"}}, 400),
        ({"svm": {"name": "nobody"}}, 404),
        ({"aggregates": []}, 400),
    ],
)
def test_what_a_filer_does_not_make_is_refused(
    ask: Client, body: dict[str, Any], status: int
) -> None:
    assert ask("POST", "/api/storage/volumes", {**VOLUME, **body})[0] == status


def test_slow_work_is_a_job(double: Double, ask: Client) -> None:
    double.filer.jobs.held = True
    status, answer = ask("POST", "/api/storage/volumes", VOLUME)
    assert status == 202
    job = f"/api/cluster/jobs/{answer['job']['uuid']}"
    assert ask("GET", job, fields="state")[1]["state"] == "running"
    assert ask("GET", "/api/storage/volumes", name="vol1")[1]["num_records"] == 0
    assert ask("POST", "/api/storage/volumes", VOLUME)[0] == 409
    double.filer.jobs.held = False
    assert ask("GET", job, fields="state")[1]["state"] == "success"
    assert ask("GET", "/api/storage/volumes", name="vol1")[1]["num_records"] == 1


def test_pages_queries_and_fields(double: Double, ask: Client) -> None:
    for number in range(25):
        double.filer.plant(f"v{number:02}", comment=f"of job {number % 2}")
    path = "/api/storage/volumes?svm.name=svm1&name=v*|x&comment=*1&max_records=5&fields=size"
    seen, pages = [], 0
    while path:
        status, page = ask("GET", path)
        assert status == 200
        seen += page["records"]
        path = page.get("_links", {}).get("next", {}).get("href", "")
        pages += 1
    assert pages == 3
    assert [one["name"] for one in seen] == ["v01"] + [f"v{n:02}" for n in range(3, 25, 2)]
    assert set(seen[0]) == {"uuid", "name", "size"}
    assert ask("GET", "/api/storage/volumes", nonsense="x")[0] == 400
    assert ask("GET", "/api/storage/volumes", fields="nonsense")[0] == 400
    assert ask("GET", "/api/storage/volumes/none")[1]["error"]["code"] == "4"


def test_what_others_need_is_not_deleted(double: Double, ask: Client) -> None:
    record = double.filer.plant("vol1", path="/vol1")
    path = f"/api/storage/volumes/{record['uuid']}"
    assert ask("DELETE", path)[0] == 400
    ask("PATCH", path, {"nas": {"path": ""}})
    ask("POST", f"{path}/snapshots", {"name": "base"})
    (base,) = ask("GET", f"{path}/snapshots")[1]["records"]
    clone = {
        "name": "copy",
        "svm": {"name": "svm1"},
        "clone": {
            "is_flexclone": True,
            "parent_volume": {"uuid": record["uuid"]},
            "parent_snapshot": {"uuid": base["uuid"]},
        },
    }
    assert ask("POST", "/api/storage/volumes", clone)[0] == 202
    for busy in (f"{path}/snapshots/{base['uuid']}", path):
        job = ask("DELETE", busy)[1]["job"]["uuid"]
        assert ask("GET", f"/api/cluster/jobs/{job}", fields="state")[1]["state"] == "failure"
    copy = double.filer.named("copy")
    ask("PATCH", f"/api/storage/volumes/{copy['uuid']}", {"clone": {"split_initiated": True}})
    ask("DELETE", f"{path}/snapshots/{base['uuid']}")
    ask("DELETE", path)
    assert ask("GET", path)[0] == 404


def test_inserting_a_rule_moves_those_behind_it(double: Double, ask: Client) -> None:
    rules = [
        {"clients": [{"match": f"10.0.0.{n}"}], "ro_rule": ["sys"], "rw_rule": ["sys"]}
        for n in range(4)
    ]
    body = {"name": "web", "svm": {"name": "svm1"}, "rules": rules[:3]}
    made = ask("POST", "/api/protocols/nfs/export-policies", body, return_records="true")[1]
    path = f"/api/protocols/nfs/export-policies/{made['records'][0]['id']}"
    ask("DELETE", f"{path}/rules/2")
    ask("POST", f"{path}/rules", {**rules[3], "index": 1})
    found = ask("GET", path, fields="rules")[1]["rules"]
    order = [(one["index"], one["clients"][0]["match"][-1]) for one in found]
    assert order == [(1, "3"), (2, "0"), (3, "2")]


def test_who_it_is_that_asks_is_checked(double: Double) -> None:
    url = f"http://127.0.0.1:{double.port}/api/cluster"
    assert requests.get(url, auth=(USER, "wrong"), timeout=10).status_code == 401
    assert requests.get(url, auth=(USER, PASSWORD), timeout=10).json()["name"] == "double"


def test_as_a_process_it_keeps_what_it_has(tmp_path: Path) -> None:
    state, names = tmp_path / "state", []
    for name in ("vol1", "vol2"):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ontap", "0", str(state)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            base = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            url = f"{base}/api/storage/volumes"
            asked: dict[str, Any] = {
                "json": {**VOLUME, "name": name},
                "auth": (USER, PASSWORD),
                "timeout": 10,
            }
            faults: Any = [{"kind": "status", "status": 503}]
            requests.post(f"{base}/double/faults", json={"faults": faults}, timeout=10)
            assert requests.post(url, **asked).status_code == 503
            assert requests.post(url, **asked).status_code == 202
            found = requests.get(f"{url}?name=vol*", auth=asked["auth"], timeout=10).json()
            names = [one["name"] for one in found["records"]]
            counted = requests.get(f"{base}/double/requests", timeout=10).json()["requests"]
            assert len(counted) == 3
            process.kill()
    assert names == ["vol0", "vol1", "vol2"]
