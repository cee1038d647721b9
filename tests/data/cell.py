"""One cell: an action on a volume in some state, and what others do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from orchestrator.domain.errors import Problem
from orchestrator.jobs.retry import retry_request
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.store.transaction import Transaction
from tests.data import invariants
from tests.data.cases import CASES, N, V, W
from tests.data.lives import LIVES
from tests.data.moments import Moment, at
from tests.data.others import OTHERS
from tests.data.site import Broken, Request, Site, Without
from tests.data.states import STATES
from tests.engine.conftest import ADMIN
from tests.rigs.privileges import permissions_count

#: What becomes of a job that has not ended, or has failed, once the cause is gone.
AFTERWARDS = {
    "wait": "time passes",
    "cancel": "it is canceled while it waits for its next attempt",
    "retry": "it is sent again once it has failed",
}


@dataclass(frozen=True)
class Cell:
    """One combination; the names are those of the tables."""

    ground: str
    case: str
    state: str
    others: str
    moment: str
    life: str
    afterwards: str

    @property
    def id(self) -> str:
        told = (self.case, self.state, self.others, self.moment, self.life, self.afterwards)
        return f"{self.ground}: {', '.join(told)}"


def run(site: Site, cell: Cell) -> None:
    """Try it. Raises `Broken`, or `Without` where it does not apply."""
    case, state, others = CASES[cell.case], STATES[cell.state](), OTHERS[cell.others]()
    life = LIVES[cell.life]()
    with ExitStack() as ending, ExitStack() as cleaning:
        ending.callback(life.end)
        _prepare(site, with_snapshots=case.snapshots)
        life.begin(site)
        if case.before is not None:
            case.before(site)
        cleaning.callback(lambda: _leave_anyhow(site, state))
        state.enter(site, V)
        request = case.job(site)
        acting = life.worker(site)
        trial = _Trial(acting, cell, request)
        trial.go(state, others)
        site_job = trial.job
        life.end()
        if acting is not site:
            invariants.refused(site_job)
            site.rest()
            site_job = None
        played = site_job is not None and site_job["state"] == "succeeded"
        told = list(invariants.outcome(site, cell, case, state, others, request, site_job))
        if played:
            assert site_job is not None
            if case.action == "volume.recreate" and others.passes:
                told.append("it was recreated although it was there")
            site.play(request, site_job)
        cleaning.pop_all()
        try:
            state.leave(site, V)
        except AssertionError as error:
            told.append(str(error))
        site.rest()
        if others.differs:
            site.verify_what_was_missing()
        told += invariants.kept(site, cell, case, others, site_job)
        if told:
            raise Broken("\n".join(told))
        invariants.usable(site, N if N in site.model.volumes else V, others, life)


class _Trial:
    """The job on its way, and what others do."""

    def __init__(self, site: Site, cell: Cell, request: Request) -> None:
        self.site, self.cell, self.request = site, cell, request
        self.job: dict | None = None
        #: It was done while the cause lasted.
        self.early = False

    def go(self, state, others) -> None:
        site, cell = self.site, self.cell
        done = [False]

        def act() -> None:
            others.act(site, V, state)
            done[0] = True

        action = CASES[cell.case].action
        moment = Moment(cell.moment, action, act)
        try:
            job_id = site.submit(self.request)
        except Problem as problem:
            if cell.others != "nothing":
                raise Without("the job is refused when it is submitted") from None
            self.job = None
            state.meanwhile(site)
            if CASES[cell.case].goes and (cell.state, cell.life) == ("plain", "as it is"):
                raise Broken(f"{cell.case} is refused in peace: {problem.detail}") from None
            return
        try:
            if cell.moment == "queued":
                act()
            with at(moment), _rights(others):
                site.work()
                state.meanwhile(site)
            if not done[0]:
                raise Without("the job does not reach that moment")
            self.early = site.job(job_id)["state"] == "succeeded"
            told = list(invariants.meanwhile(site, cell, state, others))
            if told:
                raise Broken("\n".join(told))
            if cell.afterwards == "cancel" and not site.job(job_id)["finished_at"]:
                site.engine.cancel(job_id)
        finally:
            if done[0]:
                others.undo(site, V)
            else:
                state.meanwhile(site)
        site.rest()
        if cell.afterwards == "retry" and site.job(job_id)["state"] == "failed":
            job_id = self._again(job_id)
        self.job = site.job(job_id)

    def _again(self, job_id: int) -> int:
        """The number of the job that repeats a failed one; its own if it is refused."""
        site = self.site

        def again(transaction: Transaction) -> int:
            request, bound = retry_request(transaction, job_id)
            submission = Submission(requests=[request], actor=ADMIN, bound={0: bound})
            return submit(transaction, submission, max_attempts=5).job_ids[0]

        try:
            new = site.engine.database.transact(again)
        except Problem:
            return job_id
        site.rest()
        return new


@contextmanager
def _rights(others) -> Iterator[None]:
    if not others.permissions_count:
        yield
        return
    with permissions_count():
        yield


def _leave_anyhow(site: Site, state) -> None:
    try:
        state.leave(site, V)
    except Exception:
        return


def _prepare(site: Site, *, with_snapshots: bool) -> None:
    """A volume with contents, perhaps with two snapshots, and one beside it."""
    for name in (V, W):
        size = site.ground.size
        params = {"size_bytes": size, "metadata": {"owner": "a"}}
        if "metadata" not in site.ground.has:
            del params["metadata"]
        site.do({"action": "volume.create", "volume": name, "params": params})
    attach = "attach" in site.ground.has
    for name in (V, W):
        if attach:
            site.attach(name)
        site.write(name)
        if name == V and with_snapshots:
            for snapshot in ("s1", "s2"):
                site.do({"action": "snapshot.create", "volume": V, "snapshot": snapshot})
                site.write(name)
        if attach:
            site.detach(name)
