"""The ways back after a disaster, as docs/safety.md tells them: its commands, run as they stand."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.conftest import Product

_PAGE = Path(__file__).parents[2] / "docs" / "safety.md"
_MIB = 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _blocks(heading: str) -> list[str]:
    """The commands that the page gives below a heading, a block each."""
    section = re.split(r"^#+ ", _PAGE.read_text(), flags=re.M)
    [text] = [part for part in section if part.startswith(f"{heading}\n")]
    return re.findall(r"```sh\n(.*?)```", text, re.S)


def _follow(product: Product, block: str, directory: Path) -> str:
    """Do what a block says, in a shell; what it printed."""
    path = f"{Path(sys.executable).parent}:{product.env['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        env={**product.env, "PATH": path},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout


def _run(product: Product, *words: str, status: int = 0) -> Any:
    done = product.run(*words, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


def _submit(
    product: Product, action: str, volume: str, ends: str = "succeeded", **more: Any
) -> Any:
    """Have an action done, which must end so; ``snapshot``, and parameters."""
    snapshot = more.pop("snapshot", None)
    request = {"action": action, "backend": "fast", "volume": volume, "params": more}
    with product.client() as http:
        answer = http.post(
            "/v1/jobs",
            json=request | ({"snapshot": snapshot} if snapshot else {}),
            headers={"Prefer": "wait=60"},
        )
    assert answer.is_success, answer.text
    job = answer.json()
    assert job["state"] == ends, job
    return job


class Kept:
    """Volumes with contents and snapshots, and what must be there of them in the end."""

    def __init__(self, product: Product, *names: str) -> None:
        self.product = product
        self.digests: dict[tuple[str, str | None], str] = {}
        for name in names:
            self.make(name)

    def make(self, name: str) -> None:
        """A volume with three snapshots, each of other contents, and metadata."""
        image = self.product.exchange / "in.raw"
        image.write_bytes(hashlib.sha512(name.encode()).digest() * (_MIB // 64))
        filled: dict[str, Any] = {"image": str(image), "size_bytes": _MIB, "format": "raw"}
        _submit(self.product, "volume.import", name, **filled, metadata={"of": name})
        for snapshot in ("c", "a", "b"):
            _submit(self.product, "snapshot.create", name, snapshot=snapshot)
            self.digests[name, snapshot] = self.digest(name, snapshot)
            # What comes after a snapshot is other than what it holds.
            part: dict[str, Any] = {"offset_bytes": len(self.digests) * 4096, "length_bytes": 4096}
            _submit(self.product, "volume.wipe", name, **part)
        self.digests[name, None] = self.digest(name, None)

    def digest(self, name: str, snapshot: str | None) -> str:
        """The SHA-256 of what a volume or a snapshot of it holds, as an export has it."""
        target = self.product.exchange / "out.raw"
        _submit(self.product, "volume.export", name, target=str(target), snapshot=snapshot)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        target.unlink()
        return digest

    def check(self, product: Product | None = None) -> None:
        """Everything is there, in its order, and holds what it held."""
        self.product = product or self.product
        for name, snapshot in self.digests:
            assert self.digest(name, snapshot) == self.digests[name, snapshot], (name, snapshot)
        for name in {name for name, _ in self.digests}:
            with self.product.client() as http:
                place = f"/v1/backends/fast/volumes/{quote(name, safe='')}"
                volume = http.get(place).json()
                found = http.get(f"{place}/snapshots").json()
            assert [one["name"] for one in found["items"]] == ["c", "a", "b"]
            assert volume["metadata"] == {"of": name}
            assert volume["state"] == "available"


def _findings(product: Product, kind: str) -> list[str]:
    _run(product, "audit", "run", "--backend", "fast")
    found = _run(product, "audit", "findings", "--backend", "fast", "--kind", kind)
    return sorted(one["volume"] for one in found["items"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Product]:
    made = Product(tmp_path / "one")
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def test_a_lost_inventory_is_adopted_from_the_storage(running: Product, tmp_path: Path) -> None:
    kept = Kept(running, "vm1", "dir/vm:2")
    running.stop()
    shutil.rmtree(running.data)
    running.start()
    _submit(running, "volume.create", "vm1", "failed", size_bytes=_MIB)
    [block] = _blocks("The inventory is lost")
    _follow(running, block, tmp_path)
    kept.check()
    assert _findings(running, "orphan") == []


def test_a_restored_inventory_goes_on_with_what_came_after(
    running: Product, tmp_path: Path
) -> None:
    kept = Kept(running, "vm1")
    backup = tmp_path / "backup.db"
    where = ("--config", str(running.config), "--data", str(running.data))
    _run(running, "db", "backup", str(backup), *where)
    kept.make("since")
    running.stop()
    _run(running, "db", "restore", str(backup), "--replace", *where)
    running.start()
    goes_on, _ = _blocks("The inventory was restored")
    _follow(running, goes_on, tmp_path)
    kept.check()
    assert _findings(running, "orphan") == []


def test_a_database_put_back_by_hand_changes_nothing_until_somebody_says_so(
    running: Product, tmp_path: Path
) -> None:
    kept = Kept(running, "vm1")
    running.stop()
    before = tmp_path / "orchestrator.db"
    shutil.copy(running.data / "orchestrator.db", before)
    running.start()
    kept.make("since")
    running.stop()
    shutil.copy(before, running.data / "orchestrator.db")
    running.start()
    job = _submit(running, "volume.wipe", "vm1", "failed")
    assert job["error"]["code"] == "identity_mismatch"
    goes_on, accepted = _blocks("The inventory was restored")
    _follow(running, accepted, tmp_path)
    _follow(running, goes_on, tmp_path)
    kept.check()


def test_lost_storage_that_was_brought_back_from_a_copy(running: Product, tmp_path: Path) -> None:
    kept = Kept(running, "vm1")
    _submit(running, "volume.create", "gone", size_bytes=_MIB)
    lost = tmp_path / "lost"
    running.volumes.rename(lost)
    subprocess.run(["cp", "-a", lost, running.volumes], check=True)
    [image] = running.volumes.glob("volumes/*/gone~*.img")
    image.unlink()
    job = _submit(running, "volume.grow", "vm1", "failed", size_bytes=2 * _MIB)
    assert job["error"]["code"] == "identity_mismatch"
    block, _for_good = _blocks("The storage is lost")
    _follow(running, block, tmp_path)
    kept.check()
    assert _findings(running, "ghost") == []


def test_storage_that_is_gone_for_good_is_given_up(running: Product, tmp_path: Path) -> None:
    _submit(running, "volume.create", "vm1", size_bytes=_MIB)
    running.volumes.rename(tmp_path / "burnt")
    grow = {"action": "volume.grow", "backend": "fast", "volume": "vm1"}
    with running.client() as http:
        job = http.post("/v1/jobs", json={**grow, "params": {"size_bytes": 2 * _MIB}}).json()
        events = f"/v1/jobs/{job['id']}/events"
        while "job.outage" not in {one["kind"] for one in http.get(events).json()["items"]}:
            pass
    _for_a_copy, block = _blocks("The storage is lost")
    told = _follow(running, block.replace(" 17", f" {job['id']}"), tmp_path)
    assert "volume.grow" in told
    ended = _run(running, "job", "show", str(job["id"]))
    assert ended["state"] == "canceled"
    running.stop()
    text = running.config.read_text()
    running.config.write_text(re.sub(r"\[backends\.fast\]\n.*?\n\n", "", text, flags=re.S))
    running.start()
    assert [one["name"] for one in _run(running, "backend", "list")["items"]] == ["ram"]
    assert _run(running, "job", "list", "--state", "waiting,queued,running")["items"] == []


def test_of_two_databases_the_one_that_is_named_goes_on(running: Product, tmp_path: Path) -> None:
    kept = Kept(running, "vm1")
    second = Product(tmp_path / "two")
    second.config.write_text(running.config.read_text())
    running.stop()
    shutil.copytree(running.data, second.data)
    running.start()
    second.start()
    try:
        job = _submit(second, "volume.wipe", "vm1", "failed")
        assert job["error"]["code"] == "identity_mismatch"
        _submit(running, "volume.grow", "vm1", size_bytes=2 * _MIB)
        kept.digests = {key: value for key, value in kept.digests.items() if key[1] is not None}
        running.stop()
        [block] = _blocks("There are two of something")
        _follow(second, block, tmp_path)
        second.exchange = running.exchange
        kept.check(second)
        running.start()
        job = _submit(running, "volume.wipe", "vm1", "failed")
        assert job["error"]["code"] == "identity_mismatch"
        kept.check(second)
    finally:
        second.stop()
