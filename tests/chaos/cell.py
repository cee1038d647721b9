"""One cell: an action, a step, a fault; what is done, what happens, and what must hold then."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import func, select

from orchestrator.store.tables import jobs
from tests.chaos import invariants, roles
from tests.chaos.armed import Armed
from tests.chaos.cases import BACKEND, HOST, MIB, READER, ByHand, Case, Request, filled
from tests.chaos.faults import Fault
from tests.chaos.processes import Child, until
from tests.chaos.servers import Broker, FragilePostgres, SmallFileSystem
from tests.chaos.steps import Step, holds_everything, holds_name, must_let_go
from tests.chaos.world import World

_numbers = itertools.count(1)
#: A pass that never comes: the point is only counted.
_COUNT_ONLY = 10**9
#: Seconds between heartbeats where a heartbeat shall come while a job is at work.
_BEAT_SECONDS = 0.02
#: How often a client sends a request again that was answered with an error of the server.
_RESENDS = 3
#: Times that a worker tries to write an outcome before the disk has room again.
_TRIES = 5
#: Rounds that others make while somebody stands in their way.
_TRIES_AGAINST_A_HOLDER = 2


class Surroundings(Protocol):
    """What faults are made with."""

    broker: Broker
    postgres: FragilePostgres | None
    #: The file systems of the storage and of the database, where they are small.
    storage_disk: SmallFileSystem | None
    database_disk: SmallFileSystem | None


@dataclass(frozen=True)
class Cell:
    """What is broken, where and how."""

    role: str
    case: Case
    step: Step
    fault: Fault


class Trial(ABC):
    """A case on its way through one process, which will be broken."""

    def __init__(self, world: World, case: Case, *, followed: bool = True) -> None:
        self.world = world
        self.case = case
        self.follower = case.follower if followed else None
        number = next(_numbers)
        self.names = [f"v{number}", f"w{number}"]
        self.policies = [f"p{number}", f"q{number}"]
        self.expected: dict[int, str] = {}
        self.job_id: int | None = None
        self.victim: Child

    def filled(self, request: Request) -> Request:
        """A request of the case with this cell's names."""
        names = [*self.names, *self.policies, str(self.world.exchange)]
        own = dict(zip(("{v}", "{w}", "{p}", "{q}", "{x}"), names, strict=True))

        def fill(text: str) -> Any:
            if text == "{finding}":
                return self.world.finding(self.names[0])
            for name, meant in own.items():
                text = text.replace(name, meant)
            return text

        return filled(request, fill, BACKEND)

    def prepare(self) -> None:
        """Bring about what the case starts from; nothing of the job itself is begun."""
        self.world.sign_of_life()
        for one in self.case.before:
            if isinstance(one, ByHand):
                # The finding that it may name is not there yet.
                about = {**self.case.job, "params": {}}
                self.world.by_hand(one, self.filled(about))
            else:
                self.world.prepare([self.filled(one)])
        self._prepare()
        self.world.empty_broker()

    @abstractmethod
    def _prepare(self) -> None:
        """Start the victim, and submit what it shall work on."""

    @abstractmethod
    def begin(self) -> None:
        """Set the victim going."""

    @abstractmethod
    def look(self) -> bool:
        """Do what else has to happen meanwhile; whether the victim is through."""

    def release(self) -> None:  # noqa: B027 - most have nothing to release
        """Let go what this trial itself holds up."""

    def meanwhile(self) -> None:  # noqa: B027 - there is nothing that all would do
        """The victim stands still: do what those would who rely on it."""

    def outcome(self) -> None:
        """The victim has gone on, or died: do what those would who rely on it."""
        until(lambda: self.victim.answered, "the process goes on or dies")

    def submit(self, request: Request, ends: str | None) -> int:
        """Submit directly."""
        [job_id] = self.world.submit([self.filled(request)])
        self._expect(job_id, ends)
        return job_id

    def _expect(self, job_id: int, ends: str | None) -> None:
        if ends is not None:
            self.expected[job_id] = ends

    @property
    @abstractmethod
    def through(self) -> bool:
        """Whether what the victim does for the job is in the database."""


class WorkerTrial(Trial):
    """The worker that does the job is broken.

    ``held_at``: a point where the job is held up while heartbeats go on.
    """

    held_at: str | None = None
    _hold: Armed | None = None

    def _prepare(self) -> None:
        self.job_id = self.submit(self.case.job, self.case.ends)
        if self.follower is not None:
            self.submit(self.follower, self.case.follower_ends)
        if self.held_at is None:
            self.victim = self.world.worker(armed=True).ready()
            return
        self.victim = self.world.worker(_BEAT_SECONDS, armed=True).ready()
        hold = Armed(self.world.nursery.failpoints, "hold", self.held_at, "pause")
        self._hold = hold
        self.victim.ask("work")
        until(lambda: hold.fired, "the job is held up")

    def begin(self) -> None:
        if self.held_at is None:
            self.victim.ask("work")

    def release(self) -> None:
        if self._hold is not None:
            self._hold.clear()

    def look(self) -> bool:
        return self.victim.answered

    @property
    def through(self) -> bool:
        query = select(jobs.c.finished_at).where(jobs.c.id == self.job_id)
        with self.world.database.read() as connection:
            return connection.execute(query).scalar() is not None


class ApiTrial(Trial):
    """The API process that accepts the job is broken; the client sends its request again."""

    def _prepare(self) -> None:
        self._headers = {"Idempotency-Key": f"key-{self.names[0]}", "Prefer": "wait=2"}
        self._answers: list[tuple[int, Any]] = []
        self._noted = False
        self.victim = self._start(armed=True)

    def _start(self, *, armed: bool = False) -> Child:
        return self.world.start(roles.api, self.world.token, armed=armed).ready()

    def _send(self, child: Child) -> None:
        child.ask("post", "/v1/jobs", self.filled(self.case.job), self._headers)

    def begin(self) -> None:
        self._send(self.victim)

    def look(self) -> bool:
        # Somebody has to end the job that the client waits for.
        self.world.help()
        return self.victim.answered

    @property
    def through(self) -> bool:
        with self.world.database.read() as connection:
            last = connection.execute(select(func.max(jobs.c.id))).scalar()
        return last is not None and last > max((id_ for id_, _ in self.world.asked), default=0)

    def meanwhile(self) -> None:
        self._send_again()

    def outcome(self) -> None:
        until(self.look, "the API answers or dies")
        self._hear(self.victim)
        for _ in range(_RESENDS):
            self._send_again()
            if self._answers[-1:] and self._answers[-1][0] < 500:
                break
        self._judge()

    def _send_again(self) -> None:
        another = self.world.other_api()
        self._send(another)
        until(lambda: self._someone_works(another), "the same request is answered")
        self._hear(another)

    def _someone_works(self, child: Child) -> bool:
        self.world.help()
        return child.answered

    def _hear(self, child: Child) -> None:
        try:
            status, _, body = child.answer()
        except (EOFError, ConnectionResetError):
            return
        self._answers.append((status, body))
        if status < 300 and not self._noted:
            # What users do from now on comes after this job.
            self._noted = True
            self.job_id = body["id"]
            self.world.note(self.job_id, self.filled(self.case.job))
            self._expect(self.job_id, self.case.ends)

    def _judge(self) -> None:
        """Every answer that accepts names one and the same job; the client has one at last."""
        accepted = [body["id"] for status, body in self._answers if status < 300]
        told = [(status, body.get("id") or body) for status, body in self._answers]
        if len(set(accepted)) != 1 or self._answers[-1][0] >= 300:
            raise invariants.Broken(f"the same request was answered {told}")


class SchedulerTrial(Trial):
    """The scheduler that lets the job go on is broken."""

    def __init__(self, world: World, case: Case, point: str) -> None:
        super().__init__(world, case)
        self._point = point

    def _prepare(self) -> None:
        request = dict(self.case.job)
        if self._point.startswith("reclaim."):
            # A job whose worker has died.
            self.job_id = self.submit(request, self.case.ends)
            dying = self.world.worker(armed=True).ready()
            armed = Armed(self.world.nursery.failpoints, "dying", "claim.after_commit", "crash")
            dying.ask("work")
            until(lambda: armed.fired and not dying.alive, "a worker dies")
            armed.clear()
            self.world.end(dying)
        elif self._point.startswith("relay."):
            self.job_id = self.submit(request, self.case.ends)
        else:
            later = {**request, "run_at": "2999-01-01T00:00:00Z"}
            self.job_id = self.submit(later, self.case.ends)
        self.world.time_passes()
        self.victim = self.world.start(roles.scheduler, armed=True).ready()

    def begin(self) -> None:
        self.victim.ask("tick")

    def look(self) -> bool:
        return self.victim.answered

    @property
    def through(self) -> bool:
        return self.victim.answered


def trial_of(world: World, role: str, case: Case, point: str, *, followed: bool = True) -> Trial:
    """The trial for a cell's role."""
    if role == "worker":
        return WorkerTrial(world, case, followed=followed)
    if role == "api":
        return ApiTrial(world, case)
    return SchedulerTrial(world, case, point)


def count_passes(
    world: World, role: str, case: Case, points: list[str], *, followed: bool
) -> dict[str, int]:
    """A dry run: how often a case passes each point while nothing is broken."""
    trial = trial_of(world, role, case, points[0], followed=followed)
    trial.prepare()
    armed = {
        point: Armed(world.nursery.failpoints, f"{place:02}", point, "pause", nth=_COUNT_ONLY)
        for place, point in enumerate(points)
    }
    try:
        trial.begin()
        trial.outcome()
        _conclude(world, trial)
        return {point: one.passes for point, one in armed.items()}
    finally:
        for one in armed.values():
            one.clear()


def run(
    world: World, around: Surroundings, cell: Cell, nth: int, held_at: str | None = None
) -> None:
    """Try a cell; ``nth`` is the pass at which its point acts. Raises what went wrong.

    ``held_at``: a point where the job itself is held up until the fault has happened.
    """
    trial = trial_of(world, cell.role, cell.case, cell.step.point)
    if isinstance(trial, WorkerTrial):
        trial.held_at = held_at
    with ExitStack() as disarmed:
        disarmed.callback(trial.release)
        trial.prepare()
        second = world.worker().ready() if cell.fault.name == "doubled" else None
        armed = Armed(world.nursery.failpoints, "cell", cell.step.point, cell.fault.deed, nth=nth)
        disarmed.callback(armed.clear)
        trial.begin()
        until(lambda: _there(trial, armed, cell.fault), f"{cell.step.id} is reached")
        _break(world, around, cell, trial, armed, second)
    _conclude(world, trial, may_fail=cell.fault.may_fail)


def _there(trial: Trial, armed: Armed, fault: Fault) -> bool:
    if not armed.fired:
        trial.look()
        return False
    if fault.deed == "crash":
        return not trial.victim.alive
    return fault.deed != "stop" or trial.victim.frozen


def _break(
    world: World,
    around: Surroundings,
    cell: Cell,
    trial: Trial,
    armed: Armed,
    second: Child | None,
) -> None:
    fault, name = cell.fault, cell.fault.name
    holds = holds_everything(
        cell.step.point,
        world.driver_name,
        world.database.kind,
        frozen=fault.deed == "stop",
    )
    with ExitStack() as lasting:
        if fault.late and not holds:
            free = not holds_name(cell.step.point, world.driver_name)
            _others_take_over(
                world,
                trial,
                recreated=fault.recreated and free,
                surely=must_let_go(cell.step.point, world.database.kind),
            )
        if second is not None:
            second.ask("work")
            if not holds:
                until(lambda: second.answered, "the second worker looks and goes")
        elif name == "broker-killed":
            around.broker.kill()
            around.broker.restart()
        elif name == "broker-frozen":
            lasting.enter_context(around.broker.frozen())
        elif name == "database-restarted":
            assert around.postgres is not None
            around.postgres.restart()
        elif name == "database-crashed":
            assert around.postgres is not None
            around.postgres.crash()
        elif name == "storage-full":
            assert around.storage_disk is not None
            lasting.enter_context(around.storage_disk.full())
        elif name == "database-full":
            assert around.database_disk is not None
            lasting.enter_context(around.database_disk.full())
        armed.release()
        trial.release()
        if fault.deed == "stop":
            trial.victim.wake()
        if name == "broker-frozen":
            until(lambda: trial.victim.answered or trial.through, "all goes on without the broker")
        elif fault.small:
            # A worker that cannot write its outcome tries until its lease is over.
            tries = lasting.enter_context(_counted(world, "finish.before_commit"))
            until(lambda: trial.victim.answered or tries.passes > _TRIES, "the full disk is met")
    trial.outcome()
    if second is not None:
        second.answer()
        world.end(second)


@contextmanager
def _counted(world: World, point: str) -> Iterator[Armed]:
    """Count the passes of a point during the block."""
    armed = Armed(world.nursery.failpoints, "counted", point, "pause", nth=_COUNT_ONLY)
    try:
        yield armed
    finally:
        armed.clear()


def _others_take_over(world: World, trial: Trial, *, recreated: bool, surely: bool) -> None:
    """Whoever is left does what it can; then users go on using what there is.

    ``surely``: nothing keeps them from it for longer than the time-out of a transaction.
    """
    trial.meanwhile()
    if surely:
        until(lambda: world.go_on(1), "others go on")
    elif not world.go_on(_TRIES_AGAINST_A_HOLDER):
        return
    world.settle()
    if recreated:
        for name in trial.names:
            _recreate(world, name)
        for name in trial.policies:
            _recreate_policy(world, name)
    world.use(trial.names)


def _recreate(world: World, name: str) -> None:
    """Remove a volume, and create another of its name."""
    volume = world.model.volumes.get(name)
    if volume is None:
        return
    for action, needed in (
        ("volume.unrestrict", volume.state == "restricted"),
        ("volume.detach", volume.attached),
    ):
        if needed:
            host = {"host": HOST} if action == "volume.detach" else {}
            world.prepare([{"action": action, "backend": BACKEND, "volume": name, **host}])
    about = {"backend": BACKEND, "volume": name}
    world.prepare(
        [
            *(
                {"action": "snapshot.delete", "snapshot": kept, **about}
                for kept in list(volume.snapshots)
            ),
            {"action": "volume.remove", **about},
            {"action": "volume.create", **about, "params": {"size_bytes": 4 * MIB}},
        ]
    )


def _recreate_policy(world: World, name: str) -> None:
    """Remove an export policy, which no volume has then, and create another of its name."""
    if name not in world.model.policies:
        return
    about = {"backend": BACKEND, "policy": name}
    users = [one.name for one in world.model.volumes.values() if one.policy == name]
    world.prepare(
        [
            *({"action": "policy.assign", "backend": BACKEND, "volume": user} for user in users),
            {"action": "policy.remove", **about},
            {"action": "policy.create", **about, "params": {"rules": [READER]}},
        ]
    )


def _conclude(world: World, trial: Trial, *, may_fail: bool = False) -> None:
    """Everything comes to its end; a last wake-up comes an hour late; then all must be right."""
    world.go_on()
    world.time_passes()
    world.survivor.call("sweep")
    world.settle()
    about = [world.model.volumes.get(name) for name in trial.names]
    left = any(one.attached or one.lost for one in about if one is not None)
    if trial.case.afterwards and (left or "volume" not in trial.case.job):
        world.prepare([trial.filled(request) for request in trial.case.afterwards])
    invariants.check(world, {} if may_fail else trial.expected, trial.names)
    world.end(trial.victim)
