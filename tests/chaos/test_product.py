"""The whole product, broken while everything is done to it: servers, messages, disks, clients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.acceptance.conftest import free_port
from tests.chaos import invariants
from tests.chaos.armed import Armed
from tests.chaos.cases import BACKEND, MIB, Request
from tests.chaos.choice import CHOICE
from tests.chaos.conftest import Places
from tests.chaos.load import Load
from tests.chaos.processes import until
from tests.chaos.product import Shaken, accept, names_of
from tests.chaos.servers import FragilePostgres, SmallFileSystem
from tests.chaos.storm import Storm, empty_broker
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.slow

_LONG = pytest.mark.skipif(not CHOICE.long, reason="part of the long form: make chaos")
DATABASES = pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"])
_EMPTIED = 10
_QUEUE = f"backend.{BACKEND}"
_SMALL_MIB = 32
_POSTGRESQL_MIB = 400


@contextmanager
def _product(
    places: Places,
    tmp_path: Path,
    driver: str,
    database: str,
    *,
    postgres: FragilePostgres | None = None,
    **options: Any,
) -> Iterator[Shaken]:
    name, url = f"product_{free_port()}", None
    if database == "postgresql":
        postgres = postgres or places.postgres()
        postgres.create_database(name)
        url = postgres.url(name)
    made = Shaken(tmp_path / "product", driver, url, **options)
    try:
        made.start()
        yield made
    except BaseException as error:
        error.add_note(CHOICE.told)
        error.add_note(made.log.read_text(errors="replace")[-6000:])
        raise
    finally:
        made.end()
        if postgres is not None:
            postgres.drop_database(name)


def _create(volume: str) -> Request:
    return {
        "action": "volume.create",
        "backend": BACKEND,
        "volume": volume,
        "params": {"size_bytes": MIB},
    }


def _submit(product: Shaken, request: Request) -> int:
    with product.client() as http:
        job = accept(product, http, request, f"{request['action']}-{request.get('volume')}")
    product.asked.append((job["id"], request))
    return int(job["id"])


def _state(product: Shaken, job_id: int) -> str:
    with product.client() as http:
        return str(http.get(f"/v1/jobs/{job_id}").json()["state"])


def _succeeds(product: Shaken, job_id: int) -> None:
    until(lambda: _state(product, job_id) == "succeeded", f"job {job_id} succeeds")


def _check(product: Shaken, *, may_fail: bool = False) -> None:
    """Everything accepted ended, and well unless it ``may_fail``; what must hold holds."""
    product.wait_for_the_end()
    # Numbers are given in the order of commits: once this one has its, all before have theirs.
    last = _submit(product, {"action": "backend.resume", "backend": BACKEND})
    _succeeds(product, last)
    until(lambda: _is_numbered(product, last), "all events are numbered")
    expected = {job_id: "succeeded" for job_id, _ in product.asked}
    invariants.check(product, {} if may_fail else expected, names_of(product.asked))


def _is_numbered(product: Shaken, job_id: int) -> bool:
    with product.client() as http:
        events = http.get(f"/v1/jobs/{job_id}/events").json()["items"]
    return all(event["number"] is not None for event in events)


def _until_accepted(load: Load, count: int) -> None:
    until(lambda: load.accepted >= count or load.over, f"{count} requests are accepted")


def _until_left(product: Shaken, count: int) -> None:
    until(lambda: product.unfinished() <= count, f"no more than {count} jobs are left")


@DATABASES
@pytest.mark.parametrize("driver", ["memory", "file"])
@pytest.mark.slow
@pytest.mark.timeout(600)
@_LONG
def test_a_storm_over_everything(
    places: Places, tmp_path: Path, database_kind: str, driver: str
) -> None:
    _storm(places, tmp_path, driver, database_kind, CHOICE.seed, volumes=12, strikes=30)


@DATABASES
@pytest.mark.parametrize("seed", CHOICE.storms)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_storm(places: Places, tmp_path: Path, database_kind: str, seed: int) -> None:
    """As many of them as one likes: ``make storm SEEDS=1-50``; drivers take turns."""
    driver = ("memory", "file")[seed % 2]
    _storm(places, tmp_path, driver, database_kind, seed, volumes=5, strikes=15)


def _storm(
    places: Places,
    tmp_path: Path,
    driver: str,
    database: str,
    seed: int,
    *,
    volumes: int,
    strikes: int,
) -> None:
    chance = random.Random(f"{seed} storm {database} {driver}")
    with _product(places, tmp_path, driver, database) as product:
        postgres = places.postgres() if database == "postgresql" else None
        storm = Storm(product, chance, postgres)
        load = Load(product, chance, volumes=volumes)
        load.start()
        try:
            for number in range(1, strikes + 1):
                share = number * load.wanted // (strikes + 1)
                _until_accepted(load, share)
                storm.strike()
            load.join()
            storm.end()
            _check(product)
        except BaseException as error:
            error.add_note("\n".join(storm.told))
            error.add_note(f"Again: make storm SEEDS={seed} ARGS='--database {database}'")
            raise


@pytest.mark.parametrize(
    "database_kind", ["sqlite", "postgresql"] if CHOICE.long else ["postgresql"]
)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_broker_emptied_ten_times_and_workers_killed_lose_and_repeat_nothing(
    places: Places, tmp_path: Path, database_kind: str
) -> None:
    count = 5000 if CHOICE.long else 500
    chance = CHOICE.random(f"emptied {database_kind}")
    with _product(places, tmp_path, "memory", database_kind, delay=0.01) as product:
        requests = [_create(f"b{number}") for number in range(count)]
        with product.client() as http:
            batch = accept(product, http, {"jobs": requests}, "batch", "/v1/batches")
        product.asked += zip(batch["job_ids"], requests, strict=True)
        killed = 0
        for time in range(1, _EMPTIED + 1):
            most = count - time * count // (_EMPTIED + 1)
            _until_left(product, most)
            empty_broker(product)
            if chance.random() < 0.5 and killed < 4:
                killed += product.kill("worker", chance.randrange(9)) > 0
        _check(product)
        with product.client() as http:
            batch = http.get(f"/v1/batches/{batch['id']}").json()
        assert (batch["succeeded"], batch["total"]) == (count, count)


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"] if CHOICE.long else ["sqlite"])
def test_messages_that_come_twice_and_late_do_nothing(
    places: Places, tmp_path: Path, database_kind: str
) -> None:
    with _product(places, tmp_path, "memory", database_kind, look_seconds=3600.0) as product:
        paused = Armed(product.failpoints, "woken", "worker.woken", "pause")
        with redis.Redis(unix_socket_path=str(product.broker_socket())) as broker:
            with broker.monitor() as watching:
                first = _submit(product, _create("a"))
                message = _next_message(watching)
            until(lambda: paused.fired, "a worker is woken")
            for _ in range(5):
                broker.lpush(_QUEUE, message)
            _succeeds(product, first)
            paused.release()
            grow = {"action": "volume.grow", "backend": BACKEND, "volume": "a"}
            _succeeds(product, _submit(product, {**grow, "params": {"size_bytes": 2 * MIB}}))
            for _ in range(5):
                broker.lpush(_QUEUE, message)
            until(lambda: not broker.llen(_QUEUE), "the late ones are taken")
        _submit(product, _create("b"))
        _check(product)


def _next_message(watching: Any) -> str:
    """The next message that is put into the backend's queue, as it is."""
    for command in watching.listen():
        verb, *arguments = command["command"].split(" ", 2)
        if verb == "LPUSH" and arguments[0] == _QUEUE:
            return str(arguments[1])
    raise AssertionError("the broker has stopped talking")


@_LONG
@DATABASES
def test_a_driver_that_hangs_holds_up_nobody_else(
    places: Places, tmp_path: Path, database_kind: str
) -> None:
    with _product(places, tmp_path, "memory", database_kind) as product:
        faults = Faults(BACKEND, product.storage.driver.installation)
        faults.set(operation="create", name_pattern="slow", kind="hang")
        hanging = _submit(product, _create("slow"))
        until(lambda: _state(product, hanging) == "running", "it hangs")
        for name in ("a", "b", "c"):
            job = _submit(product, _create(name))
            _succeeds(product, job)
        assert _state(product, hanging) == "running"
        faults.clear()
        _check(product)


@_LONG
@DATABASES
@pytest.mark.parametrize("full", ["broker", "database", "storage"])
def test_a_full_disk_loses_nothing_that_was_accepted(
    places: Places, tmp_path: Path, mountable: bool, database_kind: str, full: str
) -> None:
    """What is accepted meanwhile ends; what cannot be accepted is refused, and accepted later."""
    if not mountable:
        pytest.skip("this machine lets us mount no small file system")
    driver = "file" if full == "storage" else "memory"
    with ExitStack() as taken_down:
        disk, postgres = _small_disk(taken_down, places, tmp_path, database_kind, full)
        product = taken_down.enter_context(
            _product(
                places,
                tmp_path,
                driver,
                database_kind,
                postgres=postgres,
                volumes=disk.path / "volumes" if full == "storage" else None,
            )
        )
        for name in ("a", "b"):
            _succeeds(product, _submit(product, _create(name)))
        grow = {"action": "volume.grow", "backend": BACKEND, "params": {"size_bytes": 2 * MIB}}
        requests = [
            {**grow, "volume": "a"},
            _create("c"),
            {"action": "volume.remove", "backend": BACKEND, "volume": "b"},
        ]
        with disk.full():
            for number, request in enumerate(requests):
                with suppress(httpx.HTTPError), product.client() as http:
                    key = {"Idempotency-Key": f"full-{number}"}
                    http.post("/v1/jobs", json=request, headers={**key, "Prefer": "wait=2"})
        if postgres is not None:
            # It gives up where it cannot write its log; whoever runs it starts it again.
            postgres.restart()
        for number, request in enumerate(requests):
            with product.client() as http:
                job = accept(product, http, request, f"full-{number}")
            product.asked.append((job["id"], request))
        _check(product, may_fail=full == "storage")


def _small_disk(
    taken_down: ExitStack, places: Places, tmp_path: Path, database: str, full: str
) -> tuple[SmallFileSystem, FragilePostgres | None]:
    """The small file system below what shall be full, and PostgreSQL if it stands on that."""
    below = tmp_path / "product"
    if full == "database" and database == "postgresql":
        # Where one who is not root may go, too.
        disk = SmallFileSystem(places.directory / "small", _POSTGRESQL_MIB)
        taken_down.callback(disk.close)
        disk.path.chmod(0o755)
        postgres = FragilePostgres()
        postgres.start_in(disk.path)
        taken_down.callback(postgres.stop)
        return disk, postgres
    small = {"broker": below / "data/broker", "database": below / "data"}
    at = small.get(full, tmp_path / "small")
    at.parent.mkdir(parents=True, exist_ok=True)
    disk = SmallFileSystem(at, _SMALL_MIB)
    taken_down.callback(disk.close)
    if full == "storage":
        (disk.path / "volumes").mkdir()
    return disk, None


@_LONG
@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("look_seconds", "without", "ends"),
    [(1.0, "relay", True), (3600.0, None, True), (3600.0, "relay", False)],
    ids=["workers look", "the scheduler looks", "nobody looks"],
)
def test_a_lost_message_is_found_by_two_who_look_for_it(
    places: Places,
    tmp_path: Path,
    database_kind: str,
    look_seconds: float,
    without: str | None,
    ends: bool,
) -> None:
    """And by nobody where both are switched off: then this matrix says so."""
    here = Path(__file__).parent
    env = {"PYTHONPATH": f"{here / 'preloaded'}:{here.parents[1]}"}
    if without is not None:
        env["CHAOS_WITHOUT"] = without
    with _product(
        places, tmp_path, "memory", database_kind, look_seconds=look_seconds, env=env
    ) as product:
        died = Armed(product.failpoints, "api", "submit.after_commit", "crash")
        with pytest.raises(httpx.HTTPError), product.client() as http:
            http.post("/v1/jobs", json=_create("lost"), headers={"Idempotency-Key": "k"})
        assert died.fired
        with product.client() as http:
            job = accept(product, http, _create("lost"), "k")
        product.asked.append((job["id"], _create("lost")))
        if ends:
            _check(product)
            return
        # Whoever is woken works; nobody is woken for the lost one.
        other = {"action": "backend.resume", "backend": BACKEND}
        for _ in range(3):
            with product.client() as http:
                told = accept(product, http, other, f"resume-{len(product.asked)}")
            product.asked.append((told["id"], other))
            _succeeds(product, told["id"])
        assert _state(product, job["id"]) == "queued"
        product.settle()
        with pytest.raises(invariants.Broken, match="is queued for ever"):
            invariants.check(product, {}, [])
