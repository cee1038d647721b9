"""Drafts: what is submitted, checked against what there will be, on its way to the store."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, select

from orchestrator.actions import rules
from orchestrator.actions.quotas import account_of
from orchestrator.actions.requests import MAX_BATCH, JobRequest
from orchestrator.domain.action import source_of
from orchestrator.domain.drivers import Reach
from orchestrator.domain.errors import (
    DependencyCycle,
    DependencyFailed,
    HostUnavailable,
    IdempotencyMismatch,
    InvalidInput,
    MissingField,
    NotAllowed,
    Problem,
    QueueDrained,
    UnknownJob,
)
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.lanes import junction_lane, lanes_of, named_lane, policy_lane, target_of
from orchestrator.domain.names import MAX_ID
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.places import Places
from orchestrator.domain.queues import queue_for
from orchestrator.domain.states import JobState
from orchestrator.domain.targets import Target, TargetRole
from orchestrator.inventory.backends import configured_names
from orchestrator.inventory.hosts import live_hosts, refuse_living
from orchestrator.jobs.lanes import UNAPPROVED, hold_tails, hold_unfinished, locked_for_submission
from orchestrator.jobs.loading import (
    backends_named,
    jobs_in,
    load_named,
    take_ahead,
    take_backends,
)
from orchestrator.jobs.quotas import take_quotas
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.views import end_of_archived
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.volume.loading import take_volumes, volumes_at
from orchestrator.store.asking import Rows
from orchestrator.store.bulk import Drawn, Number, among
from orchestrator.store.tables import idempotency_keys, jobs
from orchestrator.store.transaction import Transaction

#: How messages name a row of a batch.
_ROW = "jobs.{}"


@dataclass
class Draft:
    """A job on its way into the store."""

    request: JobRequest
    submission: Submission
    #: Its place in its submission, and among all drafts of the transaction.
    place: int
    number: int
    params: dict[str, Any]
    lanes: list[str]
    #: A lane that it does not hold, but comes behind: of the policy that it gives a volume.
    behind: list[str] = field(default_factory=list)
    #: Ids of stored jobs, and numbers of other drafts, whose success it was asked to wait for.
    needs: set[int] = field(default_factory=set)
    needs_here: set[int] = field(default_factory=set)
    #: The same for order: a destructive job after what is unfinished in its lanes.
    follows: set[int] = field(default_factory=set)
    follows_here: set[int] = field(default_factory=set)
    #: Something stands before it: it is not queued yet.
    blocked: bool = False
    #: Bytes it will take up.
    room: int = 0
    #: What it will lose, or not take over, for people.
    notes: list[str] = field(default_factory=list)
    #: What it was found to mean, once it has been checked.
    checked: Intent | None = None

    @property
    def intent(self) -> Intent:
        """What it was found to mean."""
        assert self.checked is not None  # noqa: S101 - only checked drafts are stored
        return self.checked

    @property
    def bound(self) -> dict[str, Any]:
        """What a retry by hand is bound to."""
        return self.submission.bound.get(self.place, {})

    @property
    def after_success(self) -> bool:
        """Whether it runs only if everything before it in its lanes succeeds."""
        return self.request.declaration.destructive and self.request.after == "success"

    def later(self, now: datetime) -> bool:
        """Whether it has a start time ahead, or has to be approved first."""
        begins = self.begins
        return begins is not None and begins > now

    @property
    def begins(self) -> datetime | None:
        """Its start time, if it has one; one that has to be approved has none that will come."""
        return UNAPPROVED if self.request.needs_approval else self.request.run_at

    def field(self, name: str) -> str:
        """How a message names a field of its request."""
        return f"{_ROW.format(self.place)}.{name}" if self.submission.batch else name

    def at(self) -> dict[str, Any]:
        """The facts that tell which job of a batch a problem is about."""
        if not self.submission.batch:
            return {}
        ref = self.request.ref
        return {"index": self.place, **({"ref": ref} if ref else {})}


class Drafts:
    """The drafts of submissions that are checked and stored in one transaction.

    One batch, or any number of single jobs: a job that is refused has changed nothing that
    the others are checked against.
    """

    def __init__(
        self,
        transaction: Transaction,
        submissions: Sequence[Submission],
        places: Places | None = None,
    ) -> None:
        self.transaction = transaction
        self.submissions = submissions
        self.outlook = Outlook()
        self.outlook.names_of_backends = lambda: configured_names(self.transaction)
        self.outlook.places = places
        #: What can be stored, in order.
        self.accepted: list[Draft] = []
        #: By place of the submission: why it is refused; its first answer, if its key was
        #: used before; and which one before it, in this transaction, has the same key.
        self.refused: dict[int, Problem] = {}
        self.answered: dict[int, RowMapping] = {}
        self.same_as: dict[int, int] = {}
        self._made = 0
        self._drawn: Sequence[Number] = []
        self._unfinished: set[int] = set()
        self._states: dict[int, str] = {}
        self._alive: dict[str, set[str]] = {}
        #: By lane: the drafts in it that do not begin later, and the last of all that needs
        #: the success of everything before it.
        self._in_lane: dict[str, list[int]] = defaultdict(list)
        self._gates_here: dict[str, int] = {}
        #: By lane of a junction path: the unfinished jobs that free it.
        self._freed: dict[str, set[int]] = {}
        #: By lane of a policy: the drafts that give it to volumes, or take it away from them; by
        #: lane of a junction path: those that free it.
        self._using_here: dict[str, set[int]] = defaultdict(set)
        self.now: datetime

    def check(self, *, draw_ids: bool = True) -> None:
        """Find out which submissions can be stored, and all that is needed to store them."""
        drafts: dict[int, list[Draft]] = {}
        for index, submission in enumerate(self.submissions):
            try:
                drafts[index] = self._draft(submission)
            except Problem as problem:
                self.refused[index] = problem
        lanes = {
            lane
            for some in drafts.values()
            for draft in some
            for lane in (*draft.lanes, *draft.behind)
        }
        keys = {
            f"key {submission.actor.name} {submission.idempotency_key}"
            for submission in self.submissions
            if submission.idempotency_key is not None
        }
        targets = {target_of(lane) for lane in lanes} | {
            (draft.request.backend, draft.request.volume)
            for some in drafts.values()
            for draft in some
            if draft.request.volume is not None
        }
        # Each of these sees what was committed before the locks were granted.
        locked, self._drawn, found, ahead, there = self.transaction.ask(
            locked_for_submission(lanes | keys),
            Drawn("jobs", sum(len(some) for some in drafts.values()) if draw_ids else 0),
            backends_named(
                {request.backend for one in self.submissions for request in one.requests}
                | {backend for backend, _ in targets}
            ),
            jobs_in(lanes),
            volumes_at(targets),
        )
        self.now = locked[0].now
        take_backends(self.outlook, found)
        if keys:
            self._recognise()
        wanted = {
            index: some
            for index, some in drafts.items()
            if index not in self.answered
            and index not in self.same_as
            and index not in self.refused
        }
        everything = [draft for some in wanted.values() for draft in some]
        if not everything:
            return
        self._look(everything, lanes, targets, ahead, there)
        if self.outlook.quotas_set:
            # The last locks but one: only the promises of backends are locked after these.
            take_quotas(
                self.transaction,
                self.outlook,
                [(one.request, one.submission.actor.account) for one in everything],
            )
        for index, some in wanted.items():
            try:
                for draft in some:
                    self._check(draft)
                _refuse_cycles(some)
            except Problem as problem:
                self.refused[index] = problem
            else:
                self.accepted += some

    def ids(self) -> dict[int, int]:
        """The ids of the accepted drafts, by number, in order."""
        return {
            draft.number: row.number for draft, row in zip(self.accepted, self._drawn, strict=False)
        }

    # -- what needs no look at the database ------------------------------------------------

    def _draft(self, submission: Submission) -> list[Draft]:
        if not submission.requests:
            raise InvalidInput("a batch has at least one job", field="jobs")
        if len(submission.requests) > MAX_BATCH:
            raise InvalidInput(
                f"a batch has at most {MAX_BATCH} jobs, this one has "
                f"{len(submission.requests)}: split it",
                field="jobs",
            )
        made: list[Draft] = []
        for place, request in enumerate(submission.requests):
            params = request.stored_params()
            draft = Draft(
                request=request,
                submission=submission,
                place=place,
                number=self._made + place,
                params=params,
                lanes=lanes_of(
                    request.declaration,
                    request.backend,
                    request.volume,
                    request.name_of(request.declaration.kind),
                    params,
                ),
            )
            draft.behind = [
                named_lane(kind, request.backend, name)
                for kind in request.declaration.assigned
                if (name := request.name_of(kind)) is not None
            ]
            role = request.declaration.role
            if not submission.actor.role.includes(role):
                raise NotAllowed(
                    f"{request.action} needs the role {role}; this token has the role "
                    f"{submission.actor.role}",
                    **draft.at(),
                )
            made.append(draft)
        self._made += len(made)
        _resolve(made)
        return made

    # -- what was there before -------------------------------------------------------------

    def _recognise(self) -> None:
        """Find the submissions whose key was used before, also in this very transaction."""
        owners = {submission.actor.name for submission in self.submissions}
        keys = {submission.idempotency_key for submission in self.submissions} - {None}
        found = {
            (row["owner"], row["key"]): row
            for row in self.transaction.execute(
                select(idempotency_keys).where(
                    among(idempotency_keys.c.owner, owners),
                    among(idempotency_keys.c.key, keys),
                )
            ).mappings()
        }
        first: dict[tuple[str, str], int] = {}
        for index, submission in enumerate(self.submissions):
            if submission.idempotency_key is None or index in self.refused:
                continue
            name = (submission.actor.name, submission.idempotency_key)
            stored = found.get(name)
            before = first.setdefault(name, index)
            if stored is not None:
                if stored["request_digest"] != submission.digest():
                    self.refused[index] = IdempotencyMismatch(
                        field="Idempotency-Key", job=stored["job_id"]
                    )
                else:
                    self.answered[index] = stored
            elif before != index:
                if self.submissions[before].digest() != submission.digest():
                    self.refused[index] = IdempotencyMismatch(field="Idempotency-Key")
                else:
                    self.same_as[index] = before

    def _look(
        self,
        drafts: list[Draft],
        lanes: set[str],
        targets: set[tuple[str, str]],
        ahead: Rows,
        there: Rows,
    ) -> None:
        """Take what was read into the outlook; hold what must not end before the commit."""
        here, outlook = self.transaction, self.outlook
        needed = {job_id for draft in drafts for job_id in draft.needs}
        if needed:
            self._unfinished = hold_unfinished(here, needed)
            query = select(jobs.c.id, jobs.c.state).where(among(jobs.c.id, needed))
            self._states = dict(here.execute(query).all())
        wanted = [self._asked(draft) for draft in drafts if _names_more(draft)]
        if not ahead:
            # A lane that is empty stays so: only who has locked it can put a job there.
            take_volumes(here, outlook, there, targets)
            load_named(here, outlook, wanted, frozenset(), users=True)
            return
        coming = self._hold(drafts, lanes)
        for _, intent in coming:
            for lane in intent.lanes:
                targets.add(target_of(lane))
        [there] = here.ask(volumes_at(targets))
        own_jobs = frozenset(job_id for job_id, _ in coming)
        take_volumes(here, outlook, there, targets, own_jobs=own_jobs)
        wanted += [intent for _, intent in coming]
        load_named(here, outlook, wanted, own_jobs, users=True)
        freed: dict[str, set[int]] = defaultdict(set)
        for job_id, intent in coming:
            for lane in self._frees(intent):
                freed[lane].add(job_id)
            rules.play(outlook, intent)
        for lane in freed.keys() & {junction_lane(*one.junction) for one in wanted if one.junction}:
            # One that has ended since has freed it.
            self._freed[lane] = hold_unfinished(here, freed[lane])

    def _asked(self, draft: Draft) -> Intent:
        """What a draft asks for, before anything was looked at."""
        request = draft.request
        return Intent(
            action=request.declaration,
            backend=request.backend,
            volume=request.volume,
            snapshot=request.snapshot,
            host=request.host,
            params=draft.params,
            others=tuple(_named_others(request, {})),
        )

    def _hold(self, drafts: list[Draft], lanes: set[str]) -> list[tuple[int, Intent]]:
        """The unfinished jobs before these, as they will be until the commit.

        Held are the last of each lane, and all whose success a destructive job needs.
        """
        hold_tails(self.transaction, lanes)
        while True:
            [rows] = self.transaction.ask(jobs_in(lanes))
            ahead = take_ahead(self.transaction, self.outlook, rows, lanes)
            needed = {
                job_id
                for draft in drafts
                if draft.after_success
                for lane in draft.lanes
                for job_id in self.outlook.ahead.get(lane, ())
            }
            if hold_unfinished(self.transaction, needed) == needed:
                return ahead
            # One has ended between the look and the hold: look again.

    # -- checks ----------------------------------------------------------------------------

    def _check(self, draft: Draft) -> None:
        """Check one, and let those after it be checked against what it will leave."""
        self._check_needs(draft)
        try:
            if draft.later(self.now):
                self._check_later(draft)
            else:
                self._check_now(draft)
                self._note_freed(draft)
                rules.play(self.outlook, draft.intent)
        except Problem as problem:
            if draft.submission.batch:
                where = _ROW.format(draft.place)
                problem.field = f"{where}.{problem.field}" if problem.field else where
                problem.facts.update(draft.at())
            raise
        self._order(draft)

    def _check_needs(self, draft: Draft) -> None:
        for job_id in sorted(draft.needs):
            state = self._states.get(job_id) or end_of_archived(self.transaction, job_id)
            if state is None:
                raise UnknownJob(
                    f"depends_on names job {job_id}: there is none", field=draft.field("depends_on")
                )
            if state in (JobState.FAILED, JobState.CANCELED):
                raise DependencyFailed(
                    f"depends_on names job {job_id}, which has {state}",
                    field=draft.field("depends_on"),
                    job=job_id,
                )
        draft.blocked = bool(draft.needs & self._unfinished) or bool(draft.needs_here)

    def _check_now(self, draft: Draft) -> None:
        """Check a job against the outlook as it is now."""
        if not (self.outlook.accepting or draft.request.declaration.administrative):
            raise QueueDrained(
                "no new jobs are taken: an administrator has drained the queue, and ends that "
                "with 'orchestrator queue resume'"
            )
        intent = self._meaning(draft)
        if intent.action.leaves_files and intent.host is None:
            intent = self._on_one_host(draft, intent)
        elif intent.action.reads_in_use:
            intent = self._where_it_is_written(intent)
        self._check_host(draft, intent)
        rules.check(self.outlook, intent)
        draft.room = rules.check_room(self.outlook, intent)
        draft.notes = rules.notes(self.outlook, intent)
        draft.checked = intent

    def _check_later(self, draft: Draft) -> None:
        """Check a job with a start time ahead against what will be there then."""
        moment = draft.begins
        assert moment is not None  # noqa: S101 - that is what later means
        before = self.outlook.due_by(draft.lanes, moment)
        touched = {target_of(lane) for lane in draft.lanes}
        for one in before:
            touched.update(target_of(lane) for lane in one.lanes)
        restore = self.outlook.keep(touched)
        for earlier in before:
            rules.play(self.outlook, earlier)
        try:
            self._check_now(draft)
        finally:
            restore()
        self.outlook.add_later(draft.lanes, moment, draft.intent)

    def _meaning(self, draft: Draft) -> Intent:
        request, bound, params = draft.request, draft.bound, draft.params
        action = request.declaration
        volume = self.outlook.volume(request.backend, request.volume) if request.volume else None
        origin, source_id = volume, bound.get("source_id")
        if (place := source_of(request.backend, params)) is not None:
            origin = self.outlook.volume(*place)
            source_id = source_id or (origin.id if origin else None)
        ids = {
            kind: bound.get(one.id_name) or one.named(self.outlook, request, origin)
            for kind, one in RESOURCES.items()
        }
        if action.made is not None:
            meant = bound.get(RESOURCES[action.made].id_name) if action.adopts else None
            ids[action.made] = meant or uuid.uuid4().hex
        others = _named_others(request, ids)
        if place is not None:
            others.append(Target(TargetRole.SOURCE, "volume", source_id, place[1]))
        return Intent(
            action=action,
            backend=request.backend,
            volume=request.volume,
            snapshot=request.snapshot,
            host=request.host,
            params=params,
            reason=request.reason or draft.submission.reason,
            volume_id=ids["volume"],
            snapshot_id=ids["snapshot"],
            others=tuple(others),
            account=account_of(action, volume, draft.submission.actor.account),
        )

    def _check_host(self, draft: Draft, intent: Intent) -> None:
        if intent.host is None or not intent.action.on_host:
            return
        if intent.params.get("force"):
            refuse_living(self.transaction, intent.host)
        backend = self.outlook.backend(intent.backend)
        if queue_of(intent, backend.driver).startswith("host."):
            alive = self._alive_on(backend.name)
            if intent.host not in alive:
                raise HostUnavailable(
                    f"no worker that serves backend {intent.backend} is alive on host "
                    f"{intent.host}; alive are: {', '.join(sorted(alive)) or 'none'}",
                    field=draft.field("host"),
                    **draft.at(),
                )

    def _on_one_host(self, draft: Draft, intent: Intent) -> Intent:
        """The same on the only host that can do it; files on several would find no end."""
        alive = sorted(self._alive_on(intent.backend))
        if len(alive) > 1:
            raise MissingField(
                f"several hosts serve backend {intent.backend} ({', '.join(alive)}): say with host "
                "on which the file shall be",
                field=draft.field("host"),
                **draft.at(),
            )
        return replace(intent, host=alive[0]) if alive else intent

    def _where_it_is_written(self, intent: Intent) -> Intent:
        """The same on the host that may write to what is read, if that is one which is alive.

        Whoever else takes the job refuses it: what it reads might be torn.
        """
        backend = self.outlook.backend(intent.backend)
        of_snapshot = intent.action.roles.get("snapshot") is TargetRole.SOURCE and intent.snapshot
        if of_snapshot or DRIVERS[backend.driver].reach is not Reach.HOST:
            return intent
        place = source_of(intent.backend, intent.params) or (intent.backend, intent.volume or "")
        volume = self.outlook.volume(*place)
        attached = volume.attachments.items() if volume else ()
        writers = {host for host, one in attached if not one.read_only}
        if len(writers) != 1 or not writers <= self._alive_on(backend.name):
            return intent
        [writer] = writers
        if intent.host not in (None, writer):
            return intent
        return replace(intent, host=writer, only_there=True)

    def _alive_on(self, backend: str) -> set[str]:
        if backend not in self._alive:
            self._alive[backend] = live_hosts(self.transaction, backend)
        return self._alive[backend]

    def _order(self, draft: Draft) -> None:
        """Note what stands before the job in its lanes."""
        later = draft.later(self.now)
        for lane in draft.lanes:
            ahead, before = self.outlook.ahead.get(lane, []), self._in_lane[lane]
            if ahead or before:
                draft.blocked = True
            if draft.after_success:
                # The last gate has all before it for its own condition.
                if lane not in self._gates_here:
                    gate = self.outlook.gates.get(lane, 0)
                    draft.follows.update(job_id for job_id in ahead if job_id >= gate)
                gate_here = self._gates_here.get(lane, 0)
                draft.follows_here.update(number for number in before if number >= gate_here)
                self._gates_here[lane] = draft.number
            if not later:
                before.append(draft.number)
        self._order_policies(draft)
        draft.blocked = draft.blocked or later or bool(draft.follows or draft.follows_here)
        draft.follows -= draft.needs
        draft.follows_here -= draft.needs_here

    def _order_policies(self, draft: Draft) -> None:
        """Put what gives a volume a policy behind the unfinished changes of that, its removal
        behind what gives it, and who takes a junction path behind who frees it."""
        for lane in draft.behind:
            draft.follows.update(self.outlook.ahead.get(lane, [])[-1:])
            draft.follows_here.update(self._in_lane[lane][-1:])
            self._using_here[lane].add(draft.number)
        if draft.intent.action.removes or draft.intent.junction is not None:
            for lane in draft.lanes:
                draft.follows |= self._freed.get(lane, set())
                draft.follows_here |= self._using_here[lane] - {draft.number}

    def _note_freed(self, draft: Draft) -> None:
        """Note which policy and which path a volume may have no longer once this is done."""
        for lane in self._frees(draft.intent):
            self._using_here[lane].add(draft.number)

    def _frees(self, intent: Intent) -> Iterator[str]:
        """The lanes of the policy and the path that a volume has, and may not have after this."""
        volume = self.outlook.volume(intent.backend, intent.volume) if intent.volume else None
        if volume is None:
            return
        freeing = intent.action.frees
        if freeing and volume.policy is not None:
            yield policy_lane(intent.backend, volume.policy)
        path = volume.settings.get("junction_path")
        if path is not None and (freeing or intent.junction is not None):
            yield junction_lane(intent.backend, path)

    # -- plans -----------------------------------------------------------------------------

    def waits_for(self, draft: Draft) -> list[str]:
        """For people: what the job of a plan would wait for."""
        requests = draft.submission.requests
        told = [f"job {job_id}" for job_id in sorted(draft.needs)]
        told += [requests[other].ref or f"jobs.{other}" for other in sorted(draft.needs_here)]
        for lane in draft.lanes:
            if ahead := self.outlook.ahead.get(lane):
                told.append(f"job {ahead[-1]} on {lane}")
        if draft.request.needs_approval:
            told.append("an approval")
        if draft.request.run_at is not None:
            told.append(draft.request.run_at.isoformat())
        return told


def _named_others(request: JobRequest, ids: Mapping[str, str | None]) -> list[Target]:
    """What a request names besides its volume and its snapshot."""
    return [
        Target(one.role, one.kind, ids.get(one.kind), name)
        for one in request.declaration.others
        if (name := request.name_of(one.kind)) is not None
    ]


def _names_more(draft: Draft) -> bool:
    """Whether it is about more than its volume and its snapshot, or about a junction path."""
    others = draft.request.declaration.others
    return bool(draft.params.get("settings")) or any(
        draft.request.name_of(one.kind) is not None for one in others
    )


def _resolve(drafts: list[Draft]) -> None:
    """Find what the names in ``depends_on`` stand for: refs of the submission, or ids."""
    numbers: dict[str, int] = {}
    for draft in drafts:
        ref = draft.request.ref
        if ref is None:
            continue
        if ref in numbers:
            raise InvalidInput(f"ref {ref!r} is used twice in this batch", field=draft.field("ref"))
        numbers[ref] = draft.number
    for draft in drafts:
        for named in draft.request.depends_on:
            if isinstance(named, str) and named in numbers:
                draft.needs_here.add(numbers[named])
            elif isinstance(named, int) or (named.isdecimal() and int(named) <= MAX_ID):
                draft.needs.add(int(named))
            else:
                raise InvalidInput(
                    f"depends_on names {named!r}, which is neither a job's id nor a ref of "
                    "this batch",
                    field=draft.field("depends_on"),
                )


def _refuse_cycles(drafts: list[Draft]) -> None:
    """Refuse jobs of one batch that wait for one another in a circle."""
    if not any(draft.needs_here for draft in drafts):
        return
    waits = {draft.number: draft.needs_here | draft.follows_here for draft in drafts}
    previous: dict[str, int] = {}
    for draft in drafts:
        for lane in draft.lanes:
            if lane in previous:
                waits[draft.number].add(previous[lane])
            previous[lane] = draft.number
    waiters: dict[int, list[int]] = defaultdict(list)
    for number, others in waits.items():
        for other in others:
            waiters[other].append(number)
    left = {number: len(others) for number, others in waits.items()}
    free = [number for number, count in left.items() if not count]
    while free:
        for number in waiters[free.pop()]:
            left[number] -= 1
            if left[number] == 0:
                free.append(number)
    stuck = [draft for draft in drafts if left[draft.number]]
    if stuck:
        names = ", ".join(draft.request.ref or _ROW.format(draft.place) for draft in stuck[:10])
        raise DependencyCycle(
            "these jobs wait for one another, by depends_on or because an earlier one is on "
            f"the same volume: {names}",
            field=stuck[0].field("depends_on"),
        )


def queue_of(intent: Intent, driver: str) -> str:
    """The queue of the workers that can do this."""
    # A forced detach is for a host that is dead: any worker of the backend does it.
    forced = bool(intent.params.get("force"))
    return queue_for(
        driver,
        intent.backend,
        intent.host,
        on_host=(intent.action.on_host and not forced) or intent.only_there,
        leaves_files=intent.action.leaves_files,
        # Jobs of a backend that is out of reach wait; what says which storage it is must not.
        administrative=intent.action.administrative or bool(intent.params.get("accept_identity")),
    )
