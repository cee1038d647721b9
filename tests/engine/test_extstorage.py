"""Backends of the `extstorage` driver whose provider does not do as it should."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from orchestrator.cli.tables import print_things
from orchestrator.domain.errors import UnknownParameter, Unsupported
from orchestrator.inventory.hosts import seen
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import jobs
from tests.conformance.systems import PROVIDERS, release_loops
from tests.engine.conftest import Engine, act, create, grow
from tests.engine.test_settling import Settled
from workers.backends.file import loops

# What is tried is the driver and how jobs end; the database does not matter for that.
pytestmark = [
    pytest.mark.skipif(not loops.available(), reason="loop devices need root"),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]


class Provider:
    """A copy of the example provider, to be spoilt."""

    def __init__(self, room: Path) -> None:
        self.directory = room / "providers" / "sparse"
        shutil.copytree(PROVIDERS / "sparse", self.directory)
        self.images = room / "images"
        self.images.mkdir()
        self.room = room / "driver"

    def replace(self, script: str, body: str) -> None:
        (self.directory / script).write_text(body)

    def settings(self, attach_seconds: float = 5.0) -> BackendSettings:
        return BackendSettings.model_validate(
            {
                "driver": "extstorage",
                "provider": "sparse",
                "search_path": [str(self.directory.parent)],
                "path": str(self.room),
                "parameters": {"path": str(self.images)},
                "timeouts": {"attach": attach_seconds},
            }
        )

    def processes(self) -> list[str]:
        """What runs in the provider's directory, or was started from there."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink().is_relative_to(self.directory):
                    found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:
                continue
        return found


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    release_loops(made.images)


@pytest.fixture
def settings(request: pytest.FixtureRequest, settings: Settings, provider: Provider) -> Settings:
    hangs = request.node.callspec.params.get("fault") == "hangs"
    backends = {**settings.backends, "ext": provider.settings(0.5 if hangs else 5.0)}
    return settings.model_copy(update={"backends": backends})


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """With a sign of life of its worker, so that jobs for this host are taken."""
    _live(engine)
    return engine


def _live(engine: Engine) -> None:
    engine.database.transact(
        lambda connection: seen(
            connection,
            "worker-1",
            host=engine.settings.host,
            pid=1,
            boot_id=None,
            queues=engine.worker.runner.queues,
        )
    )


def _end(engine: Engine, *requests: dict[str, object]) -> dict[str, object]:
    """Do these, one after the other; how the last one ended."""
    for request in requests:
        [job_id] = engine.submit({"backend": "ext", **request, "max_attempts": 1}).job_ids
        engine.work()
    return dict(engine.job(job_id))


def test_a_volume_lives_on_a_provider(engine: Engine, provider: Provider) -> None:
    here = {"host": engine.settings.host}
    for request in (
        create("vm1", "8M", "ext", params={"size_bytes": "8M", "metadata": {"owner": "a"}}),
        grow("vm1", "16M", "ext"),
        act("volume.set_info", "vm1", "ext", params={"info": "originstname+web 1"}),
        act("volume.attach", "vm1", "ext", **here),
        act("volume.open", "vm1", "ext", params={"exclusive": True}, **here),
        grow("vm1", "24M", "ext"),
        act("volume.close", "vm1", "ext", **here),
        act("volume.clone", "copy", "ext", params={"source": "vm1"}),
        act("volume.verify", "vm1", "ext"),
    ):
        ended = _end(engine, request)
        assert ended["state"] == "succeeded", ended
    assert ended["result"]["agrees"]  # type: ignore[index]
    volumes = engine.volumes("ext")
    assert {name: view["size_bytes"] for name, view in volumes.items()} == {
        "vm1": 24 * 2**20,
        "copy": 24 * 2**20,
    }
    assert volumes["vm1"]["metadata"] == {"owner": "a", "info": "originstname+web 1"}
    [told] = provider.images.glob("*.info")
    assert told.read_text() == "originstname+web_1\n"
    for request in (
        act("volume.detach", "vm1", "ext", **here),
        act("volume.remove", "vm1", "ext"),
        act("volume.remove", "copy", "ext"),
    ):
        ended = _end(engine, request)
        assert ended["state"] == "succeeded", ended
    assert list(provider.images.iterdir()) == []


HOLDS_OUTPUT = """#!/bin/sh
. ./common.sh
sleep 1000 &
device=$(device_of "$image")
[ -n "$device" ] || losetup --find --show "$image"
"""
SPOILT: dict[str, tuple[str, str, str]] = {
    # script, what it is instead, what is told
    "hangs": ("attach", "#!/bin/sh\nsleep 1000\n", "did not end within 0.5 s and was killed"),
    "hangs with children": ("attach", "#!/bin/sh\nsleep 1000 | sleep 1001\n", "did not end"),
    "chatters": ("attach", "#!/bin/sh\necho Mapping now\n", "'Mapping now' where the path"),
    "names nothing": ("attach", "#!/bin/sh\necho /dev/no-such\n", "which is not there"),
    "names a file": ("attach", "#!/bin/sh\necho /etc/passwd\n", "no block device"),
    "blank at the end": ("attach", "#!/bin/sh\necho '/dev/no '\n", "with blanks at its end"),
    "prints nothing": ("attach", "#!/bin/sh\n", "prints nothing"),
    "does nothing": ("create", "#!/bin/sh\nexit 0\n", "ended with success, and what it should"),
    "no interpreter": ("create", "#!/no/such/sh\n", "names /no/such/sh, which is not there"),
    "holds output": ("attach", HOLDS_OUTPUT, "left a process that holds its output open"),
    "is killed": ("create", "#!/bin/sh\nkill -9 $$\n", "was killed by signal 9 (SIGKILL)"),
    "prints rubbish": ("attach", "#!/bin/sh\nprintf '\\377\\376\\001'\n", "no text"),
    "fails with rubbish": (
        "create",
        "#!/bin/sh\nprintf 'pool is gone\\377\\001\\n' >&2; exit 3\n",
        "ended with status 3; its log: pool is gone",
    ),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.slow)
        # Their time is waited for until it is over.
        if name in ("hangs with children", "holds output")
        else name
        for name in SPOILT
    ],
)
def test_a_provider_at_fault_fails_the_job_with_what_to_mend(
    engine: Engine, provider: Provider, fault: str
) -> None:
    script, body, told = SPOILT[fault]
    provider.replace(script, body)
    ended = _end(engine, create("vm1", "8M", "ext"))
    assert ended["state"] == "failed", ended
    assert told in ended["error"]["detail"]  # type: ignore[index]
    assert provider.processes() == []
    assert list(provider.images.iterdir()) == []
    assert engine.volumes("ext") == {}


def test_a_grow_that_does_nothing_is_told(engine: Engine, provider: Provider) -> None:
    provider.replace("grow", "#!/bin/sh\nexit 0\n")
    ended = _end(engine, create("vm1", "8M", "ext"), grow("vm1", "16M", "ext"))
    assert ended["state"] == "failed"
    assert "not the 16777216 asked for" in ended["error"]["detail"]  # type: ignore[index]
    assert engine.volumes("ext")["vm1"]["size_bytes"] == 8 * 2**20


def test_a_removal_that_does_nothing_is_told(engine: Engine, provider: Provider) -> None:
    provider.replace("remove", "#!/bin/sh\nexit 0\n")
    ended = _end(engine, create("vm1", "8M", "ext"), act("volume.remove", "vm1", "ext"))
    assert ended["state"] == "failed"
    assert "can still be attached" in ended["error"]["detail"]  # type: ignore[index]


def test_what_a_provider_lacks_is_refused_at_submission(
    settings: Settings, provider: Provider
) -> None:
    for script in ("snapshot", "open"):
        (provider.directory / script).unlink()
    engine = Engine(settings, Database(settings.database_url))
    _live(engine)
    try:
        _end(engine, create("vm1", "8M", "ext"))
        for request in (
            act("volume.clone", "copy", "ext", params={"source": "vm1"}),
            act("volume.open", "vm1", "ext", host=settings.host),
            act("volume.attach", "vm1", "ext", host=settings.host, params={"read_only": True}),
            act("snapshot.create", "vm1", "ext", snapshot="s"),
        ):
            with pytest.raises(Unsupported):
                engine.submit(request)
    finally:
        engine.close()


def test_diagnose_tells_what_is_wrong_with_each_provider(
    engine: Engine, provider: Provider
) -> None:
    broken = provider.directory.with_name("broken")
    shutil.copytree(provider.directory, broken)
    (broken / "grow").unlink()
    [job_id] = engine.submit({"action": "backend.diagnose", "backend": "ext"}).job_ids
    engine.work()
    result = engine.job(job_id)["result"]
    assert result["host"] == engine.settings.host
    told = {one["name"]: one for one in result["found"]}
    assert told["sparse"]["usable"]
    assert told["sparse"]["parameters"] == {"path": "A directory that holds the images."}
    assert told["broken"]["faults"] == [f"{broken / 'grow'} is missing"]
    assert not told["broken"]["usable"]
    with pytest.raises(Unsupported):
        engine.submit({"action": "backend.diagnose", "backend": "fast"})


def test_diagnose_tells_which_provider_is_hidden_by_another(
    settings: Settings, provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = tmp_path / "later"
    shutil.copytree(provider.directory, later / "sparse")
    shutil.copytree(provider.directory, later / "other")
    # What is no directory hides nothing.
    (provider.directory.parent / "other").write_text("")
    given = provider.settings().model_dump()
    given["search_path"] = [*given["search_path"], later]
    backends = {**settings.backends, "ext": BackendSettings.model_validate(given)}
    engine = Engine(
        settings.model_copy(update={"backends": backends}), Database(settings.database_url)
    )
    try:
        [job_id] = engine.submit({"action": "backend.diagnose", "backend": "ext"}).job_ids
        engine.work()
        job = engine.job(job_id)
    finally:
        engine.close()
    told = {one["path"]: (one["usable"], one["hidden_by"]) for one in job["result"]["found"]}
    assert told == {
        str(provider.directory): (True, None),
        str(provider.directory.with_name("other")): (False, None),
        str(later / "sparse"): (False, str(provider.directory)),
        str(later / "other"): (True, None),
    }
    print_things({"found": job["result"]["found"]})
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) < 200
    assert lines.count("found:") == 4
    assert f"hidden_by   {provider.directory}" in lines


def test_verify_runs_the_providers_own(engine: Engine, provider: Provider) -> None:
    provider.replace("verify", '#!/bin/sh\necho "bad: $*" >&2\nexit 1\n')
    [job_id] = engine.submit({"action": "backend.verify", "backend": "ext"}).job_ids
    engine.work()
    job = engine.job(job_id)
    assert job["state"] == "failed"
    assert "its log: bad: path" in job["error"]["detail"]


def test_a_volume_has_values_of_its_own_for_the_parameters(
    engine: Engine, provider: Provider
) -> None:
    images = provider.images.with_name("other images")
    images.mkdir()
    with pytest.raises(UnknownParameter) as caught:
        engine.submit(_with_parameters("vm1", {"pool": "x"}))
    assert caught.value.field == "params.parameters.pool"
    ended = _end(
        engine,
        _with_parameters("vm1", {"path": str(images)}),
        grow("vm1", "16M", "ext"),
        act("volume.clone", "copy", "ext", params={"source": "vm1"}),
    )
    try:
        assert ended["state"] == "succeeded"
        assert [image.stat().st_size for image in images.glob("*.img")] == [16 * 2**20] * 2
        for name in ("vm1", "copy"):
            assert engine.volumes("ext")[name]["parameters"] == {"path": str(images)}
            assert _end(engine, act("volume.remove", name, "ext"))["state"] == "succeeded"
        assert list(images.iterdir()) == []
        assert list(provider.images.iterdir()) == []
    finally:
        release_loops(images)


def _with_parameters(volume: str, parameters: dict[str, str]) -> dict[str, object]:
    return {
        **create(volume, "8M", "ext"),
        "params": {"size_bytes": "8M", "parameters": parameters},
    }


def test_what_somebody_uses_is_neither_removed_nor_detached(
    engine: Engine, provider: Provider
) -> None:
    assert _end(engine, create("vm1", "8M", "ext"))["state"] == "succeeded"
    [image] = provider.images.glob("*.img")
    # Attached and opened by a person, which nobody has noted.
    attached = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    )
    device = attached.stdout.strip()
    with Path(device).open("rb") as opened:
        holder = subprocess.Popen(["sleep", "1000"], stdin=opened)
    try:
        for request in (
            act("volume.remove", "vm1", "ext"),
            act("volume.wipe", "vm1", "ext"),
        ):
            ended = _end(engine, request)
            assert ended["state"] == "failed"
            assert f"held open by process {holder.pid} (sleep)" in ended["error"]["detail"]  # type: ignore[index]
        assert _end(engine, grow("vm1", "16M", "ext"))["state"] == "succeeded"
        assert Path(f"/sys/class/block/{Path(device).name}/loop/backing_file").exists()
    finally:
        holder.kill()
        holder.wait()
    assert _end(engine, act("volume.remove", "vm1", "ext"))["state"] == "succeeded"
    assert list(provider.images.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_told(engine: Engine, provider: Provider) -> None:
    shutil.rmtree(provider.room, ignore_errors=True)
    provider.room.write_text("not a directory")
    waiting = _end(engine, create("vm1", "8M", "ext"))
    assert waiting["state"] == "waiting"
    assert f"{provider.room}" in waiting["error"]["detail"]  # type: ignore[index]
    assert "'path' of the backend" in waiting["error"]["detail"]  # type: ignore[index]
    provider.room.unlink()
    engine.time_passes()
    engine.work()
    assert engine.volumes("ext") == {}


def test_a_secret_parameter_is_told_to_scripts_alone(
    engine: Engine, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAN_PASSWORD", "correct horse")
    (provider.directory / "parameters.list").write_text("path Images\npassword For the array\n")
    provider.replace("create", '#!/bin/sh\necho "login with $EXTP_PASSWORD failed" >&2\nexit 1\n')
    given = provider.settings().model_dump()
    given["parameters"] = {**given["parameters"], "password": {"env": "SAN_PASSWORD"}}
    backend = BackendSettings.model_validate(given)
    assert "correct horse" not in repr(backend.options)
    settings = engine.settings.model_copy(
        update={"backends": {**engine.settings.backends, "ext": backend}}
    )
    other = Engine(settings, engine.database)
    try:
        ended = _end(other, create("vm1", "8M", "ext"))
    finally:
        other.worker.close()
    assert ended["error"]["detail"].endswith("its log: login with … failed")  # type: ignore[index]


def test_scripts_see_their_variables_and_nothing_of_the_workers(
    engine: Engine, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "x")
    body = (provider.directory / "create").read_text()
    told = provider.room / "told"
    provider.replace("create", f"#!/bin/sh\nenv >{told}\nls -l /proc/self/fd >&2\n" + body)
    assert _end(engine, create("vm1", "8M", "ext"))["state"] == "succeeded"
    volume = engine.volumes("ext")["vm1"]
    seen = dict(line.split("=", 1) for line in told.read_text().splitlines())
    assert {name: seen.pop(name) for name in list(seen) if name.startswith(("VOL_", "EXTP_"))} == {
        "VOL_NAME": volume["id"],
        "VOL_CNAME": "vm1",
        "VOL_UUID": str(UUID(volume["id"])),
        "VOL_SIZE": "8",
        "EXTP_PROVIDER": "sparse",
        "EXTP_ACCESS": "kernelspace",
        "EXTP_PATH": str(provider.images),
    }
    assert seen.pop("LC_ALL") == "C"
    assert set(seen) <= {"PATH", "HOME", "PWD", "OLDPWD", "_", "SHLVL"}


def test_what_another_host_had_half_filled_is_left_and_can_be_removed(
    engine: Engine, provider: Provider
) -> None:
    """Whose it is cannot be known: nothing of it is touched before somebody says so."""
    _end(engine, {**create("source"), "backend": "ram"})
    params = {"source": "source", "source_backend": "ram"}
    [job_id] = engine.submit(act("volume.copy", "copy", "ext", params=params)).job_ids
    with engine.database.read() as connection:
        new = connection.execute(select(jobs.c.volume_id).where(jobs.c.id == job_id)).scalar_one()
    # What is left of the other host's attempt: the volume, and nothing written about it here.
    image, half = provider.images / f"{new}.img", b"half".ljust(2**20, b"\0")
    image.write_bytes(half)
    engine.work()
    job = engine.job(job_id)
    assert job["state"] == "failed"
    assert "is there already" in job["error"]["detail"]
    assert "it was left" in job["error"]["detail"]
    assert image.read_bytes() == half
    assert engine.volumes("ext")["copy"]["state"] == "error"
    assert _end(engine, act("volume.remove", "copy", "ext"))["state"] == "succeeded"
    assert (image.exists(), engine.volumes("ext")) == (False, {})


def test_a_volume_whose_provider_fails_stays_in_the_inventory(
    engine: Engine, provider: Provider
) -> None:
    assert _end(engine, create("vm1", "8M", "ext"))["state"] == "succeeded"
    [image] = provider.images.glob("*.img")
    kept = {
        path: path.read_text()
        for path in provider.directory.iterdir()
        if path.stat().st_mode & 0o100
    }
    for script in kept:
        script.write_text("#!/bin/sh\necho the array does not answer >&2\nexit 1\n")
    for params in ({"wipe": True}, {}):
        ended = _end(engine, act("volume.remove", "vm1", "ext", params=params))
        assert ended["state"] == "failed"
        assert "the array does not answer" in ended["error"]["detail"]  # type: ignore[index]
        assert engine.volumes("ext")["vm1"]["state"] == "error"
        assert image.exists()
    for script, body in kept.items():
        script.write_text(body)
    ended = _end(engine, act("volume.remove", "vm1", "ext", params={"wipe": True}))
    assert ended["state"] == "succeeded", ended
    # What is gone cannot be attached: that is how its end is seen.
    [seen] = ended["result"].pop("output")  # type: ignore[attr-defined]
    assert seen["said"].startswith("there is no ")
    assert ended["result"] == {"removed": True, "wiped": True, "wiped_bytes": 8 * 2**20}
    assert (list(provider.images.iterdir()), engine.volumes("ext")) == ([], {})


def test_what_a_failed_create_left_is_taken_away_once_the_provider_can(
    engine: Engine, provider: Provider
) -> None:
    """The engine does that by itself, for the job that has made it."""
    kept = {name: (provider.directory / name).read_text() for name in ("attach", "remove")}
    for script in kept:
        provider.replace(script, "#!/bin/sh\necho the array does not answer >&2\nexit 1\n")
    ended = _end(engine, create("vm1", "8M", "ext"))
    assert ended["state"] == "failed"
    assert "could not be taken away" in ended["error"]["detail"]  # type: ignore[index]
    [image] = provider.images.glob("*.img")
    settled = Settled(engine)
    for _ in range(2):
        settled.look_again()
        assert engine.volumes("ext")["vm1"]["state"] == "error"
        assert image.exists()
    for script, body in kept.items():
        provider.replace(script, body)
    settled.look_again()
    settled.scheduler.close()
    assert (list(provider.images.iterdir()), engine.volumes("ext")) == ([], {})


def test_the_log_of_a_script_has_no_secret_in_it(
    engine: Engine, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "it's a $ecret"
    monkeypatch.setenv("SAN_PASSWORD", secret)
    (provider.directory / "parameters.list").write_text("path Images\npassword For the array\n")
    body = (provider.directory / "attach").read_text()
    spoilt = '#!/bin/bash\nenv >&2\nset >&2\nset -x\n: "$EXTP_PASSWORD"\nset +x\n'
    filler = "yes 0123456789 | head -c 1048560 >&2; printenv EXTP_PASSWORD >&2\n"
    provider.replace("attach", spoilt + filler + body)
    given = provider.settings().model_dump()
    given["parameters"] = {**given["parameters"], "password": {"env": "SAN_PASSWORD"}}
    settings = engine.settings.model_copy(
        update={
            "backends": {**engine.settings.backends, "ext": BackendSettings.model_validate(given)}
        }
    )
    other = Engine(settings, engine.database)
    try:
        assert _end(other, create("vm1", "8M", "ext"))["state"] == "succeeded"
    finally:
        other.worker.close()
    logs = list((provider.room / "ext" / "log").glob("attach-*.log"))
    assert logs
    for log in logs:
        text = log.read_text()
        assert "EXTP_PASSWORD=…" in text
        assert str(provider.images) in text  # which is none
        assert "ecret" not in text
        assert log.stat().st_mode & 0o777 == 0o600
