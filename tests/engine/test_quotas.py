"""Quotas: what an account has and was promised is summed up from the rows, and never exceeds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import NotFound, Problem, QuotaExceeded
from orchestrator.domain.states import Role
from orchestrator.inventory.holdings import account_view
from orchestrator.inventory.quotas import list_quotas, remove_quota, set_quota
from orchestrator.jobs.retry import retry_request
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import plan, submit, submit_together
from orchestrator.jobs.turns import Turns
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import events, volumes
from tests.engine.conftest import Engine, act, create, grow
from tests.engine.test_adoption import plant

ANN = Actor("ann", Role.OPERATOR, "web")
BEN = Actor("ben", Role.OPERATOR, "web")
CAT = Actor("cat", Role.OPERATOR)
ROOT = Actor("root", Role.ADMIN, "web")
MIB = 2**20


def limit(engine: Engine, account: str = "web", backend: str = "ram", **limits: Any) -> None:
    wanted = {counted: limits.get(counted) for counted in ("bytes", "volumes", "snapshots")}
    engine.database.transact(
        lambda connection: set_quota(connection, account, backend, wanted, "tests", "because")
    )


def shown(engine: Engine, account: str = "web", **options: Any) -> dict[str, Any]:
    """The whole account, its pages put together."""
    entries: list[Any] = []
    after = None
    while True:
        with engine.database.read() as connection:
            view, after = account_view(connection, account, after=after, limit=3, **options)
        entries += view["entries"]
        if after is None:
            return {**view, "entries": entries}


def used(engine: Engine, account: str = "web", backend: str = "ram") -> dict[str, Any]:
    for found in shown(engine, account)["backends"]:
        if found["backend"] == backend:
            return {"used": found["used"], "promised": found["promised"]}
    return {}


def snapshot(volume: str, name: str, **more: Any) -> dict[str, Any]:
    return act("snapshot.create", volume, snapshot=name, **more)


def clone(source: str, volume: str) -> dict[str, Any]:
    return act("volume.clone", volume, params={"source": source})


def test_what_is_made_belongs_to_the_project_or_the_name_of_who_asked(engine: Engine) -> None:
    engine.submit(create("a"), actor=ANN)
    engine.submit(create("b"), actor=CAT)
    engine.work()
    engine.submit(clone("a", "c"), actor=CAT)
    engine.work()
    accounts = {name: view["account"] for name, view in engine.volumes().items()}
    assert accounts == {"a": "web", "b": "cat", "c": "cat"}


def test_what_is_added_to_a_volume_counts_for_its_owner_whoever_asks(engine: Engine) -> None:
    engine.submit(create("a"), actor=ANN)
    engine.work()
    accepted = engine.submit(grow("a", "2M"), snapshot("a", "s"), clone("a", "b"), actor=CAT)
    assert [engine.job(job)["account"] for job in accepted.job_ids] == ["web", "web", "cat"]
    limit(engine, bytes=2 * MIB)
    with pytest.raises(QuotaExceeded):
        engine.submit(grow("a", "3M"), actor=CAT)
    limit(engine, "cat", bytes=MIB)
    engine.work()
    assert used(engine)["used"] == {"bytes": 2 * MIB, "volumes": 1, "snapshots": 1}


def test_a_volume_that_a_job_before_will_make_is_its_submitters(engine: Engine) -> None:
    limit(engine, bytes=4 * MIB)
    engine.submit(create("a", "2M"), actor=ANN)
    [job] = engine.submit(grow("a", "3M"), actor=CAT).job_ids
    assert engine.job(job)["account"] == "web"
    with pytest.raises(QuotaExceeded):
        engine.submit(grow("a", "5M"), actor=CAT)


@pytest.mark.parametrize(
    ("limits", "fits", "exceeds", "field"),
    [
        ({"bytes": 3 * MIB}, create("b", "2M"), create("c", "1M"), "params.size_bytes"),
        ({"volumes": 2}, create("b"), clone("a", "c"), "volume"),
        ({"snapshots": 1}, snapshot("a", "s"), snapshot("a", "t"), "snapshot"),
        ({"bytes": 2 * MIB}, grow("a", "2M"), grow("a", "3M"), "params.size_bytes"),
    ],
)
def test_what_does_not_fit_is_refused_with_all_one_needs_to_know(
    engine: Engine,
    limits: dict[str, Any],
    fits: dict[str, Any],
    exceeds: dict[str, Any],
    field: str,
) -> None:
    engine.submit(create("a"), actor=ANN)
    engine.work()
    limit(engine, **limits)
    engine.submit(fits, actor=ANN)
    with pytest.raises(QuotaExceeded) as caught:
        engine.submit(exceeds, actor=BEN)
    facts = caught.value.facts
    [(counted, most)] = limits.items()
    assert (facts["account"], facts["backend"], facts["counted"]) == ("web", "ram", counted)
    assert facts["limit"] == most < facts["used"] + facts["promised"] + facts["asked"]
    assert facts["promised"] > 0
    assert caught.value.field == field
    assert "quota show web" in caught.value.detail
    engine.work()
    with pytest.raises(QuotaExceeded) as caught:
        engine.submit(exceeds, actor=ANN)
    assert caught.value.facts["promised"] == 0
    # Another account's are its own.
    engine.submit(create("elsewhere", "9M"), actor=CAT)


def test_a_batch_is_counted_as_a_whole_and_the_row_is_named(engine: Engine) -> None:
    limit(engine, bytes=3 * MIB)
    rows = [create(name, ref=name) for name in "abcd"]
    with pytest.raises(QuotaExceeded) as caught:
        engine.submit(*rows, actor=ANN)
    assert caught.value.field == "jobs.3.params.size_bytes"
    assert (caught.value.facts["index"], caught.value.facts["ref"]) == (3, "d")
    assert used(engine)["promised"]["volumes"] == 0
    engine.submit(*rows[:3], actor=ANN)


def test_jobs_committed_together_are_counted_together(engine: Engine) -> None:
    limit(engine, volumes=2)
    submissions = [
        Submission(requests=[parse_request(create(f"v{number}"))], actor=actor)
        for number, actor in enumerate([ANN, BEN, CAT, ANN, CAT])
    ]
    fates = engine.database.transact(
        lambda connection: submit_together(connection, submissions, max_attempts=5, turns=Turns())
    )
    assert [isinstance(fate, QuotaExceeded) for fate in fates] == [0, 0, 0, 1, 0]


def test_who_is_refused_promises_nothing_to_those_committed_with_it(engine: Engine) -> None:
    limit(engine, bytes=MIB)
    # ram holds 1T and may promise 20 times as much.
    submissions = [
        Submission(requests=[parse_request(create(f"v{n}", size))], actor=actor)
        for n, (size, actor) in enumerate([("1T", ANN)] + [("1T", CAT)] * 20)
    ]
    fates = engine.database.transact(
        lambda connection: submit_together(connection, submissions, max_attempts=5, turns=Turns())
    )
    assert [isinstance(fate, Problem) for fate in fates] == [True] + [False] * 20


def test_a_plan_tells_that_it_would_not_fit(engine: Engine) -> None:
    limit(engine, volumes=0)
    submission = Submission(requests=[parse_request(create("a"))], actor=ANN)
    with pytest.raises(QuotaExceeded):
        engine.database.transact(lambda connection: plan(connection, submission))


def test_a_retry_by_hand_is_counted_anew(engine: Engine) -> None:
    [job] = engine.submit(create("a"), actor=ANN).job_ids
    engine.cancel(job)
    limit(engine, volumes=0)
    with engine.database.read() as connection:
        request, bound = retry_request(connection, job)
    submission = Submission(requests=[request], actor=BEN, bound={0: bound})
    with pytest.raises(QuotaExceeded):
        engine.database.transact(partial(submit, submission=submission, max_attempts=5))
    limit(engine, volumes=1)
    engine.database.transact(partial(submit, submission=submission, max_attempts=5))
    assert used(engine)["promised"]["volumes"] == 1


def test_deleted_is_free_once_it_is_done_and_not_before(engine: Engine) -> None:
    limit(engine, volumes=1)
    engine.submit(create("a"), actor=ANN)
    engine.work()
    engine.submit(act("volume.remove", "a"), actor=ANN)
    with pytest.raises(QuotaExceeded):
        engine.submit(create("a"), actor=ANN)
    engine.work()
    engine.submit(create("a"), actor=ANN)


def test_what_a_canceled_job_would_have_made_is_free_again(engine: Engine) -> None:
    limit(engine, volumes=1)
    [job] = engine.submit(create("a"), actor=ANN).job_ids
    engine.cancel(job)
    engine.submit(create("b"), actor=ANN)


def test_jobs_with_a_start_time_ahead_count_from_now(engine: Engine) -> None:
    limit(engine, volumes=1)
    engine.submit(create("a", run_at="2100-01-01T00:00:00Z"), actor=ANN)
    with pytest.raises(QuotaExceeded):
        engine.submit(create("b"), actor=ANN)
    # What is added to it will be its owner's.
    later = grow("a", "2M", run_at="2100-01-02T00:00:00Z")
    [job] = engine.submit(later, actor=CAT).job_ids
    assert engine.job(job)["account"] == "web"


def test_a_quota_below_what_there_is_removes_nothing(engine: Engine) -> None:
    engine.submit(create("a", "4M"), create("b"), actor=ANN)
    engine.work()
    limit(engine, bytes=MIB)
    assert set(engine.volumes()) == {"a", "b"}
    with pytest.raises(QuotaExceeded):
        engine.submit(create("c"), actor=ANN)
    # What adds no bytes is not a question of bytes.
    engine.submit(snapshot("a", "s"), actor=ANN)


def test_setting_and_removing_are_told_with_before_and_after(engine: Engine) -> None:
    limit(engine, volumes=1)
    limit(engine, bytes=MIB)
    remove = partial(remove_quota, account="web", backend="ram", actor="tests", reason=None)
    engine.database.transact(remove)
    with pytest.raises(NotFound):
        engine.database.transact(remove)
    with engine.database.read() as connection:
        told = connection.execute(
            select(events.c.kind, events.c.data)
            .where(events.c.kind.like("quota.%"))
            .order_by(events.c.commit_id)
        ).all()
    none = {"max_bytes": None, "max_volumes": None, "max_snapshots": None}
    first, second = {**none, "max_volumes": 1}, {**none, "max_bytes": MIB}
    assert [(kind, data["before"], data["after"]) for kind, data in told] == [
        ("quota.set", None, first),
        ("quota.set", first, second),
        ("quota.removed", second, None),
    ]
    engine.submit(*[create(f"v{number}") for number in range(3)], actor=ANN)


def test_sizes_are_rounded_to_what_the_backend_gives(engine: Engine) -> None:
    limit(engine, backend="fast", bytes=MIB)
    with pytest.raises(QuotaExceeded) as caught:
        engine.submit(create("a", MIB + 1, backend="fast"), actor=ANN)
    assert caught.value.facts["asked"] > MIB + 1


def test_adopted_volumes_count_for_who_had_them_adopted(engine: Engine) -> None:
    plant(engine, "old", 3 * MIB)
    limit(engine, volumes=0)
    adopt = act("volume.adopt", "old")
    with pytest.raises(QuotaExceeded):
        engine.submit(adopt, actor=ROOT)
    limit(engine, volumes=1)
    engine.submit(adopt, actor=ROOT)
    engine.work()
    assert engine.volumes()["old"]["account"] == "web"
    assert used(engine)["used"] == {"bytes": 3 * MIB, "volumes": 1, "snapshots": 0}


def test_a_list_of_quotas_goes_on_where_a_page_ended(engine: Engine) -> None:
    for account in ("web", "cat", "a.b@c"):
        for backend in ("fast", "ram"):
            limit(engine, account, backend, volumes=5)
    engine.submit(create("a"), actor=ANN)
    found: list[tuple[str, str, int]] = []
    after: tuple[str, str] | None = None
    while True:
        with engine.database.read() as connection:
            page = list_quotas(connection, after=after, limit=4)
        found += [(one["account"], one["backend"], one["promised"]["volumes"]) for one in page]
        if len(page) < 4:
            break
        after = found[-1][0], found[-1][1]
    assert len(set(found)) == len(found) == 6
    assert [one for one in found if one[2]] == [("web", "ram", 1)]


def test_what_an_account_held_then(engine: Engine) -> None:
    engine.submit(create("a"), create("b"), actor=ANN)
    engine.work()
    with engine.database.read() as connection:
        then = connection.execute(select(db_now())).scalar_one()
    engine.submit(grow("a", "3M"), act("volume.remove", "b"), create("c"), actor=ANN)
    engine.work()
    before, now = shown(engine, at=then), shown(engine)
    assert {one["volume"]: one["bytes"] for one in before["entries"]} == {"a": MIB, "b": MIB}
    assert {one["volume"]: one["bytes"] for one in now["entries"]} == {"a": 3 * MIB, "c": MIB}
    [told] = before["backends"]
    assert (told["used"]["bytes"], told["used"]["volumes"], told["promised"]) == (2 * MIB, 2, None)


# -- never above, whoever asks at once ----------------------------------------------------


@pytest.fixture
def clients(engine: Engine) -> Iterator[list[Database]]:
    made = [Database(engine.settings.database_url, pool_size=1) for _ in range(8)]
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_who_comes_second_waits_until_the_first_has_committed(
    engine: Engine, clients: list[Database]
) -> None:
    limit(engine, volumes=1)
    fates: list[object] = []

    def second() -> None:
        # Its lane shares no lock with the first one's.
        submission = Submission(requests=[parse_request(create("second"))], actor=BEN)
        try:
            fates.append(
                clients[0].transact(partial(submit, submission=submission, max_attempts=5))
            )
        except QuotaExceeded as problem:
            fates.append(problem)

    thread = threading.Thread(target=second)
    with engine.database.write() as connection:
        submission = Submission(requests=[parse_request(create("first"))], actor=ANN)
        submit(connection, submission, max_attempts=5)
        thread.start()
        waiting = 0
        while not waiting and not fates:
            waiting = connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            ).scalar_one()
    thread.join()
    assert [type(fate) for fate in fates] == [QuotaExceeded]


def test_many_who_ask_at_once_never_get_more_than_the_quota(
    engine: Engine, clients: list[Database]
) -> None:
    limit(engine, bytes=10 * MIB, volumes=10, snapshots=3)
    engine.submit(create("base", "2M"), actor=ANN)
    engine.work()
    fates: Counter[str] = Counter()
    over: list[dict[str, Any]] = []
    done = threading.Event()

    def ask(number: int) -> None:
        for turn in range(6):
            name = f"v{number}-{turn}"
            for wanted in (create(name), snapshot("base", name)):
                submission = Submission(
                    requests=[parse_request(wanted)], actor=(ANN, BEN)[number % 2]
                )
                try:
                    clients[number].transact(partial(submit, submission=submission, max_attempts=5))
                except QuotaExceeded:
                    fates["refused"] += 1
                else:
                    fates[wanted["action"]] += 1

    def watch() -> None:
        while not done.is_set():
            found = used(engine)
            sums = {c: found["used"][c] + found["promised"][c] for c in found["used"]}
            if sums["bytes"] > 10 * MIB or sums["volumes"] > 10 or sums["snapshots"] > 3:
                over.append(found)

    def work() -> None:
        while not done.is_set():
            engine.work()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    others = [threading.Thread(target=one) for one in (watch, work)]
    for one in (*others, *threads):
        one.start()
    for one in threads:
        one.join()
    done.set()
    for one in others:
        one.join()
    engine.work()
    assert over == []
    assert fates["volume.create"] == 8
    assert fates["snapshot.create"] == 3
    assert used(engine)["used"] == {"bytes": 10 * MIB, "volumes": 9, "snapshots": 3}


# -- the explanation ----------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c"])
_STEPS = st.lists(
    st.one_of(
        st.builds(create, _NAMES, st.integers(1, 4).map(lambda n: n * MIB)),
        st.builds(grow, _NAMES, st.integers(2, 6).map(lambda n: n * MIB)),
        st.builds(snapshot, _NAMES, st.sampled_from(["s", "t"])),
        st.builds(clone, _NAMES, st.sampled_from(["d", "e"])),
        st.builds(lambda name: act("volume.remove", name), _NAMES),
        st.builds(lambda name: act("snapshot.delete", name, snapshot="s"), _NAMES),
        st.just({}),
    ),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=_STEPS, actors=st.lists(st.sampled_from([ANN, CAT]), min_size=12, max_size=12))
def test_the_sums_of_the_rows_are_the_usage(
    engine: Engine, steps: list[dict[str, Any]], actors: list[Actor]
) -> None:
    for step, actor in zip(steps, actors, strict=False):
        if not step:
            engine.work()
            continue
        try:
            engine.submit(step, actor=actor)
        except Problem:
            continue
    for account in ("web", "cat"):
        view = shown(engine, account)
        for counted in ("bytes", "volumes", "snapshots"):
            for kind, which in (("volume", "used"), ("job", "promised")):
                rows = [one for one in view["entries"] if one["kind"] == kind]
                assert sum(one[counted] for one in rows) == sum(
                    found[which][counted] for found in view["backends"]
                )
    engine.work()
    with engine.database.read() as connection:
        owners = set(connection.execute(select(volumes.c.account)).scalars())
    assert owners <= {"web", "cat"}
