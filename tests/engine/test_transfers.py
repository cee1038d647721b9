"""Contents that come from elsewhere and go there: copy, import, export; and parts of a wipe."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from orchestrator.actions.requests import parse_request
from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    ForbiddenPlace,
    InvalidInput,
    Problem,
    ShrinkRefused,
    UnknownBackend,
    UnknownVolume,
)
from orchestrator.inventory.backends import backend_views
from orchestrator.inventory.hosts import seen
from orchestrator.inventory.quotas import set_quota
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import plan, submit
from orchestrator.settings import Settings, TransferSettings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import attachments
from tests.conformance.calls import Claim, LeaseLost
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from workers.actions.registry import HANDLERS
from workers.backends.base.facts import Contents
from workers.backends.base.references import VolumeRef
from workers.backends.memory.store import Faults
from workers.execution.images import Export

pytestmark = pytest.mark.either_database

MIB = 2**20


@pytest.fixture
def images(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    made = tmp_path / "exports"
    made.mkdir()
    return made


class _Bad(SimpleHTTPRequestHandler):
    """Serves files; and answers that are no image."""

    def do_GET(self) -> None:
        if self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        elif self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/there?signature=s3cret")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"how much more?")
        elif self.path == "/busy":
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not told."""


def _serving(handler: Any) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(images: Path) -> Iterator[str]:
    for running in _serving(partial(_Bad, directory=str(images))):
        yield f"127.0.0.1:{running.server_port}"


@pytest.fixture
def transfer(images: Path, exports: Path, server: str) -> TransferSettings:
    return TransferSettings(import_from=[images], export_to=[exports], hosts=[server])


@pytest.fixture
def engine(settings: Settings, transfer: TransferSettings) -> Iterator[Engine]:
    made = Engine(
        settings.model_copy(update={"transfer": transfer}), Database(settings.database_url)
    )
    yield made
    made.close()


def _one(engine: Engine, request: dict[str, Any]) -> Any:
    [job_id] = engine.submit(request).job_ids
    engine.work()
    return engine.job(job_id)


def _refused(engine: Engine, request: dict[str, Any]) -> Problem:
    submission = Submission(requests=[parse_request(request)], actor=ADMIN)
    places = engine.settings.transfer.places
    with pytest.raises(Problem) as raised:
        engine.database.transact(
            lambda connection: submit(connection, submission, max_attempts=5, places=places)
        )
    return raised.value


def _driver(engine: Engine, backend: str) -> Any:
    return next(d for d in engine.worker.serving.drivers.values() if d.backend == backend)


def _ref(engine: Engine, name: str, backend: str) -> VolumeRef:
    return VolumeRef(engine.volumes(backend)[name]["id"], name)


def _filled(engine: Engine, name: str, text: bytes, backend: str = "ram") -> None:
    _one(engine, create(name, backend=backend))
    driver, volume = _driver(engine, backend), _ref(engine, name, backend)
    if backend == "ram":
        driver.write(volume.id, text)
    else:
        [image] = (engine.settings.data / "volumes").glob(f"volumes/*/*{volume.id}*")
        with image.open("r+b") as file:
            file.write(text)


def _contents(engine: Engine, name: str, backend: str) -> bytes:
    whole = bytearray()
    with _driver(engine, backend).contents(_ref(engine, name, backend), None) as contents:
        for offset, data in contents.parts:
            whole[len(whole) :] = bytes(offset - len(whole)) + data
    return bytes(whole).rstrip(b"\0")


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _copy(name: str, backend: str, source: str, of: str, **more: Any) -> dict[str, Any]:
    params = {"source": source, "source_backend": of, **more.pop("params", {})}
    return act("volume.copy", name, backend, params=params, **more)


def _import(name: str, image: str, **params: Any) -> dict[str, Any]:
    return act("volume.import", name, "fast", params={"image": image, "size": "2M", **params})


def _export(name: str, target: str | Path, **more: Any) -> dict[str, Any]:
    return act("volume.export", name, "fast", params={"target": str(target)}, **more)


# -- copy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "to"), [("ram", "fast"), ("fast", "ram")])
def test_a_copy_on_another_backend_has_the_contents_and_a_life_of_its_own(
    engine: Engine, of: str, to: str
) -> None:
    _filled(engine, "source", b"what it holds", of)
    job = _one(engine, _copy("copy", to, "source", of, params={"size": "4M"}))
    assert (job["state"], job["result"]["size_bytes"]) == ("succeeded", 4 * MIB), job
    assert _contents(engine, "copy", to) == b"what it holds"
    assert _one(engine, act("volume.remove", "source", of))["state"] == "succeeded"
    assert _contents(engine, "copy", to) == b"what it holds"


def test_a_copy_of_a_snapshot_has_what_was_there_then(engine: Engine) -> None:
    _filled(engine, "source", b"then")
    _one(engine, act("snapshot.create", "source", snapshot="s"))
    _driver(engine, "ram").write(_ref(engine, "source", "ram").id, b"now!")
    job = _one(engine, _copy("copy", "fast", "source", "ram", snapshot="s"))
    assert job["state"] == "succeeded", job
    assert _contents(engine, "copy", "fast") == b"then"


def test_a_copy_is_ordered_with_the_jobs_of_both_volumes(engine: Engine) -> None:
    engine.submit(create("source"))
    engine.submit(grow("source", "3M"))
    [copied] = engine.submit(_copy("copy", "fast", "source", "ram")).job_ids
    [removed] = engine.submit(act("volume.remove", "source")).job_ids
    [grown] = engine.submit(grow("copy", "8M", "fast")).job_ids
    assert engine.states([copied, removed, grown]) == ["waiting"] * 3
    engine.work()
    engine.work()  # what has become free in a queue that was looked at before
    assert engine.states([copied, removed, grown]) == ["succeeded"] * 3
    assert engine.volumes("fast")["copy"]["size_bytes"] == 8 * MIB
    assert engine.volumes("ram") == {}


def test_what_cannot_be_copied_is_refused_with_the_field(engine: Engine) -> None:
    _one(engine, create("source", "2M"))
    for request, kind, field in (
        (_copy("c", "fast", "none", "ram"), UnknownVolume, "params.source"),
        (_copy("c", "fast", "source", "none"), UnknownBackend, "params.source_backend"),
        (_copy("c", "ram", "source", "ram"), InvalidInput, "params.source_backend"),
        (
            _copy("c", "fast", "source", "ram", params={"size": "1M"}),
            ShrinkRefused,
            "params.size_bytes",
        ),
    ):
        problem = _refused(engine, request)
        assert (type(problem), problem.field) == (kind, field)


def test_a_copy_where_no_worker_serves_both_says_so_and_leaves_nothing(engine: Engine) -> None:
    _one(engine, create("source"))
    drivers = engine.worker.serving.drivers
    ram = next(id_ for id_, driver in drivers.items() if driver.backend == "ram")
    taken = drivers.pop(ram)
    try:
        request = _copy("copy", "fast", "source", "ram", max_attempts=1)
        job = _one(engine, request)
    finally:
        drivers[ram] = taken
    assert (job["state"], job["error"]["code"]) == ("failed", "backend_unavailable")
    assert "does not serve backend ram" in job["error"]["detail"]
    assert engine.volumes("fast") == {}


def test_a_copy_whose_source_fails_is_tried_again(engine: Engine) -> None:
    _filled(engine, "source", b"text")
    Faults("ram", _driver(engine, "ram").installation).set(
        kind="unavailable", operation="contents", times=1
    )
    job = _one(engine, _copy("copy", "fast", "source", "ram"))
    assert (job["state"], job["attempt"]) == ("waiting", 1)
    engine.time_passes()
    engine.work()
    assert _contents(engine, "copy", "fast") == b"text"


# -- import ---------------------------------------------------------------------------------


@pytest.mark.parametrize("by_url", [False, True])
def test_an_image_becomes_a_volume(engine: Engine, images: Path, server: str, by_url: bool) -> None:
    held = os.urandom(MIB) + bytes(MIB // 2) + b"end"
    (images / "disk.raw").write_bytes(held)
    image = f"http://{server}/disk.raw" if by_url else str(images / "disk.raw")
    digest = hashlib.sha256(held).hexdigest()
    job = _one(engine, _import("vm", image, sha256=digest, metadata={"os": "none"}))
    assert (job["state"], job["result"]["size_bytes"]) == ("succeeded", 2 * MIB), job
    assert _contents(engine, "vm", "fast") == held
    assert engine.volumes("fast")["vm"]["metadata"] == {"os": "none"}


def test_the_digest_counts_holes_as_zeroes(engine: Engine, images: Path) -> None:
    with (images / "sparse").open("wb") as file:
        file.seek(MIB)
        file.write(b"x")
        file.truncate(MIB + MIB // 2)
    digest = hashlib.sha256((images / "sparse").read_bytes()).hexdigest()
    job = _one(engine, _import("vm", str(images / "sparse"), sha256=digest))
    assert job["state"] == "succeeded", job


def _prepare(images: Path) -> None:
    (images / "plain").write_bytes(b"\x00data")
    (images / "large").write_bytes(b"\xff" * (3 * MIB))
    (images / "empty").write_bytes(b"")
    (images / "page").write_text("<!DOCTYPE html><html><h1>Please log in</h1></html>")
    (images / "fixed").write_bytes(b"\xff" * (MIB + 5) + b"conectix" + bytes(504))
    (images / "cow").write_bytes(b"QFI\xfb" + bytes(100))
    (images / "packed").write_bytes(b"\x1f\x8b\x08" + bytes(100))
    (images / "directory").mkdir()
    (images / "link").symlink_to("/etc/hostname")
    (images / "way").symlink_to("/etc")
    os.mkfifo(images / "pipe")


@pytest.mark.parametrize(
    ("image", "params", "code", "told"),
    [
        ("{images}/plain", {"sha256": "0" * 64}, "image_unusable", "SHA-256"),
        ("http://{server}/plain", {"sha256": "0" * 64}, "image_unusable", "SHA-256"),
        ("{images}/large", {}, "invalid_size", "larger size_bytes"),
        ("http://{server}/large", {}, "invalid_size", "larger size_bytes"),
        ("{images}/cow", {}, "image_unusable", "qcow2"),
        ("{images}/packed", {}, "image_unusable", "gzip"),
        *(
            (f"{place}/{name}", {}, "image_unusable", told)
            for place in ("{images}", "http://{server}")
            for name, told in (("empty", "empty"), ("page", "HTML"), ("fixed", "VHD"))
        ),
        ("{images}/directory", {}, "image_unusable", "no regular file"),
        ("{images}/link", {}, "image_unusable", "no regular file"),
        ("{images}/way/hostname", {}, "image_unusable", "link"),
        ("{images}/pipe", {}, "image_unusable", "no regular file"),
        ("{images}/none", {}, "image_unusable", "there is none"),
        ("http://{server}/none", {}, "image_unusable", "404"),
        ("http://{server}/elsewhere", {}, "image_unusable", "169.254.169.254"),
        ("http://{server}/broken", {}, "image_unreachable", "cannot be read"),
        ("http://{server}/busy", {}, "image_unreachable", "503"),
        ("http://{server}/endless", {}, "image_unusable", "sha256"),
    ],
)
def test_an_image_that_is_not_right_makes_no_volume(
    engine: Engine,
    images: Path,
    server: str,
    image: str,
    params: dict[str, Any],
    code: str,
    told: str,
) -> None:
    _prepare(images)
    place = image.format(images=images, server=server)
    job = _one(engine, {**_import("vm", place, **params), "max_attempts": 1})
    assert (job["state"], job["error"]["code"]) == ("failed", code), job["error"]
    assert told in job["error"]["detail"]
    assert "s3cret" not in str(job)
    assert engine.volumes("fast") == {}
    assert list(_driver(engine, "fast").list_volumes()) == []


def test_bytes_that_look_like_another_format_are_taken_when_that_is_said(
    engine: Engine, images: Path
) -> None:
    _prepare(images)
    job = _one(engine, _import("vm", str(images / "cow"), format="raw"))
    assert job["state"] == "succeeded", job
    assert _contents(engine, "vm", "fast") == b"QFI\xfb"
    job = _one(engine, _import("page", str(images / "page"), format="raw"))
    assert job["state"] == "succeeded", job


@pytest.mark.parametrize("by_url", [False, True])
def test_a_volume_without_a_size_is_as_large_as_the_image(
    engine: Engine, images: Path, server: str, by_url: bool
) -> None:
    held = os.urandom(MIB + 1000)
    (images / "disk.raw").write_bytes(held)
    image = f"http://{server}/disk.raw" if by_url else str(images / "disk.raw")
    request = _import("vm", image)
    del request["params"]["size"]
    submission = Submission(requests=[parse_request(request)], actor=ADMIN)
    with engine.database.read() as connection:
        [planned] = plan(connection, submission)
    assert planned.notes == ["the volume will be as large as the image, which is not counted yet"]
    before = _promised(engine)
    [imported, grown] = engine.submit(request, grow("vm", "4M", "fast")).job_ids
    engine.work()
    job = engine.job(imported)
    size = job["result"]["size_bytes"]
    assert (job["state"], size) == ("succeeded", -(-len(held) // 4096) * 4096), job
    assert _contents(engine, "vm", "fast") == held
    engine.work()
    assert engine.job(grown)["state"] == "succeeded"
    assert _promised(engine) == before + 4 * MIB


def _promised(engine: Engine) -> int:
    with engine.database.read() as connection:
        [view] = [one for one in backend_views(connection) if one["name"] == "fast"]
    return int(view["promised_bytes"])


def test_an_image_that_does_not_tell_its_size_needs_one(engine: Engine, server: str) -> None:
    request = _import("vm", f"http://{server}/endless", sha256="0" * 64, format="raw")
    del request["params"]["size"]
    job = _one(engine, {**request, "max_attempts": 1})
    assert (job["state"], job["error"]["code"]) == ("failed", "image_unusable")
    assert "say the size" in job["error"]["detail"]
    assert engine.volumes("fast") == {}


def test_an_account_with_a_quota_says_the_size(engine: Engine, images: Path) -> None:
    (images / "disk.raw").write_bytes(b"\xff" * MIB)
    wanted = {"bytes": 16 * MIB, "volumes": None, "snapshots": None}
    engine.database.transact(
        lambda connection: set_quota(connection, ADMIN.name, "fast", wanted, "tests", None)
    )
    request = _import("vm", str(images / "disk.raw"))
    job = _one(engine, request)
    assert job["state"] == "succeeded", job
    request = _import("other", str(images / "disk.raw"))
    del request["params"]["size"]
    problem = _refused(engine, request)
    assert (problem.code, problem.field) == ("missing_field", "params.size_bytes")


@pytest.mark.parametrize(
    "written",
    [
        "{digest}",
        "{DIGEST}",
        "sha256:{digest}",
        "SHA256:{DIGEST}",
        "{digest}  disk.raw",
        "{digest} *disk.raw\n",
        "SHA256 (disk.raw) = {digest}",
        "SHA2-256(disk.raw)= {digest}",
        " {digest}\n",
    ],
)
def test_a_digest_is_taken_as_checksum_files_have_it(written: str) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    text = written.format(digest=digest, DIGEST=digest.upper())
    request = parse_request(_import("vm", "/srv/x", sha256=text))
    assert request.stored_params()["sha256"] == digest


@pytest.mark.parametrize("written", ["", "0" * 63, "0" * 65, "md5:" + "0" * 64, "g" * 64])
def test_what_is_no_digest_is_told_in_words(written: str) -> None:
    with pytest.raises(InvalidInput, match="write its 64 hexadecimal digits") as raised:
        parse_request(_import("vm", "/srv/x", sha256=written))
    assert raised.value.field == "params.sha256"


def test_images_elsewhere_are_refused_at_the_door_and_by_the_worker(
    engine: Engine, server: str, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("secret")
    port = server.partition(":")[2]
    for image in (
        str(tmp_path / "other"),
        "/etc/shadow",
        f"http://localhost:{port}/x",
        "http://127.0.0.1/x",
        "https://example.org/x",
    ):
        problem = _refused(engine, _import("vm", image))
        assert (type(problem), problem.field) == (ForbiddenPlace, "params.image"), image
        job = _one(engine, _import("vm", image))
        assert (job["state"], job["error"]["code"]) == ("failed", "forbidden_place"), job


@pytest.mark.parametrize(
    "image",
    [
        "relative/path",
        "/srv/../etc/shadow",
        "/srv//x",
        "/srv/x/",
        "file:///etc/shadow",
        "ftp://host/x",
        "http:///x",
        "http://user:s3cret@host/x",
        "http://host/with space",
        "http://host/x?signature=s3cret",
        "http://host/x#s3cret",
        "http://host:99999/x",
        "/srv/x\n",
    ],
)
def test_what_is_no_place_of_an_image_is_refused_as_such(image: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_request(_import("vm", image))
    assert raised.value.field == "params.image"
    assert "s3cret" not in str(raised.value)


# -- export ---------------------------------------------------------------------------------


def test_an_export_is_a_file_with_the_contents_and_can_be_imported(
    engine: Engine, exports: Path
) -> None:
    _filled(engine, "vm", b"what it holds", "fast")
    target = exports / "vm.raw"
    job = _one(engine, _export("vm", target))
    assert job["result"] == {"target": str(target), "size_bytes": MIB, "host": "here"}, job
    assert target.read_bytes() == b"what it holds" + bytes(MIB - 13)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_blocks * 512 < MIB
    assert _names(exports) == ["vm.raw"]


def test_an_export_of_a_snapshot_has_what_was_there_then(engine: Engine, exports: Path) -> None:
    _filled(engine, "vm", b"then", "fast")
    _one(engine, act("snapshot.create", "vm", "fast", snapshot="s"))
    job = _one(engine, _export("vm", exports / "s.raw", snapshot="s"))
    assert job["state"] == "succeeded", job
    assert (exports / "s.raw").read_bytes().rstrip(b"\0") == b"then"


def test_an_export_overwrites_nothing(engine: Engine, exports: Path) -> None:
    _one(engine, create("vm", backend="fast"))
    (exports / "kept").write_text("kept")
    (exports / "link").symlink_to(exports / "none")
    for name in ("kept", "link"):
        job = _one(engine, _export("vm", exports / name))
        assert job["error"]["code"] == AlreadyExists.code, job
    assert (exports / "kept").read_text() == "kept"
    assert _names(exports) == ["kept", "link"]


def test_an_export_goes_to_configured_directories_only(
    engine: Engine, exports: Path, tmp_path: Path
) -> None:
    _one(engine, create("vm", backend="fast"))
    (exports / "way").symlink_to(tmp_path)
    problem = _refused(engine, _export("vm", tmp_path / "out"))
    assert (type(problem), problem.field) == (ForbiddenPlace, "params.target")
    job = _one(engine, _export("vm", tmp_path / "out"))
    assert job["error"]["code"] == "forbidden_place"
    job = _one(engine, _export("vm", exports / "way" / "out"))
    assert job["error"]["code"] == "image_unusable"
    assert not (tmp_path / "out").exists()


def test_an_export_that_was_published_before_its_worker_died_is_done(
    engine: Engine, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, inode = _published_and_broken_off(engine, exports, monkeypatch)
    engine.time_passes()
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2), job
    assert (exports / "out").stat().st_ino == inode


def test_an_export_that_was_published_and_is_canceled_is_taken_back(
    engine: Engine, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = _published_and_broken_off(engine, exports, monkeypatch)
    engine.cancel(job_id)
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"
    assert _names(exports) == []


def test_taking_back_an_export_leaves_what_somebody_put_in_its_place(
    engine: Engine, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = _published_and_broken_off(engine, exports, monkeypatch)
    (exports / "out").rename(exports / "moved")
    (exports / "out").write_text("a person's")
    engine.cancel(job_id)
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"
    assert (exports / "out").read_text() == "a person's"


def _published_and_broken_off(
    engine: Engine, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """An export to ``out`` whose worker dies once the file has its name; the job, its inode."""
    _filled(engine, "vm", b"text", "fast")
    [job_id] = engine.submit(_export("vm", exports / "out")).job_ids
    name = "volume.export"
    whole = HANDLERS[name]

    def dies(work: Any) -> Any:
        whole.run(work)
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setitem(HANDLERS, name, dataclasses.replace(whole, run=dies))
        engine.work()
    return job_id, (exports / "out").stat().st_ino


def test_what_an_earlier_attempt_was_building_is_cleared(engine: Engine, exports: Path) -> None:
    _filled(engine, "vm", b"text", "fast")
    [job_id] = engine.submit(_export("vm", exports / "out")).job_ids
    owner = _driver(engine, "fast").installation
    (exports / f".orchestrator-{owner}-{job_id}-1.part").write_text("begun")
    other = exports / f".orchestrator-{owner}-{job_id + 1}-1.part"
    other.write_text("another job's")
    engine.work()
    assert engine.job(job_id)["state"] == "succeeded"
    assert _names(exports) == [other.name, "out"]


def test_a_late_worker_harms_no_later_export(exports: Path) -> None:
    """One that has lost its lease while it was building leaves what the next one builds."""
    directory = os.open(exports, os.O_RDONLY)
    try:
        target = str(exports / "out")
        later = Export(target, directory, "out", "own", Claim(job_id=7, fence=2))

        def overtaken(_number: int) -> None:
            later.clear()
            later.build(Contents(MIB, iter([(0, b"later")])))
            raise LeaseLost

        first_call = Claim(job_id=7, fence=1, at_checkpoint=overtaken)
        first = Export(target, directory, "out", "own", first_call)
        with pytest.raises(LeaseLost):
            first.build(Contents(MIB, iter([(0, b"first")])))
        first.clear()
        later.publish()
        assert (exports / "out").read_bytes().rstrip(b"\0") == b"later"
        with pytest.raises(Conflict):
            first.publish()
    finally:
        os.close(directory)
    assert _names(exports) == ["out"]


def test_what_another_host_began_is_not_said_to_be_gone(
    engine: Engine, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = _published_and_broken_off(engine, exports, monkeypatch)
    elsewhere = dataclasses.replace(engine.worker.runner._here, host="elsewhere")
    monkeypatch.setattr(engine.worker.runner, "_here", elsewhere)
    engine.cancel(job_id)
    engine.time_passes()
    engine.work()
    job = engine.job(job_id)
    assert job["state"] == "canceled"
    assert "begun on host here" in job["error"]["detail"], job
    assert _names(exports) == ["out"]
    assert engine.volumes("fast")["vm"]["state"] == "available"


def test_an_export_goes_to_the_one_host_there_is_or_to_one_that_is_named(
    engine: Engine, exports: Path
) -> None:
    _one(engine, create("vm", backend="fast"))
    _alive(engine, "here")
    [job_id] = engine.submit(_export("vm", exports / "one")).job_ids
    assert engine.job(job_id)["host"] == "here"
    _alive(engine, "there")
    problem = _refused(engine, _export("vm", exports / "two"))
    assert (problem.code, problem.field) == ("missing_field", "host")
    [job_id] = engine.submit(_export("vm", exports / "two", host="there")).job_ids
    assert engine.job(job_id)["state"] == "waiting"


def _alive(engine: Engine, host: str) -> None:
    worker, queues = f"worker on {host}", ["backend.fast"]
    engine.database.transact(
        lambda connection: seen(connection, worker, host=host, pid=1, boot_id=None, queues=queues)
    )


def test_what_another_host_may_write_to_is_not_read(engine: Engine, exports: Path) -> None:
    _one(engine, create("vm", backend="fast"))
    volume = engine.volumes("fast")["vm"]["id"]
    with engine.database.write() as connection:
        connection.execute(
            insert(attachments).values(
                volume_id=volume, host="there", read_only=False, uris=[], attached_at=db_now()
            )
        )
    for request, field in (
        (_export("vm", exports / "out"), "volume"),
        (_copy("copy", "ram", "vm", "fast"), "params.source"),
    ):
        problem = _refused(engine, request)
        assert (problem.code, problem.field) == ("in_use", field)


# -- a wipe in parts ------------------------------------------------------------------------


def test_a_range_is_wiped_and_what_is_outside_the_volume_refused(engine: Engine) -> None:
    _filled(engine, "vm", b"x" * MIB)
    job = _one(engine, act("volume.wipe", "vm", params={"offset": "4K", "length": "8K"}))
    assert job["result"]["wiped_bytes"] == 8192, job
    held = _contents(engine, "vm", "ram")
    assert held == b"x" * 4096 + bytes(8192) + b"x" * (MIB - 12288)
    for params, field in (
        ({"offset": MIB}, "params.offset_bytes"),
        ({"offset": 4096, "length": MIB}, "params.length_bytes"),
    ):
        assert _refused(engine, act("volume.wipe", "vm", params=params)).field == field


def test_a_wipe_goes_on_behind_what_an_earlier_attempt_has_wiped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.actions.volume.wipe._LEAST_PART", MIB)
    _one(engine, create("vm", "4M"))
    faults = Faults("ram", _driver(engine, "ram").installation)
    driver = _driver(engine, "ram")
    asked: list[int] = []
    whole = driver.wipe

    def wipe(*arguments: Any, offset: int, **named: Any) -> Any:
        asked.append(offset)
        if len(asked) == 3:
            faults.set(kind="unavailable", operation="wipe", times=1)
        return whole(*arguments, offset=offset, **named)

    monkeypatch.setattr(driver, "wipe", wipe)
    job = _one(engine, act("volume.wipe", "vm"))
    assert job["state"] == "waiting", job
    assert f"at least the first {2 * MIB} are wiped" in job["error"]["detail"]
    engine.time_passes()
    engine.work()
    job = engine.job(job["id"])
    assert (job["state"], job["result"]["wiped_bytes"]) == ("succeeded", 4 * MIB), job
    assert asked == [0, MIB, 2 * MIB, 2 * MIB, 3 * MIB]


def test_a_wipe_that_is_canceled_stops_and_tells_how_far_it_came(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.actions.volume.wipe._LEAST_PART", MIB)
    _filled(engine, "vm", b"x" * MIB)
    _one(engine, grow("vm", "4M"))
    [job_id] = engine.submit(act("volume.wipe", "vm")).job_ids
    driver = _driver(engine, "ram")
    whole = driver.wipe

    def wipe(*arguments: Any, offset: int, **named: Any) -> Any:
        if offset == 2 * MIB:
            engine.cancel(job_id)
            engine.worker.leases._beat()
        return whole(*arguments, offset=offset, **named)

    monkeypatch.setattr(driver, "wipe", wipe)
    engine.work()
    job = engine.job(job_id)
    assert (job["state"], job["error"]["wiped_bytes"]) == ("canceled", 2 * MIB), job
    assert _contents(engine, "vm", "ram") == b""
    assert engine.volumes()["vm"]["state"] == "available"
