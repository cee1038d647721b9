"""A worker without root's rights: what it may not look at, or not reach, is never lost for that.

The whole product runs so, on a file system of its own. Others take the images away
from it, make them immutable, or take the file system away, while changes, audits and rules that
forget are at work. Once the cause is gone all is as it was, by itself.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.conftest import Product
from workers.backends.file import loops

_MIB = 2**20
_NOBODY = 65534
#: The user that libvirt runs guests as on Debian.
_GUEST = 64055
_ENDED = ("succeeded", "failed", "canceled")
#: However slow the machine is: looks are a few minutes apart at most.
_SECONDS = 500.0

#: What would make of a wrong finding a loss.
_RULES = """
[audit]
grace_hours = 0
most_percent = 100
[audit.rules]
ghost = "forget"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def somebody() -> tuple[int, list[str]]:
    """A user without rights over others' files, and the command that runs Python as that one.

    Nobody, where that one may run this Python; else a root without any capability.
    """
    for user, command in (
        (_NOBODY, ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]),
        (0, ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]),
    ):
        python = [*command, sys.executable]
        tried = subprocess.run([*python, "-c", "import workers.main"], cwd="/", capture_output=True)
        if tried.returncode == 0:
            return user, python
    raise AssertionError(tried.stderr)


class Fleet:
    """The product of another user, and volumes on a file system that can be taken away."""

    def __init__(self, room: Path) -> None:
        self.owner, python = somebody()
        self.product = Product(room)
        self.product.python = python
        with self.product.config.open("a") as config:
            config.write(_RULES)
        self.volumes = self.product.volumes
        self.image = room / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(256 * _MIB)
        run("mkfs.ext4", "-q", "-F", self.image)
        self.mount()
        for path in (room, self.volumes, self.product.exchange):
            os.chown(path, self.owner, self.owner)

    def mount(self) -> None:
        run("mount", "-o", "loop", self.image, self.volumes)

    def images(self) -> list[Path]:
        """The images of all volumes and snapshots."""
        return [*self.volumes.glob("volumes/*/*.img"), *self.volumes.glob("snapshots/*/*.img")]

    # -- asking the product -------------------------------------------------------------------

    def submit(self, action: str, volume: str | None, **more: Any) -> int:
        params = more.pop("params", {})
        request = {"action": action, "backend": "fast", "params": params, **more}
        with self.product.client() as http:
            answer = http.post(
                "/v1/jobs", json=request | ({} if volume is None else {"volume": volume})
            )
        assert answer.is_success, answer.text
        return int(answer.json()["id"])

    def get(self, path: str, **query: Any) -> Any:
        with self.product.client() as http:
            answer = http.get(path, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    def ended(self, job_id: int) -> Any:
        job: Any = {"state": None}
        until = time.monotonic() + _SECONDS
        while job["state"] not in _ENDED:
            assert time.monotonic() < until, job
            job = self.get(f"/v1/jobs/{job_id}/wait", timeout=30)
        return job

    def succeeds(self, action: str, volume: str | None, **more: Any) -> Any:
        job = self.ended(self.submit(action, volume, **more))
        assert job["state"] == "succeeded", job
        return job

    def states(self) -> dict[str, str]:
        found = self.get("/v1/backends/fast/volumes", limit=1000)["items"]
        return {one["name"]: one["state"] for one in found}

    def findings(self) -> list[tuple[str, str | None]]:
        found = self.get("/v1/findings", backend="fast", state="open", limit=1000)["items"]
        return [(one["kind"], one["volume"]) for one in found]

    # -- volumes and what they hold -------------------------------------------------------------

    def make(self, name: str, *, snapshot: bool = True) -> None:
        """A volume with contents, and a snapshot of them."""
        source = self.product.exchange / "in.raw"
        source.write_bytes(hashlib.sha512(name.encode()).digest() * (_MIB // 64))
        os.chown(source, self.owner, self.owner)
        params = {"image": str(source), "format": "raw", "metadata": {"of": name}}
        self.succeeds("volume.import", name, params=params)
        if snapshot:
            self.succeeds("snapshot.create", name, snapshot="kept")

    def holds(self, name: str, of: str, snapshot: str | None = None) -> bool:
        """Whether a volume, or a snapshot of it, holds what `make` has put into one."""
        target = self.product.exchange / "out.raw"
        more = {} if snapshot is None else {"snapshot": snapshot}
        self.succeeds(
            "volume.export", name, params={"target": str(target)}, host=self.product.host, **more
        )
        there = target.read_bytes()
        target.unlink()
        return there[:_MIB] == hashlib.sha512(of.encode()).digest() * (_MIB // 64)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    if os.geteuid() != 0 or not loops.available():
        pytest.skip("only root runs others' processes and mounts file systems")
    with tempfile.TemporaryDirectory(prefix="orchestrator-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        made = Fleet(Path(directory) / "room")
        try:
            made.product.start()
            yield made
        finally:
            if made.product.process is not None:
                made.product.stop()
            run("umount", made.volumes)


@contextmanager
def taken_by_a_guest(fleet: Fleet) -> Iterator[None]:
    images = fleet.images()
    for path in images:
        os.chown(path, _GUEST, _GUEST)
        path.chmod(0o600)
    yield
    for path in images:
        os.chown(path, fleet.owner, fleet.owner)


@contextmanager
def immutable(fleet: Fleet) -> Iterator[None]:
    images = fleet.images()
    run("chattr", "+i", *images)
    yield
    run("chattr", "-i", *images)


@contextmanager
def read_only(fleet: Fleet) -> Iterator[None]:
    again_and_again(partial(run, "mount", "-o", "remount,ro", fleet.volumes))
    yield
    run("mount", "-o", "remount,rw", fleet.volumes)


@contextmanager
def unmounted(fleet: Fleet) -> Iterator[None]:
    again_and_again(partial(run, "umount", fleet.volumes))
    yield
    fleet.mount()


def again_and_again(deed: Callable[[], None]) -> None:
    """While somebody has a file open there, the kernel refuses it."""
    until = time.monotonic() + _SECONDS
    while True:
        try:
            return deed()
        except subprocess.CalledProcessError:
            assert time.monotonic() < until
            time.sleep(0.01)


#: The cause, and what an audit says of it: that it may not look, nothing, or it waits.
CAUSES = {
    "taken by a guest": (taken_by_a_guest, "access_denied"),
    "immutable": (immutable, None),
    "read-only": (read_only, None),
    "unmounted": (unmounted, "waits"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_nothing_is_lost_while_it_cannot_be_looked_at(fleet: Fleet, cause: str) -> None:
    deed, says = CAUSES[cause]
    own = cause.replace(" ", "-")
    names = {what: f"{own}/{what}" for what in ("grow", "rename", "keep", "update", "remove")}
    for what, name in names.items():
        fleet.make(name, snapshot=what != "remove")
    before = set(fleet.states())
    with deed(fleet):
        changes = {
            "grow": fleet.submit("volume.grow", names["grow"], params={"size_bytes": 2 * _MIB}),
            "rename": fleet.submit(
                "volume.rename", names["rename"], params={"new_name": f"{own}/renamed"}
            ),
            "keep": fleet.submit("snapshot.create", names["keep"], snapshot="new"),
            "update": fleet.submit(
                "volume.update", names["update"], params={"metadata": {"of": "another"}}
            ),
            "remove": fleet.submit("volume.remove", names["remove"]),
            "new": fleet.submit("volume.create", f"{own}/new", params={"size_bytes": _MIB}),
        }
        looks = [fleet.submit("volume.verify", names["keep"]), fleet.submit("backend.audit", None)]
        if says == "waits":
            wait_until(lambda: fleet.get("/v1/backends/fast")["unavailable_since"] is not None)
            assert fleet.get(f"/v1/jobs/{looks[1]}")["state"] not in _ENDED
        else:
            ended = [fleet.ended(job_id) for job_id in looks]
            if says is not None:
                assert [job["error"]["code"] for job in ended] == [says, says]
            for job_id in changes.values():
                fleet.ended(job_id)
        # What was to be made is not there, and was seen not to be; nothing else is lost.
        told = {volume for kind, volume in fleet.findings() if kind in ("ghost", "orphan")}
        assert told <= {f"{own}/new"}
        assert before <= set(fleet.states()) | {names["rename"], names["remove"]}
    done = {what for what, job_id in changes.items() if fleet.ended(job_id)["state"] == _ENDED[0]}
    for job_id in looks:
        fleet.ended(job_id)

    expected = before - ({names["remove"]} if "remove" in done else set())
    if "new" in done:
        expected.add(f"{own}/new")
    if "rename" in done:
        expected = expected - {names["rename"]} | {f"{own}/renamed"}
    # What could not be seen is looked at again, by itself.
    wait_until(lambda: fleet.states() == dict.fromkeys(expected, "available"))
    audit = fleet.succeeds("backend.audit", None)
    assert audit["result"]["findings"] == {}, fleet.findings()
    for what, name in names.items():
        now = f"{own}/renamed" if what == "rename" and what in done else name
        if now in expected:
            assert fleet.holds(now, name)
            assert what == "remove" or fleet.holds(now, name, "kept")
    # And all of it can be worked with.
    for name in sorted(name for name in expected if name.startswith(f"{own}/")):
        fleet.succeeds("volume.grow", name, params={"size_bytes": 3 * _MIB})
        place = f"/v1/backends/fast/volumes/{quote(name, safe='')}/snapshots"
        for kept in fleet.get(place)["items"]:
            fleet.succeeds("snapshot.delete", name, snapshot=kept["name"])
        fleet.succeeds("volume.remove", name)
    assert fleet.images() == []


def wait_until(seen: Callable[[], bool]) -> None:
    until = time.monotonic() + _SECONDS
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.1)
