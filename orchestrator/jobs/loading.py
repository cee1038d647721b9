"""Loading an outlook: the queries that fill it with what the database has."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import exists, func, literal_column, or_, select, true

from orchestrator.actions.registry import GIVING_POLICIES, intent_of
from orchestrator.domain.exports import recorded_rules
from orchestrator.domain.outlook import (
    AttachmentOutlook,
    BackendOutlook,
    Intent,
    Outlook,
    PolicyOutlook,
    SnapshotOutlook,
    VolumeOutlook,
)
from orchestrator.domain.states import JobState, PolicyState, SnapshotState, VolumeState
from orchestrator.resources.snapshot.order import oldest_first
from orchestrator.store.asking import Question, one_of
from orchestrator.store.columns import db_now
from orchestrator.store.lives import PRESENT, all_of
from orchestrator.store.statements import CLAIMED_POSTGRESQL
from orchestrator.store.tables import (
    attachments,
    backends,
    installation,
    job_lanes,
    jobs,
    locks,
    policies,
    promises,
    quotas,
    snapshots,
    volumes,
)
from orchestrator.store.transaction import Asked, Rows, Transaction

Targets = Iterable[tuple[str, str]]
LifeOf = Callable[[int], str]

#: The backends with what they have promised, and the turn of the job that is next there.
_BACKENDS = select(
    backends,
    func.coalesce(
        select(promises.c.promised_bytes)
        .where(promises.c.backend_id == backends.c.id)
        .scalar_subquery(),
        0,
    ).label("promised_bytes"),
    func.coalesce(
        select(jobs.c.turn)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue == "backend." + backends.c.name)
        .order_by(jobs.c.priority, jobs.c.turn, jobs.c.id)
        .limit(1)
        .scalar_subquery(),
        0,
    ).label("turn"),
    select(installation.c.accepting).scalar_subquery().label("accepting"),
    select(exists(select(quotas.c.account))).scalar_subquery().label("quotas_set"),
)


_BACKENDS_NAMED = Question(lambda d: _BACKENDS.where(one_of(d, backends.c.name, "names")))
_BACKENDS_WITH = Question(
    lambda d: _BACKENDS.add_columns(PRESENT.label("life")).where(one_of(d, backends.c.id, "ids"))
)

#: The unfinished jobs of lanes, and whether they block those behind them.
_JOBS_IN = Question(
    lambda d: (
        select(
            job_lanes.c.lane,
            *(jobs.c.id, jobs.c.action, jobs.c.backend_id, jobs.c.volume, jobs.c.snapshot),
            *(jobs.c.host, jobs.c.params, jobs.c.reason, jobs.c.volume_id, jobs.c.snapshot_id),
            *(jobs.c.policy, jobs.c.policy_id, jobs.c.source_id, jobs.c.account, jobs.c.after),
            jobs.c.not_before,
            or_(jobs.c.begun, jobs.c.not_before.is_(None), jobs.c.not_before <= db_now()).label(
                "blocks"
            ),
        )
        .join(jobs, jobs.c.id == job_lanes.c.job_id)
        .where(one_of(d, job_lanes.c.lane, "lanes"))
        .order_by(jobs.c.id)
    )
)

_LIVE_VOLUMES = (
    select(
        backends.c.name.label("backend"),
        *(volumes.c.id, volumes.c.name, volumes.c.state, volumes.c.size_bytes),
        *(volumes.c.metadata, volumes.c.parameters, volumes.c.settings),
        *(volumes.c.policy_id, volumes.c.created_by_job, volumes.c.account),
    )
    .join(backends, backends.c.id == volumes.c.backend_id)
    .where(volumes.c.state != VolumeState.REMOVED)
)

#: Live volumes of any of these names on any of these backends.
_VOLUMES = Question(
    lambda d: _LIVE_VOLUMES.where(
        one_of(d, backends.c.name, "backends"), one_of(d, volumes.c.name, "names")
    )
)
#: Live volumes that the jobs just claimed are about; on PostgreSQL only. Each name is looked up by
#: itself: a plan for all of them at once hangs on statistics, which a new database lacks.
_NAME = (
    func.unnest(literal_column(CLAIMED_POSTGRESQL)).table_valued("name").render_derived("claimed")
)
_ITS_VOLUMES = (
    select(volumes.c.id)
    .where(
        volumes.c.state != VolumeState.REMOVED,
        volumes.c.name == _NAME.c.name,
        one_of("postgresql", volumes.c.backend_id, "backends"),
    )
    .offset(literal_column("0"))  # keeps the planner from joining it in another way
    .lateral("its")
)
_VOLUMES_CLAIMED = Question(
    lambda _: _LIVE_VOLUMES.where(
        volumes.c.id.in_(select(_ITS_VOLUMES.c.id).select_from(_NAME.join(_ITS_VOLUMES, true())))
    )
)
#: The most users of a policy that are looked at.
_USERS_SHOWN = 1000

_POLICY_NAMES = Question(
    lambda d: select(policies.c.id, policies.c.name).where(one_of(d, policies.c.id, "ids"))
)
_POLICIES = Question(
    lambda d: (
        select(policies, backends.c.name.label("backend"))
        .join(backends, backends.c.id == policies.c.backend_id)
        .where(
            policies.c.state != PolicyState.REMOVED,
            one_of(d, backends.c.name, "backends"),
            one_of(d, policies.c.name, "names"),
        )
    )
)
_USERS = Question(
    lambda d: (
        select(volumes.c.id, volumes.c.name, volumes.c.policy_id)
        .where(one_of(d, volumes.c.policy_id, "ids"), volumes.c.state != VolumeState.REMOVED)
        .limit(_USERS_SHOWN)
    )
)
_MOUNTED = Question(
    lambda d: (
        select(backends.c.name.label("backend"), volumes.c.junction_path, volumes.c.id)
        .join(backends, backends.c.id == volumes.c.backend_id)
        .where(
            volumes.c.state != VolumeState.REMOVED,
            one_of(d, backends.c.name, "backends"),
            one_of(d, volumes.c.junction_path, "paths"),
        )
    )
)
#: Unfinished jobs that mean these policies without holding their lanes.
_MEANING = Question(
    lambda d: (
        select(jobs.c.id, jobs.c.policy, backends.c.name.label("backend"))
        .join(backends, backends.c.id == jobs.c.backend_id)
        .where(
            one_of(d, backends.c.name, "backends"),
            one_of(d, jobs.c.policy, "names"),
            jobs.c.action.in_(GIVING_POLICIES),
            jobs.c.finished_at.is_(None),
        )
        .order_by(jobs.c.id)
    )
)
_SNAPSHOTS = Question(
    lambda d: (
        select(
            *(snapshots.c.id, snapshots.c.volume_id, snapshots.c.name, snapshots.c.size_bytes),
            *(snapshots.c.state, snapshots.c.position, snapshots.c.created_by_job),
        )
        .where(one_of(d, snapshots.c.volume_id, "ids"), snapshots.c.removed_at.is_(None))
        .order_by(*oldest_first())
    )
)
_ATTACHMENTS = Question(
    lambda d: select(attachments).where(one_of(d, attachments.c.volume_id, "ids"))
)
_LOCKS = Question(
    lambda d: select(locks.c.volume_id, locks.c.owner).where(
        one_of(d, locks.c.volume_id, "ids"),
        or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now()),
    )
)


def backends_named(names: Iterable[str]) -> Asked:
    """Ask for backends by name; for `take_backends`."""
    return _BACKENDS_NAMED(names=sorted(names))


def backends_with(ids: Iterable[int]) -> Asked:
    """Ask for backends by id, and for the present life; for `take_backends`, `life_in`."""
    return _BACKENDS_WITH(ids=sorted(ids))


def jobs_in(lanes: Iterable[str]) -> Asked:
    """Ask for the unfinished jobs of lanes; for `take_ahead`."""
    return _JOBS_IN(lanes=sorted(lanes))


def volumes_at(targets: Targets) -> Asked:
    """Ask for the live volumes of (backend, name) pairs, as they are now; for `take_volumes`."""
    wanted = set(targets)
    return _VOLUMES(
        backends=sorted({backend for backend, _ in wanted}),
        names=sorted({name for _, name in wanted}),
    )


def volumes_claimed(backend_ids: Iterable[int]) -> Asked:
    """`volumes_at` for the jobs of these backends that were claimed in the same round trip.

    On PostgreSQL only.
    """
    return _VOLUMES_CLAIMED(backends=sorted(backend_ids))


def life_in(transaction: Transaction, rows: Rows) -> LifeOf:
    """The life that a job is of, as `backends_with` found them; by the job's id."""
    first, _, life = rows[0]["life"].partition(".")

    def of(job_id: int) -> str:
        if job_id >= int(first):
            return str(life)
        # From before a restore: there are few of them.
        return next(one.life for one in reversed(all_of(transaction)) if one.first_job <= job_id)

    return of


def take_backends(outlook: Outlook, rows: Rows) -> None:
    """Put backends into the outlook."""
    for row in rows:
        known = row["capabilities"]
        outlook.accepting = row["accepting"]
        outlook.quotas_set = bool(row["quotas_set"])
        outlook.backends[row["name"]] = BackendOutlook(
            id=row["id"],
            name=row["name"],
            driver=row["driver"],
            state=row["state"],
            configured=row["configured"],
            capabilities=None if known is None else frozenset(known),
            total_bytes=row["total_bytes"],
            grain_bytes=row["grain_bytes"] or 1,
            overcommit=row["overcommit"],
            parameters=None if row["parameters"] is None else frozenset(row["parameters"]),
            identity=row["identity"],
            leases=(row["lease"], row["lease_next"]),
            identity_written=row["identity_written"],
            promised_bytes=int(row["promised_bytes"]),
            turn=row["turn"],
            max_jobs=row["max_jobs"],
        )


def take_volumes(
    transaction: Transaction,
    outlook: Outlook,
    rows: Rows,
    targets: Targets,
    *,
    own_jobs: frozenset[int] = frozenset(),
) -> None:
    """Put volumes into the outlook, with their snapshots, attachments and locks.

    Volumes and snapshots that ``own_jobs`` are about to make do not count as there.
    """
    wanted = set(targets)
    by_id: dict[str, VolumeOutlook] = {}
    exported: dict[str, int] = {}
    for row in rows:
        place = row["backend"], row["name"]
        own = row["state"] == VolumeState.PENDING and row["created_by_job"] in own_jobs
        if place not in wanted or own:
            continue
        outlook.volumes[place] = by_id[row["id"]] = VolumeOutlook(
            id=row["id"],
            name=row["name"],
            state=VolumeState(row["state"]),
            size_bytes=row["size_bytes"],
            metadata=dict(row["metadata"]),
            parameters=dict(row["parameters"]),
            settings=dict(row["settings"]),
            created_by_job=row["created_by_job"],
            account=row["account"],
        )
        if row["policy_id"] is not None:
            exported[row["id"]] = row["policy_id"]
    if not by_id:
        return
    if exported:
        [named] = transaction.ask(_POLICY_NAMES(ids=sorted(set(exported.values()))))
        names = {row["id"]: row["name"] for row in named}
        for id_, policy_id in exported.items():
            by_id[id_].policy = names[policy_id]
    ids = list(by_id)
    made, attached, locked = transaction.ask(
        _SNAPSHOTS(ids=ids), _ATTACHMENTS(ids=ids), _LOCKS(ids=ids)
    )
    for row in made:
        if row["state"] == SnapshotState.PENDING and row["created_by_job"] in own_jobs:
            continue
        by_id[row["volume_id"]].snapshots[row["name"]] = SnapshotOutlook(
            id=row["id"],
            name=row["name"],
            size_bytes=row["size_bytes"],
            state=SnapshotState(row["state"]),
            position=row["position"],
        )
    for row in attached:
        by_id[row["volume_id"]].attachments[row["host"]] = AttachmentOutlook(
            device=row["device"],
            boot_id=row["boot_id"],
            read_only=row["read_only"],
            opening=row["opening"],
            possible=row["device"] is None and row["boot_id"] is None and not row["uris"],
        )
    for row in locked:
        by_id[row["volume_id"]].lock_owner = row["owner"]


def load_policies(
    transaction: Transaction,
    outlook: Outlook,
    intents: Iterable[Intent],
    *,
    own_jobs: frozenset[int] = frozenset(),
) -> None:
    """Put into the outlook the policies that these mean, and who is at the paths they give.

    Policies and volumes that ``own_jobs`` are about to make do not count as there.
    """
    named: set[tuple[str, str]] = set()
    paths: set[tuple[str, str]] = set()
    removing = False
    for intent in intents:
        if (policy := intent.export_policy) is not None:
            named.add(policy)
            removing = removing or intent.action.removes_policy
        if (path := intent.junction) is not None:
            paths.add(path)
    if named:
        _take_policies(transaction, outlook, named, own_jobs, users=removing)
    if paths:
        both = {"backends": sorted({b for b, _ in paths}), "paths": sorted({p for _, p in paths})}
        [rows] = transaction.ask(_MOUNTED(**both))
        for row in rows:
            outlook.junctions[row["backend"], row["junction_path"]] = row["id"]


def _take_policies(
    transaction: Transaction,
    outlook: Outlook,
    named: set[tuple[str, str]],
    own_jobs: frozenset[int],
    *,
    users: bool,
) -> None:
    [rows] = transaction.ask(
        _POLICIES(backends=sorted({b for b, _ in named}), names=sorted({n for _, n in named})),
    )
    by_row: dict[int, PolicyOutlook] = {}
    for row in rows:
        place = row["backend"], row["name"]
        own = row["state"] == PolicyState.PENDING and row["created_by_job"] in own_jobs
        if place not in named or own:
            continue
        # One row that cannot be read must not keep a backend's jobs from being claimed.
        rules, state = recorded_rules(row["rules"]), PolicyState(row["state"])
        outlook.policies[place] = by_row[row["id"]] = PolicyOutlook(
            id=row["uid"],
            row_id=row["id"],
            name=row["name"],
            rules=rules or (),
            state=PolicyState.ERROR if rules is None else state,
            readable=rules is not None,
            native=row["native"],
        )
    if users and by_row:
        [using] = transaction.ask(_USERS(ids=sorted(by_row)))
        for row in using:
            by_row[row["policy_id"]].used_by[row["id"]] = row["name"]


def meaning(
    transaction: Transaction, named: set[tuple[str, str]]
) -> dict[tuple[str, str], set[int]]:
    """The unfinished jobs that give a volume one of these policies (backend, name)."""
    found: dict[tuple[str, str], set[int]] = {}
    [rows] = transaction.ask(
        _MEANING(backends=sorted({b for b, _ in named}), names=sorted({n for _, n in named})),
    )
    for row in rows:
        if (place := (row["backend"], row["policy"])) in named:
            found.setdefault(place, set()).add(row["id"])
    return found


def take_ahead(
    transaction: Transaction, outlook: Outlook, rows: Rows, lanes: Iterable[str]
) -> list[tuple[int, Intent]]:
    """Put the unfinished jobs of these lanes into the outlook; in the order they will run.

    Also those of the lanes that these jobs hold besides, and so on: what comes of a clone
    or a rename depends on them. Jobs that block nobody (not begun, start time ahead) are
    kept for `Outlook.due_by`.
    """
    outlook.ahead.clear()
    outlook.gates.clear()
    outlook.later.clear()
    found: dict[int, Intent] = {}
    late: set[int] = set()
    loaded = set(lanes)
    while rows:
        _take_backends_of(transaction, outlook, rows)
        intents = _take_jobs(outlook, rows, found, late)
        wanted = {lane for one in intents for lane in one.lanes} - loaded
        loaded |= wanted
        [rows] = transaction.ask(jobs_in(wanted)) if wanted else [[]]
    return [(job_id, found[job_id]) for job_id in sorted(found) if job_id not in late]


def _take_backends_of(transaction: Transaction, outlook: Outlook, rows: Rows) -> None:
    """Put the backends of these jobs into the outlook: a copy holds a lane of another one's."""
    known = {backend.id for backend in outlook.backends.values()}
    if more := {row["backend_id"] for row in rows} - known:
        [found] = transaction.ask(backends_with(more))
        take_backends(outlook, found)


def _take_jobs(
    outlook: Outlook, rows: Rows, found: dict[int, Intent], late: set[int]
) -> list[Intent]:
    """Note the jobs of some lanes; those that were not known before."""
    names = {backend.id: backend.name for backend in outlook.backends.values()}
    new: list[Intent] = []
    for row in rows:
        job_id = row["id"]
        if job_id not in found:
            found[job_id] = intent_of(row, names[row["backend_id"]])
            new.append(found[job_id])
        if row["blocks"]:
            outlook.ahead[row["lane"]].append(job_id)
            if row["after"] == "success" and found[job_id].action.destructive:
                outlook.gates[row["lane"]] = job_id
        else:
            late.add(job_id)
            outlook.later[row["lane"]].append((row["not_before"], job_id, found[job_id]))
    return new
