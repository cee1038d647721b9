"""The NAS contract's operations, each written once for blocking and for awaiting callers.

An operation is a generator: it yields calls of a `Gateway`, gets their answers back, and
returns what the contract says. `perform` runs one where calls block, `aperform` where they
are awaited. Refusals are `Problem`s; the edges make them exceptions or HTTP answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from orchestrator.domain.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidSize,
    Locked,
    MissingField,
    NoSpace,
    Problem,
    ShrinkRefused,
    UnknownField,
    UnknownSnapshot,
    UnknownVolume,
)
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.sizes import parse_size
from orchestrator.nas.fields import (
    CHANGEABLE,
    CREATABLE,
    check_name,
    check_rules,
    place_of,
    settings_from,
    snapshot_of,
    volume_of,
)

T = TypeVar("T")
View = Mapping[str, Any]
#: Calls one method of a gateway, whose answer (or an awaitable of it) is sent back.
Ask = Callable[[Any], Any]
Operation = Generator[Ask, Any, T]

#: How far a volume grows by itself if nobody says how far, in percent of its size.
_AUTOSIZE_PERCENT = 120
#: What a volume has, in bytes, if nobody says how much, where it takes no storage by itself.
_USUAL_SIZES = {"memory": 2**30}
#: Volumes in these states are to be seen; others are as if they never existed.
_SEEN = ("available", "error")


def perform(operation: Operation[T], gateway: Any) -> T:
    """Run an operation on a gateway whose calls block."""
    answer: Any = None
    failure: Problem | None = None
    while True:
        try:
            ask = operation.throw(failure) if failure else operation.send(answer)
        except StopIteration as ended:
            result: T = ended.value
            return result
        answer, failure = None, None
        try:
            answer = ask(gateway)
        except Problem as problem:
            failure = problem


async def aperform(operation: Operation[T], gateway: Any) -> T:
    """Run an operation on a gateway whose calls are awaited."""
    answer: Any = None
    failure: Problem | None = None
    while True:
        try:
            ask = operation.throw(failure) if failure else operation.send(answer)
        except StopIteration as ended:
            result: T = ended.value
            return result
        answer, failure = None, None
        try:
            answer = await ask(gateway)
        except Problem as problem:
            failure = problem


# -- volumes ------------------------------------------------------------------------------


def volumes(
    *, after: str | None = None, limit: int | None = None
) -> Operation[list[dict[str, Any]]]:
    """The volumes that can be used, by name: those after a name, ``limit`` of them at most."""
    found = yield lambda gateway: gateway.volumes(after, limit)
    return [volume_of(view) for view in found if view["state"] in _SEEN]


def get_volume(name: str) -> Operation[dict[str, Any]]:
    """One volume, by its name or by ``node:/path``. Raises `UnknownVolume`."""
    return volume_of((yield from _find(name)))


def _find(name: str) -> Operation[View]:
    check_name(name)
    place = place_of(name)
    if place is not None:
        try:
            found: View = yield lambda gateway: gateway.volume_at(place[1])
        except UnknownVolume:
            found = yield lambda gateway: gateway.volume(name)
    else:
        found = yield lambda gateway: gateway.volume(name)
    if found["state"] not in _SEEN:
        raise _absent(name)
    return found


def _absent(name: str) -> UnknownVolume:
    return UnknownVolume(
        f"there is no volume {name!r}: make it first, or look at what there is", field="name"
    )


def create_volume(name: str, fields: Mapping[str, Any]) -> Operation[dict[str, Any]]:
    """Make a volume; it, as `get_volume` tells it. Raises `AlreadyExists`."""
    check_name(name)
    _refuse_unknown(fields, CREATABLE)
    driver = yield lambda gateway: gateway.driver()
    own_name, path = _named(name, fields, driver)
    size = _size(fields)
    if size is None:
        size = _USUAL_SIZES.get(driver)
    if size is None:
        raise MissingField("size_total is missing: say how many bytes", field="size_total")
    settings = _settings({**fields, "junction_path": path}, driver, {}, size)
    request = {
        "action": "volume.create",
        "volume": own_name,
        "policy": fields.get("active_policy_name"),
        "params": {"size_bytes": size, **({"settings": settings} if settings else {})},
    }
    try:
        yield lambda gateway: gateway.run([request])
    except AlreadyExists as problem:
        try:
            there = yield lambda gateway: gateway.volume(own_name)
        except UnknownVolume:
            raise problem from None  # what is taken is the place
        if there["state"] in _SEEN:
            raise
        raise AlreadyExists(
            f"the name {own_name!r} belongs to a volume that was deleted here, whose data is kept: "
            "choose another, or have an administrator rename, remove or bring that volume back "
            "('orchestrator volume unrestrict')",
            field="name",
            **problem.facts,
        ) from None
    return volume_of((yield from _find(own_name)))


def _named(name: str, fields: Mapping[str, Any], driver: str) -> tuple[str, str | None]:
    """The name of a volume to be made, and its junction path."""
    place, own, path = place_of(name), fields.get("name"), fields.get("junction_path")
    needs_both = driver == "ontap"
    if place is None:
        if own is not None and str(own) != name:
            raise InvalidInput(
                f"the volume is called {name!r} and its field name says {str(own)!r}: leave one "
                "out",
                field="name",
            )
        if path is None and needs_both:
            raise MissingField(
                "junction_path is missing: a volume that is given by name needs it",
                field="junction_path",
            )
        return name, path
    if path is not None and path != place[1]:
        raise InvalidInput(
            f"the volume is at {place[1]!r} and its field junction_path says {path!r}: leave one "
            "out",
            field="junction_path",
        )
    if own is None and needs_both:
        raise MissingField(
            "name is missing: a volume that is given by its junction path needs it", field="name"
        )
    return name if own is None else check_name(str(own)), place[1]


def _settings(
    fields: Mapping[str, Any], driver: str, before: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """The settings to be written; a volume that shall grow by itself is told how far."""
    always = frozenset({"autosize_enabled", "autosize_max_bytes", "junction_path"})
    settings = settings_from(fields, DRIVERS[driver].settings | always)
    after = {**before, **settings}
    if after.get("autosize_enabled") and after.get("autosize_max_bytes") is None:
        settings["autosize_max_bytes"] = max(1, size * _AUTOSIZE_PERCENT // 100)
    return settings


def _size(fields: Mapping[str, Any]) -> int | None:
    """The size that is asked for, in bytes. Raises `InvalidSize`."""
    if fields.get("size_total") is None:
        return None
    try:
        return parse_size(fields["size_total"])
    except InvalidSize as problem:
        raise InvalidSize(f"size_total: {problem.detail}", field="size_total") from None


def _refuse_unknown(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in fields:
        if name not in known:
            raise UnknownField(
                f"{name!r} cannot be written; what can be is {', '.join(sorted(known))}", field=name
            )


def patch_volume(name: str, fields: Mapping[str, Any]) -> Operation[dict[str, Any]]:
    """Change a volume; it, as it is then. Raises `UnknownVolume`, `InvalidInput`."""
    check_name(name)
    _refuse_unknown(fields, CHANGEABLE)
    found = yield from _find(name)
    driver = yield lambda gateway: gateway.driver()
    target = {"volume": found["name"]}
    requests: list[dict[str, Any]] = []
    size = _size(fields)
    if size is not None and size != found["size_bytes"]:
        if size < found["size_bytes"]:
            raise ShrinkRefused(
                f"volume {name!r} has {found['size_bytes']} bytes and cannot be made smaller: ask "
                "for more",
                field="size_total",
            )
        requests.append({"action": "volume.grow", **target, "params": {"size_bytes": size}})
    if settings := _settings(fields, driver, found["settings"], size or found["size_bytes"]):
        requests.append({"action": "volume.update", **target, "params": {"settings": settings}})
    if "active_policy_name" in fields and fields["active_policy_name"] != found["policy"]:
        requests.append(
            {"action": "policy.assign", **target, "policy": fields["active_policy_name"]}
        )
    if requests:
        yield lambda gateway: gateway.run(requests)
    return volume_of((yield from _find(found["name"])))


def restrict_volume(name: str) -> Operation[None]:
    """Hide a volume; its data stays, and an administrator can bring it back."""
    found = yield from _find(name)
    request = {"action": "volume.restrict", "volume": found["name"]}
    yield lambda gateway: gateway.run([request])


def clone_volume(
    name: str, source: str, snapshot: str, *, own: str | None = None
) -> Operation[dict[str, Any]]:
    """Make a volume with what a snapshot holds; ``own``: its name, if ``name`` is a place.

    Raises `UnknownVolume`, `UnknownSnapshot`, `AlreadyExists`.
    """
    check_name(name)
    place = place_of(name)
    if place is not None and own is not None:
        name = check_name(own)
    check_name(snapshot, "snapshot")
    try:
        origin = yield from _find(source)
    except UnknownVolume:
        raise UnknownVolume(f"No such volume: {source!r}", field="from_volume") from None
    yield lambda gateway: gateway.snapshot(origin["name"], snapshot)
    requests = [
        {
            "action": "volume.clone",
            "volume": name,
            "snapshot": snapshot,
            "params": {"source": origin["name"]},
        }
    ]
    if place is not None:
        where = {"settings": {"junction_path": place[1]}}
        requests.append({"action": "volume.update", "volume": name, "params": where})
    try:
        yield lambda gateway: gateway.run(requests)
    except AlreadyExists as problem:
        if problem.field not in ("volume", "jobs.0.volume"):
            raise
        raise AlreadyExists(
            f"the name {name!r} is in use: choose another", field="name", **problem.facts
        ) from None
    return volume_of((yield from _find(name)))


def rollback_volume(name: str, snapshot: str, *, discard_newer: bool = False) -> Operation[None]:
    """Put a volume back to a snapshot. Newer snapshots are lost by that: only if asked for."""
    check_name(snapshot, "snapshot")
    found = yield from _find(name)
    request = {
        "action": "volume.rollback",
        "volume": found["name"],
        "snapshot": snapshot,
        "params": {"discard_newer": discard_newer},
    }
    yield lambda gateway: gateway.run([request])


# -- snapshots ----------------------------------------------------------------------------


def get_snapshots(name: str) -> Operation[list[dict[str, Any]]]:
    """A volume's snapshots, oldest first."""
    found = yield from _find(name)
    kept = yield lambda gateway: gateway.snapshots(found["name"])
    return [snapshot_of(view) for view in kept if view["state"] == "available"]


def get_snapshot(name: str, snapshot: str) -> Operation[dict[str, Any]]:
    """One snapshot. Raises `UnknownVolume`, `UnknownSnapshot`."""
    check_name(snapshot, "snapshot")
    found = yield from _find(name)
    view = yield lambda gateway: gateway.snapshot(found["name"], snapshot)
    if view["state"] != "available":
        raise UnknownSnapshot(f"volume {name!r} has no snapshot {snapshot!r}", field="snapshot")
    return snapshot_of(view)


def create_snapshot(
    name: str, snapshot: str, *, purge_old: bool = False
) -> Operation[dict[str, Any]]:
    """Make a snapshot; with ``purge_old``, the oldest one goes where there is no room for it.

    One and no more: what is full for another reason would lose them all.
    """
    check_name(snapshot, "snapshot")
    found = yield from _find(name)
    target = {"volume": found["name"]}
    request = {"action": "snapshot.create", **target, "snapshot": snapshot}
    try:
        yield lambda gateway: gateway.run([request])
    except NoSpace:
        kept = yield lambda gateway: gateway.snapshots(found["name"])
        if not purge_old or not kept:
            raise
        oldest = {"action": "snapshot.delete", **target, "snapshot": kept[0]["name"]}
        yield lambda gateway: gateway.run([oldest])
        yield lambda gateway: gateway.run([request])
    return (yield from get_snapshot(found["name"], snapshot))


def delete_snapshot(name: str, snapshot: str) -> Operation[None]:
    """Delete a snapshot. Raises `UnknownVolume`, `UnknownSnapshot`."""
    check_name(snapshot, "snapshot")
    found = yield from _find(name)
    request = {"action": "snapshot.delete", "volume": found["name"], "snapshot": snapshot}
    yield lambda gateway: gateway.run([request])


# -- locks --------------------------------------------------------------------------------


def locks(name: str) -> Operation[str | None]:
    """The host that holds the volume's lock: ours, or one of the filer's own clients."""
    found = yield from _find(name)
    if found["lock"] is not None:
        return str(found["lock"]["owner"])
    if "client_locks" not in (yield lambda gateway: gateway.capabilities()):
        return None
    request = {"action": "volume.client_locks", "volume": found["name"]}
    [job] = yield lambda gateway: gateway.run([request])
    hosts = [lock["host"] for lock in job["result"]["locks"]]
    return hosts[0] if hosts else None


def create_lock(name: str, host: str) -> Operation[None]:
    """Take the volume's lock for a host; it may have it already. Raises `Locked`."""
    check_name(host, "host")
    found = yield from _find(name)
    yield lambda gateway: gateway.take_lock(found["name"], host)


def remove_lock(name: str, host: str) -> Operation[None]:
    """End the lock of a host; nothing happens if another host has it, or none."""
    check_name(host, "host")
    found = yield from _find(name)
    try:
        yield lambda gateway: gateway.release_lock(found["name"], host)
    except Locked:
        return


# -- export policies ----------------------------------------------------------------------


def policies() -> Operation[list[tuple[str, list[str]]]]:
    """Every policy with its rules."""
    found = yield lambda gateway: gateway.policies()
    return [(view["name"], view["rules"]) for view in found if view["state"] == "available"]


def get_policy(name: str) -> Operation[list[str]]:
    """The rules of a policy. Raises `UnknownPolicy`."""
    check_name(name, "policy")
    found = yield lambda gateway: gateway.policy(name)
    return list(found["rules"])


def create_policy(name: str, rules: Any) -> Operation[None]:
    """Make a policy. Raises `AlreadyExists`."""
    check_name(name, "policy")
    request = {"action": "policy.create", "policy": name, "params": {"rules": check_rules(rules)}}
    yield lambda gateway: gateway.run([request])


def remove_policy(name: str) -> Operation[None]:
    """Remove a policy that no volume has. Raises `UnknownPolicy`, `InUse`."""
    yield from _on_policy(name, "remove", {})


def ensure_rule_present(name: str, rule: str) -> Operation[None]:
    """Add a rule, unless it is there. Raises `UnknownPolicy`."""
    yield from _on_policy(name, "add_rule", {"rule": check_rules([rule])[0]})


def ensure_rule_absent(name: str, rule: str) -> Operation[None]:
    """Take a rule out, if it is there. Raises `UnknownPolicy`."""
    yield from _on_policy(name, "remove_rule", {"rule": check_rules([rule])[0]})


def _on_policy(name: str, verb: str, params: dict[str, Any]) -> Operation[None]:
    check_name(name, "policy")
    request = {"action": f"policy.{verb}", "policy": name, "params": params}
    yield lambda gateway: gateway.run([request])


def set_policy(name: str, policy: str | None) -> Operation[None]:
    """Give a volume a policy, or none. Raises `UnknownVolume`, `UnknownPolicy`."""
    found = yield from _find(name)
    if policy is not None:
        check_name(policy, "policy")
    request = {"action": "policy.assign", "volume": found["name"], "policy": policy}
    yield lambda gateway: gateway.run([request])
