"""What must hold after every cell, whatever has happened: read from database and storage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import func, select

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.lanes import lanes_of
from orchestrator.history.events import read_after
from orchestrator.store.database import Database
from orchestrator.store.tables import (
    attachments,
    backends,
    job_lanes,
    jobs,
    locks,
    policies,
    promises,
    snapshots,
    volumes,
)
from tests.chaos.cases import BACKEND, Request
from tests.chaos.model import Model, Volume
from tests.chaos.storage import Storage
from workers.backends.base.facts import Absent
from workers.backends.base.references import VolumeRef

_PAGE = 1000
_ENDS = {"job.succeeded": "succeeded", "job.failed": "failed", "job.canceled": "canceled"}


class Checked(Protocol):
    """What is looked at: one installation with one backend."""

    @property
    def host(self) -> str:
        """The host on whose behalf volumes are attached."""

    database: Database
    storage: Storage
    driver_name: str
    #: The directory of the image that is imported, and of exports.
    exchange: Path
    #: What must be there, from the jobs that were accepted, in the order of their ids.
    model: Model
    asked: list[tuple[int, Request]]
    #: The last event that was looked at.
    event_number: int

    def settle(self) -> object:
        """Play the jobs that have ended since into the model."""


class Broken(AssertionError):
    """An invariant does not hold; each line tells one."""


def check(world: Checked, expected: dict[int, str], names: Iterable[str]) -> None:
    """Raise `Broken` unless everything holds.

    ``expected`` says how jobs must have ended; ``names`` are volumes to be looked at closely.
    """
    world.settle()
    told = [
        *_ended(world, expected),
        *_nothing_is_held(world),
        *_history(world),
        *_inventory(world),
        *_policies(world),
        *_promises(world),
        *_storage(world),
        *_policies_on_storage(world),
        *_closely(world, names),
        *_exports(world),
    ]
    if told:
        raise Broken("\n".join(told))


def _ended(world: Checked, expected: dict[int, str]) -> Iterable[str]:
    """Every accepted job ended, under the number of its latest claim, and as it must."""
    ids = {job_id for job_id, _ in world.asked}
    with world.database.read() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.id)).all()
    for row in rows:
        what = f"job {row.id} ({row.action} of {row.volume})"
        if row.id not in ids:
            yield f"{what} was never accepted"
        if row.finished_at is None:
            yield f"{what} is {row.state} for ever: {row.error}"
        elif row.state != expected.get(row.id, row.state):
            yield f"{what} has {row.state} instead of {expected[row.id]}: {row.error}"
        if row.finished_at is not None and row.lease_expires_at is not None:
            yield f"{what} has ended and still has a lease"
        if row.state in ("succeeded", "failed") and row.outcome_fence != row.fence:
            yield f"{what} was ended by claim {row.outcome_fence} and not by its last, {row.fence}"
    for job_id in sorted(ids - {row.id for row in rows}):
        yield f"job {job_id} was accepted and is not there"


def _nothing_is_held(world: Checked) -> Iterable[str]:
    """No lane, lock or pending thing is left when no job is."""
    with world.database.read() as connection:
        for table in (job_lanes, locks):
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count:
                yield f"{count} rows are left in {table.name}"
        for things in (volumes, snapshots, policies):
            stuck = select(things.c.name).where(things.c.state.in_(("pending", "error")))
            for name in connection.execute(stuck).scalars():
                yield f"{name} of {things.name} is stuck"


def _history(world: Checked) -> Iterable[str]:
    """Numbers without gaps; of each job one submission, one end, and one effect if it did well."""
    happened: dict[int, list[Any]] = defaultdict(list)
    while True:
        with world.database.read() as connection:
            page: Sequence[Any] = read_after(connection, world.event_number, _PAGE)
        if not page:
            break
        for event in page:
            if event.number != world.event_number + 1:
                yield f"event {event.number} follows event {world.event_number}"
            world.event_number = event.number
            if event.job_id is not None:
                happened[event.job_id].append(event)
    with world.database.read() as connection:
        query = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(list(happened)))
        states = dict(connection.execute(query).all())
    for job_id, events in happened.items():
        yield from _life(job_id, states.get(job_id), [event.kind for event in events])
    yield from _order(world, happened)


def _life(job_id: int, state: str | None, kinds: list[str]) -> Iterable[str]:
    if state is None:
        yield f"job {job_id} has a history and no row: {kinds}"
        return
    counts = Counter(kinds)
    ends = [kind for kind in kinds if kind in _ENDS]
    if counts["job.submitted"] != 1 or kinds[0] != "job.submitted":
        yield f"job {job_id} was not submitted once: {kinds}"
    if [_ENDS[kind] for kind in ends] != [state] or kinds[-1] != ends[-1]:
        yield f"job {job_id}, {state}, did not end once: {kinds}"
    effects = sum(kind in ACTIONS for kind in kinds)
    if effects != (state == "succeeded"):
        yield f"job {job_id}, {state}, had {effects} effects: {kinds}"


def _order(world: Checked, happened: dict[int, list[Any]]) -> Iterable[str]:
    """In a lane a job starts only after the one before it has ended."""
    last: dict[str, tuple[int, int]] = {}
    for job_id, request in world.asked:
        events = happened.get(job_id)
        if not events:
            continue
        starts = [event.number for event in events if event.kind == "job.started"]
        for lane in _lanes(request):
            before, ended = last.get(lane, (0, 0))
            if starts and starts[0] < ended:
                yield f"job {job_id} began before job {before}, ahead of it in {lane}, had ended"
            last[lane] = (job_id, events[-1].number)


def _lanes(request: Request) -> list[str]:
    return lanes_of(
        ACTIONS[request["action"]],
        request["backend"],
        request.get("volume"),
        request.get(ACTIONS[request["action"]].kind),
        request.get("params") or {},
    )


def _inventory(world: Checked) -> Iterable[str]:
    """The inventory says what the jobs must have brought about, and no more."""
    model = world.model
    with world.database.read() as connection:
        id_, state = connection.execute(
            select(backends.c.id, backends.c.state).where(backends.c.name == BACKEND)
        ).one()
        there = (volumes.c.backend_id == id_, volumes.c.state != "removed")
        rows = connection.execute(select(volumes).where(*there)).all()
        uses = {row.volume_id: row for row in connection.execute(select(attachments))}
        given = dict(connection.execute(select(policies.c.id, policies.c.uid)).all())
    if state != model.backend_state:
        yield f"the backend is {state} and not {model.backend_state}"
    found = {row.name: row for row in rows}
    for name in sorted(found.keys() ^ model.volumes.keys()):
        yield f"{name} is {'not ' if name in model.volumes else ''}in the inventory"
    for name in found.keys() & model.volumes.keys():
        row, wanted = found[name], model.volumes[name]
        use = uses.get(row.id)
        told = (row.id, row.size_bytes, row.metadata, row.state, use is not None)
        right = (wanted.id, wanted.size, wanted.metadata, wanted.state, wanted.attached)
        if told != right:
            yield f"the inventory says {told} of {name}, and it must be {right}"
        policy = model.policies[wanted.policy].id if wanted.policy else None
        exported = (row.settings, row.junction_path, given.get(row.policy_id))
        to_be = (wanted.settings, wanted.settings.get("junction_path"), policy)
        if exported != to_be:
            yield f"the inventory says {name} is exported as {exported}, and it must be {to_be}"
        if (use.opening if use else None) != wanted.opening or (use and use.host != world.host):
            yield f"the attachment of {name} is {use}"


def _policies(world: Checked) -> Iterable[str]:
    """The inventory has the policies that the jobs have brought about, and no more."""
    with world.database.read() as connection:
        rows = connection.execute(select(policies).where(policies.c.state != "removed")).all()
    there = {facts.id: facts.native for facts in world.storage.policies()}
    told = {row.name: (row.uid, row.rules, row.state, row.native) for row in rows}
    right = {
        name: (policy.id, policy.rules, "available", there.get(policy.id))
        for name, policy in world.model.policies.items()
    }
    for name in sorted(told.keys() | right.keys()):
        if told.get(name) != right.get(name):
            yield (
                f"the inventory says {told.get(name)} of policy {name}, "
                f"and it must be {right.get(name)}"
            )


def _policies_on_storage(world: Checked) -> Iterable[str]:
    """The storage has these policies, and those that persons made, as they made them."""
    found = world.storage.policies()
    told = {facts.name: (facts.id, [rule.written for rule in facts.rules]) for facts in found}
    right: dict[str, tuple[str | None, list[str]]] = {
        name: (policy.id, policy.rules) for name, policy in world.model.policies.items()
    }
    right |= {name: (None, rules) for name, rules in world.storage.stray_policies.items()}
    for name in sorted(told.keys() | right.keys()):
        if told.get(name) != right.get(name):
            yield (
                f"the storage has {told.get(name)} of policy {name}, "
                f"and it must be {right.get(name)}"
            )


def _promises(world: Checked) -> Iterable[str]:
    """The running sum of what was promised is what there is, when nothing is under way."""
    with world.database.read() as connection:
        query = (
            select(func.sum(promises.c.promised_bytes))
            .join(backends, backends.c.id == promises.c.backend_id)
            .where(backends.c.name == BACKEND)
        )
        promised = connection.execute(query).scalar() or 0
    there = sum(volume.size for volume in world.model.volumes.values())
    if promised != there:
        yield f"{promised} bytes are promised, and {there} are there"


def _storage(world: Checked) -> Iterable[str]:
    """The storage holds what the inventory says, what was forgotten, and what persons made."""
    there = world.storage.volumes()
    wanted = {volume.id: volume for volume in _kept(world.model)}
    native = DRIVERS[world.driver_name].settings
    for id_ in there.keys() ^ wanted.keys():
        where = "the storage holds" if id_ in there else "the storage has lost"
        yield f"{where} {there.get(id_) or wanted.get(id_)}"
    for id_ in there.keys() & wanted.keys():
        facts, volume = there[id_], wanted[id_]
        settings = {name: value for name, value in volume.settings.items() if name in native}
        told = (facts.name, facts.size_bytes, facts.metadata, facts.settings, facts.policy)
        right = (volume.name, volume.size, volume.metadata, settings, volume.policy)
        if told != right:
            yield f"the storage has {told}, and it must be {right}"
    for stray in world.storage.strays:
        if not world.storage.untouched(stray):
            yield f"{stray.name}, which a person made, was touched"
    yield from world.storage.leftovers()


def _kept(model: Model) -> list[Volume]:
    return [*model.volumes.values(), *model.forgotten]


def _exports(world: Checked) -> Iterable[str]:
    """Each export that was made is there, whole, and nothing else."""
    found = {str(path): path for path in world.exchange.iterdir() if path.name != "image"}
    for path in found.keys() ^ world.model.exports.keys():
        yield f"{path} is {'not there' if path in world.model.exports else 'there'}"
    for path in found.keys() & world.model.exports.keys():
        held, mark = found[path].read_bytes(), world.model.exports[path]
        if held.rstrip(b"\0") != mark:
            yield f"{path} holds {held[:80]!r} and not {mark!r}"


def _closely(world: Checked, names: Iterable[str]) -> Iterable[str]:
    """Contents, snapshots and attachments of these volumes, in the storage and the inventory."""
    wanted = set(names)
    for volume in _kept(world.model):
        if volume.name not in wanted:
            continue
        ref = VolumeRef(volume.id, volume.name)
        if world.storage.driver.inspect(ref) == Absent():
            continue
        if (mark := world.storage.marked(ref)) != volume.mark:
            yield f"{volume.name} holds {mark!r} and not {volume.mark!r}"
        if world.storage.attached(ref) != volume.attached:
            yield f"{volume.name} is {'not ' if volume.attached else ''}attached"
        found = world.storage.snapshots(ref)
        kept = {name: (size, mark) for name, (_, size, mark) in found.items()}
        if list(kept.items()) != list(volume.snapshots.items()):
            yield f"{volume.name} has snapshots {kept}, not {volume.snapshots}"
        with world.database.read() as connection:
            query = select(snapshots.c.name, snapshots.c.id).where(
                snapshots.c.volume_id == volume.id, snapshots.c.state == "available"
            )
            recorded = dict(connection.execute(query).all())
        # What the inventory has forgotten is only there.
        there = {} if volume in world.model.forgotten else found
        if recorded != {name: id_ for name, (id_, _, _) in there.items()}:
            yield f"{volume.name} has snapshots {recorded} in the inventory, {found} in truth"
