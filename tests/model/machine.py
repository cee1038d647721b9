"""Random use of the engine, with random accidents, against the model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from orchestrator.actions.requests import JobRequest, parse_request
from orchestrator.domain.errors import DependencyFailed, IdempotencyMismatch, JobEnded, Problem
from orchestrator.jobs.cancel import cancel, cancel_batch, set_priority
from orchestrator.jobs.retry import retry_request
from orchestrator.resources.volume import locks
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import ADMIN
from tests.model.checks import check_all
from tests.model.history import TOLD_AS, History, Job
from tests.model.inventory import Inventory, copied, do, refusal
from tests.model.life import CHANGES, LOOKS
from tests.model.world import BACKEND, LAST, SCHEDULER, WORKERS, Worker, World

MIB = 2**20
SIZES = (MIB, MIB + 1, 2 * MIB, 3 * MIB, 5 * MIB)
NAMES = ("a", "b", "c")
SNAPSHOTS = ("s", "t")
HOSTS = ("alpha", "beta")
#: Start times and ends of locks are ``SOON`` or ``LATER``; a jump takes the clock past one.
SOON, LATER = 1000.0, 20_000.0
ACTIONS = (
    "volume.create",
    "volume.clone",
    "volume.grow",
    "volume.grow",
    "volume.update",
    "volume.rename",
    "volume.rollback",
    "volume.wipe",
    "volume.restrict",
    "volume.unrestrict",
    "volume.remove",
    "volume.remove",
    "volume.purge",
    "volume.verify",
    "volume.attach",
    "volume.detach",
    "snapshot.create",
    "snapshot.create",
    "snapshot.delete",
)
OPTIONS: dict[str, list[Any]] = {
    "priority": [-1, 1],
    "after": ["end"],
    "max_attempts": [1, 2],
    "run_at": [SOON, LATER],
    "host": list(HOSTS),
    "depends_on": [1, 2, 3, 4],
    # Sent though the model says no.
    "reckless": [True],
}
JUMPS = (2 * SOON, 2 * LATER, -3 * SOON)
#: How often time passes at the end until all must have come to rest.
ROUNDS = 60
LOCKING = ("take", "take", "take for a while", "release", "break")

#: A wish is told by a number, and by how many there were before: so a run costs Hypothesis few
#: choices, is shrunk by leaving steps out, and does not say the same over and over.
Wish = int
_wishes: st.SearchStrategy[Wish] = st.integers(0, 2**23)
#: How many requests a wish is made of; the first that the model accepts is sent.
CANDIDATES = 8

_volumes = st.sampled_from("aaabbc")  # often the same
_workers = st.sampled_from(WORKERS)


def candidates(wish: Wish, before: int) -> list[dict[str, Any]]:
    """The requests of a wish. ``run_at`` and ``depends_on`` count from now and from the last."""
    choose = random.Random(f"{wish} {before}")
    return [_candidate(choose) for _ in range(CANDIDATES)]


def _candidate(choose: random.Random) -> dict[str, Any]:
    kind, verb = choose.choice(ACTIONS).split(".")
    request: dict[str, Any] = {"action": f"{kind}.{verb}", "backend": BACKEND}
    request["volume"] = choose.choice("aaabbc")
    size, snapshot = choose.choice(SIZES), choose.choice(SNAPSHOTS)
    params: dict[str, Any] = {}
    if kind == "snapshot" or verb == "rollback" or (verb == "clone" and choose.random() < 0.5):
        request["snapshot"] = snapshot
    if verb in ("create", "grow") and kind == "volume":
        params["size_bytes"] = size
    elif verb == "clone":
        params["source"] = choose.choice([name for name in NAMES if name != request["volume"]])
        params |= {"size_bytes": size} if choose.random() < 0.5 else {}
    elif verb == "rename":
        free = [name for name in (*NAMES, "d") if name != request["volume"]]
        params["new_name"] = choose.choice(free)
    elif verb == "update":
        params["metadata"] = {choose.choice("kl"): choose.choice(["x", "y", None])}
    elif verb == "rollback":
        params["discard_newer"] = choose.random() < 0.5
    elif verb in ("attach", "detach"):
        request["host"] = "alpha"
        params |= {"read_only": choose.random() < 0.5} if verb == "attach" else {}
    return request | ({"params": params} if params else {}) | _options(choose, request)


def _options(choose: random.Random, request: dict[str, Any]) -> dict[str, Any]:
    """What is said of a job beside its action; of most nothing."""
    options: dict[str, Any] = {}
    for name, values in OPTIONS.items():
        if name not in request and choose.random() < 0.08:
            options[name] = choose.choice(values)
    return options


#: What drivers call it, where that is not the action's verb.
OPERATIONS = {
    "snapshot.create": "create_snapshot",
    "snapshot.delete": "delete_snapshot",
    "volume.update": "set_metadata",
    "volume.purge": "remove",
    "volume.restrict": "devices",
    "volume.unrestrict": "inspect",
    "volume.verify": "inspect",
}
FAULTS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["fail", "unavailable", "lost reply"]),
        "operation": st.sampled_from([*LOOKS, *CHANGES, "*"]),
        "when": st.sampled_from(["before", "after"]),
        "times": st.integers(1, 3),
    }
)


_Call = tuple[Any, ...]


def _some(*shares: tuple[Any, ...]) -> st.SearchStrategy[_Call]:
    """Calls of the machine's methods; each share says how often, which, with what arguments."""
    drawn = [place for place, (share, *_) in enumerate(shares) for _ in range(share)]

    def call(place: int) -> st.SearchStrategy[_Call]:
        _, name, *arguments = shares[place]
        return st.tuples(st.just(name), *arguments) if isinstance(name, str) else name

    return st.sampled_from(drawn).flatmap(call)


_back = st.integers(1, 8)
_points = st.sampled_from(range(1, 26))

#: What users do beside submitting.
MEDDLING = _some(
    (3, "cancel", _back),
    (2, "cancel_batch", st.integers(1, 2)),
    (1, "set_priority", _back, st.integers(-2, 2)),
    (2, "retry", _back),
    (1, "send_again", _back, st.booleans()),
    (3, "lock", _volumes, st.sampled_from(HOSTS), st.sampled_from(LOCKING)),
    (2, "write", _volumes, st.sampled_from([b"1", b"22", b"333"])),
)
WORK = _some(
    (3, "step", _workers, _points),
    (2, "run", _workers),
    (1, "clocks", _workers, st.booleans()),
)
ACCIDENTS = _some(
    (3, "fault", FAULTS),
    (8, "goes_wrong", _wishes, FAULTS, st.integers(0, 3), _workers),
    (1, "die", _workers),
    (6, "fails_midway", _wishes, _workers, _points),
    (10, "is_overtaken", _wishes, _workers, _points, st.none() | _points, st.integers(0, 3)),
    (4, "is_canceled", _wishes, _workers, _points),
    (1, "shut_down", _workers),
    (2, "jump", st.sampled_from(JUMPS)),
    (2, "schedule", st.sampled_from(list(SCHEDULER)), st.integers(1, 2)),
    (3, "time_passes"),
    (1, "drain", st.sampled_from(["drain", "resume"])),
)
HAPPENINGS = _some(
    (24, "submit", _wishes),
    (8, "submit_batch", _wishes),
    (22, WORK),
    (14, MEDDLING),
    (32, ACCIDENTS),
)


class EngineMachine(RuleBasedStateMachine):
    """One run. ``world`` is set by the test."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.begin()
        self.history = History(self.world)
        #: Ids of accepted jobs and batches, in order.
        self.ids: list[int] = []
        self.batches: list[int] = []
        #: What was submitted under a key, and what came of it.
        self.keys: list[tuple[list[Any], bool, list[int]]] = []
        self.at_the_end = "go on"
        self.wishes = 0
        #: False once a check has failed: then there is nothing to bring to an end.
        self.healthy = True

    @initialize(
        volumes=st.sampled_from(["", "a", "ab", "ab"]),
        end=st.sampled_from(["go on", "come late", "die"]),
    )
    def begin(self, volumes: str, end: str) -> None:
        """Some volumes; and what workers do that are in the middle of something at the end."""
        self.at_the_end = end
        for volume in volumes:
            create = {"action": "volume.create", "backend": BACKEND, "volume": volume}
            self._submit([{**create, "params": {"size_bytes": MIB}}], batch=False)
        if volumes:
            snapshot = {"action": "snapshot.create", "backend": BACKEND, "volume": "a"}
            self._submit([{**snapshot, "snapshot": "s"}], batch=False)
        self.run("one")

    # -- what happens -----------------------------------------------------------------------

    @rule(what=HAPPENINGS)
    def happens(self, what: tuple[Any, ...]) -> None:
        """One rule for all: of several, Hypothesis would leave some out of each run."""
        name, *args = what
        self.healthy = False
        getattr(self, name)(*args)
        self.healthy = True

    # -- submission -------------------------------------------------------------------------

    def submit(self, wish: Wish) -> None:
        """One job: the first candidate that the model would accept, or the last."""
        before = self.world.unfinished()
        for candidate in self._candidates(wish):
            request = self._request(candidate)
            if candidate.get("reckless") or self._accepts(before, [request]):
                break
        self._submit([request], batch=False)

    def submit_batch(self, wish: Wish) -> None:
        """What of the candidates the model accepts, after what comes before it."""
        requests: list[dict[str, Any]] = []
        before = self.world.unfinished()
        for candidate in self._candidates(wish):
            request = self._request(candidate)
            request["ref"] = f"r{len(requests)}"
            back = candidate.get("depends_on", 0)
            if 0 < back <= len(requests):
                request["depends_on"] = [f"r{len(requests) - back}"]
            if candidate.get("reckless") or self._accepts(before, [*requests, request]):
                requests.append(request)
        if requests:
            self._submit(requests, batch=True)

    def _candidates(self, wish: Wish) -> list[dict[str, Any]]:
        self.wishes += 1
        return candidates(wish, self.wishes)

    def _request(self, candidate: dict[str, Any]) -> dict[str, Any]:
        request = {name: value for name, value in candidate.items() if name != "reckless"}
        if "run_at" in request:
            moment = self.world.now() + timedelta(seconds=request["run_at"])
            request["run_at"] = moment.isoformat()
        if "depends_on" in request:
            back = request.pop("depends_on")
            if back <= len(self.ids):
                request["depends_on"] = [self.ids[-back]]
        return request

    def _accepts(self, before: Sequence[Any], requests: list[dict[str, Any]]) -> bool:
        parsed = [parse_request(request) for request in requests]
        return Forecast(self.history, before, parsed, None).refusal is None

    def _submit(self, requests: list[dict[str, Any]], *, batch: bool, bound: Any = None) -> None:
        key = f"key {len(self.keys)}" if bound is None else None
        parsed = [parse_request(request) for request in requests]
        before = self.world.unfinished()
        self.history.read()
        forecast = Forecast(self.history, before, parsed, bound)
        untouched = self.world.fingerprint()
        try:
            accepted = self.world.submit(parsed, batch=batch, key=key, bound=bound)
        except Problem as problem:
            note(f"refused with {problem.code}: {requests}")
            assert self.world.fingerprint() == untouched, "a refused submission left something"
            forecast.was_refused(problem)
            return
        note(f"jobs {accepted.job_ids}: {requests}")
        self.ids += accepted.job_ids
        if accepted.batch_id is not None:
            self.batches.append(accepted.batch_id)
        if key is not None:
            self.keys.append((requests, batch, accepted.job_ids))
        self.history.submitted(accepted.job_ids, before)
        forecast.was_accepted([self.history.jobs[job_id] for job_id in accepted.job_ids])

    def send_again(self, which: int, same: bool) -> None:
        if not self.keys:
            return
        which %= len(self.keys)
        requests, batch, ids = self.keys[which]
        if not same:
            requests = [{**requests[0], "priority": 7}, *requests[1:]]
        before = self.world.fingerprint()
        try:
            answer = self.world.submit(
                [parse_request(request) for request in requests], batch=batch, key=f"key {which}"
            )
            assert same and answer.repeated and answer.job_ids == ids
        except IdempotencyMismatch:
            assert not same
        assert self.world.fingerprint() == before

    def retry(self, back: int) -> None:
        if back > len(self.ids):
            return
        old = self.ids[-back]

        def read(transaction: Transaction) -> Any:
            return retry_request(transaction, old)

        try:
            request, bound = self.world.transact(read)
        except DependencyFailed as problem:
            assert self.history.jobs[problem.facts["job"]].ended in ("failed", "canceled")
            return
        except Problem:
            assert self.history.jobs[old].ended not in ("failed", "canceled")
            return
        written = request.model_dump(mode="json", exclude_none=True)
        self._submit([written], batch=False, bound={0: bound})

    # -- what else users do -----------------------------------------------------------------

    def cancel(self, back: int) -> None:
        if back > len(self.ids):
            return
        job_id = self.ids[-back]
        ended = self.history.jobs[job_id].ended
        self.history.asked.add(job_id)
        try:
            self.world.transact(lambda c: cancel(c, job_id, "tests"))
            assert not ended
        except JobEnded:
            assert ended
        self.history.read()

    def cancel_batch(self, back: int) -> None:
        if back <= len(self.batches):
            batch = self.batches[-back]
            jobs = [job for job in self.history.jobs.values() if job.row["batch_id"] == batch]
            ended = all(job.ended for job in jobs)
            self.history.asked |= {job.id for job in jobs}
            try:
                self.world.transact(lambda c: cancel_batch(c, batch, "tests"))
                assert not ended
            except JobEnded:
                assert ended
            self.history.read()

    def set_priority(self, back: int, priority: int) -> None:
        if back <= len(self.ids) and not self.history.jobs[self.ids[-back]].ended:
            job_id = self.ids[-back]
            self.world.transact(lambda c: set_priority(c, job_id, priority, "tests"))

    def lock(self, volume: str, owner: str, how: str) -> None:
        seconds = SOON if how == "take for a while" else None
        force = how == "break"
        before = self.history.there.get(volume)
        try:
            if how.startswith("take"):
                self.world.transact(
                    lambda c: locks.take(
                        c, BACKEND, volume, owner, ADMIN, reason=None, seconds=seconds
                    )
                )
                if seconds:
                    self.history.lock_ends(volume, self.history.now + seconds)
            else:
                self.world.transact(
                    lambda c: locks.release(
                        c, BACKEND, volume, owner, ADMIN, force=force, reason="tests"
                    )
                )
        except Problem as problem:
            if problem.code == "unknown_volume":
                assert before is None
            if problem.code == "locked":
                assert before and before.lock and before.lock[0] != owner
        self.history.read()

    def write(self, volume: str, text: bytes) -> None:
        """A user writes into a volume that nothing is being done to."""
        there = self.history.there.get(volume)
        at_work = any(
            job.begun and not job.ended and volume in job.names
            for job in self.history.jobs.values()
        )
        if there and there.state == "available" and not at_work and not self.history.doubtful:
            self.world.storage.write(there.id, text)
            self.history.written(there.id, text)

    # -- workers ----------------------------------------------------------------------------

    def step(self, name: str, points: int) -> None:
        """A worker goes on for a while; nobody says that the other one does."""
        worker = self.world.workers[name]
        for _ in range(points):
            self._go_on(worker)
            if not worker.life.busy:
                break
        note(f"{name} is {worker.life.where}")

    def _go_on(self, worker: Worker) -> None:
        worker.step()
        if worker.life.where in ("after a transaction", "idle"):
            self.history.read()

    def _finish(self, worker: Worker) -> None:
        while worker.life.busy:
            self._go_on(worker)

    def run(self, name: str) -> None:
        """A worker goes on until there is nothing left to do."""
        worker = self.world.workers[name]
        self._go_on(worker)
        self._finish(worker)

    def die(self, name: str) -> None:
        self.world.workers[name].close()
        self.history.read()
        self.world.new_worker(name)

    def goes_wrong(self, wish: Wish, fault: dict[str, Any], behind: int, name: str) -> None:
        """A job meets with an accident on the storage; others wait behind it."""
        self.submit(wish)
        if self.ids:
            verb = self.history.jobs[self.ids[-1]].action
            fault = {**fault, "operation": OPERATIONS.get(verb, verb.partition(".")[2])}
        self.fault(fault)
        for _ in range(behind):
            self.submit(wish)
        self.run(name)

    def fails_midway(self, wish: Wish, name: str, points: int) -> None:
        """A worker dies at some point of a job, and time passes."""
        self.submit(wish)
        self.step(name, points)
        self.die(name)
        self.time_passes()

    def is_overtaken(
        self, wish: Wish, name: str, points: int, others: int | None, more: int
    ) -> None:
        """A worker falls silent at some point of a job, others work on, and it wakes up."""
        self.submit(wish)
        self.step(name, points)
        self.time_passes()
        [other] = set(WORKERS) - {name}
        if others is not None:
            self.step(other, others)
        else:
            self.run(other)
            for _ in range(more):
                self.submit(wish)
                self.run(other)
        self._finish(self.world.workers[name])

    def is_canceled(self, wish: Wish, name: str, points: int) -> None:
        """Somebody cancels a job at some point, and its worker hears of it."""
        self.submit(wish)
        self.step(name, points)
        self.cancel(1)
        self.clocks(name, impatient=False)
        self._finish(self.world.workers[name])

    def drain(self, verb: str) -> None:
        """A backend is drained or resumed."""
        self._submit([{"action": f"backend.{verb}", "backend": BACKEND}], batch=False)

    def shut_down(self, name: str) -> None:
        worker = self.world.workers[name]
        worker.leases.stopping.set()
        self._finish(worker)
        worker.close()
        self.world.new_worker(name)

    def clocks(self, name: str, impatient: bool) -> None:
        """What a worker's other threads do, whatever its first one is at."""
        worker = self.world.workers[name]
        if impatient:
            worker.keep_moving()
        worker.beat()
        self.history.read()

    # -- time and accidents -----------------------------------------------------------------

    def jump(self, seconds: float) -> None:
        self.world.jump(seconds)
        self.history.jumped(seconds)

    def schedule(self, step: str, times: int) -> None:
        for _ in range(times):
            self.world.transact(SCHEDULER[step])
            self.history.read()

    def time_passes(self) -> None:
        """Leases run out, start times and ends of back-off come."""
        self.jump(2 * SOON)
        self.schedule("reclaim_expired", 1)
        self.schedule("queue_due", 1)

    def fault(self, fault: dict[str, Any]) -> None:
        self.world.faults.set(**fault)
        self.history.accidents.add(TOLD_AS[fault["kind"]])

    # -- the end ----------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.healthy:
                self.come_to_rest()
                check_all(self.world, self.history)
        finally:
            self.world.end()

    def come_to_rest(self) -> None:
        """Accidents stop, time passes, a worker works: everything must end."""
        self.world.faults.clear()
        for name, worker in self.world.workers.items():
            if self.at_the_end == "go on":
                self._finish(worker)
            elif self.at_the_end == "die":
                worker.close()
                self.world.new_worker(name)
        self.world.new_worker(LAST)
        for _ in range(ROUNDS):
            self._round()
            if not self.world.unfinished():
                break
        else:
            stuck = {
                str(self.history.jobs[row["id"]]): row["state"] for row in self.world.unfinished()
            }
            raise AssertionError(f"these never ended: {stuck}")
        for name in WORKERS:
            self._finish(self.world.workers[name])
        self._schedule_all()

    def _schedule_all(self) -> None:
        for step in SCHEDULER.values():
            self.world.transact(step)
        self.history.read()

    def _round(self) -> None:
        self.jump(2 * LATER)
        self._schedule_all()
        if self.world.draining():
            self._submit([{"action": "backend.resume", "backend": BACKEND}], batch=False)
        self.run(LAST)


class Forecast:
    """What the model says to a submission before it is made."""

    def __init__(
        self, history: History, before: Sequence[Any], requests: Sequence[JobRequest], bound: Any
    ) -> None:
        self._now = history.now
        self._there: Inventory = copied(history.there)
        #: Only a guess: start times, dependencies that may have ended badly, and jobs ahead
        #: that are bound to fail are too much for so simple a model.
        self._vague = bool(history.doubtful) or any(
            request.run_at is not None or request.depends_on for request in requests
        )
        #: By place: the id of the volume that is meant.
        self._meant: dict[int, str] = {}
        for row in before:
            if row["later"]:
                continue
            if refusal(self._there, row) is None:
                do(self._there, row)
            else:
                self._vague = True
        #: The code of the first refusal.
        self.refusal = self._ask(requests, bound or {})

    def _ask(self, requests: Sequence[JobRequest], bound: Any) -> str | None:
        for place, request in enumerate(requests):
            wanted = {
                "action": request.action,
                "volume": request.volume,
                "snapshot": request.snapshot,
                "host": request.host,
                "params": request.stored_params(),
                **dict.fromkeys(("volume_id", "snapshot_id", "source_id")),
                **bound.get(place, {}),
            }
            if (why := refusal(self._there, wanted, self._now)) is not None:
                return why
            if request.action in ("volume.create", "volume.clone"):
                wanted["volume_id"] = f"new {place}"
            elif request.volume is not None:
                self._meant[place] = self._there[request.volume].id
            do(self._there, wanted)
        return None

    def was_refused(self, problem: Problem) -> None:
        told = f"refused with {problem.code}, expected {self.refusal}: {problem.detail}"
        assert self._vague or problem.code == self.refusal, told

    def was_accepted(self, jobs: Sequence[Job]) -> None:
        assert self._vague or self.refusal is None, f"accepted, expected {self.refusal}"
        if self._vague:
            return
        new = {f"new {place}": job.row["volume_id"] for place, job in enumerate(jobs)}
        for place, meant in self._meant.items():
            found = jobs[place].row["volume_id"]
            assert found == new.get(meant, meant), f"{jobs[place]} is bound to {found}"
