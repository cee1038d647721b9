"""What must hold after every cell: looked up on the storage itself, and in the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.data.cases import CASES, Case, N, V, W
from tests.data.model import Volume
from tests.data.patterns import BLOCK, MIB, ZERO, differing, owners
from tests.data.site import HERE, SIDE, Broken, Request, Site

#: Findings that call something lost, or a stranger's.
_LOST = ("ghost", "orphan")
_LOOKS = ("volume.export", "volume.verify")
#: What a copy strikes from its own inventory production still has.
_OWN_BUSINESS = ("volume.forget",)
_TAKES_AWAY = ("volume.remove", "volume.purge")

Job = dict[str, Any] | None


def meanwhile(site: Site, cell: Any, state: Any, others: Any) -> Iterator[str]:
    """While the cause lasts nobody's files are touched; what is there is not called lost."""
    yield from _files(site)
    volume = site.model.volumes.get(V)
    there = site.ground.contents() if "images" in site.ground.has else {}
    if volume is None or others.differs or volume.id not in there:
        return
    for one in site.findings():
        if one["volume_id"] == volume.id and one["kind"] in _LOST:
            yield f"the audit says {one['kind']} of what is there: {one['text']}"


def refused(job: Job) -> None:
    """A copy of the database must not change anything."""
    if job is not None and job["state"] == "succeeded":
        action = job["action"]
        if action.partition(".")[0] in ("volume", "snapshot") and action not in (
            *_LOOKS,
            *_OWN_BUSINESS,
        ):
            raise Broken(f"a copy of the database did {action}, beside production")


def outcome(
    site: Site, cell: Any, case: Case, state: Any, others: Any, request: Request, job: Job
) -> Iterator[str]:
    """The outcome of the job is what happened: nothing more, nothing less, nothing else."""
    if job is None:
        return
    if job["finished_at"] is None:
        yield f"the job is {job['state']} for ever: {job['waiting_on']} {job['error']}"
        return
    if (job["error"] or {}).get("code") == "internal_error":
        yield f"an error that nobody foresaw: {job['error']}"
    if job["state"] != "succeeded":
        return
    away = others.name == "move away" and case.action in _TAKES_AWAY
    if state.used and not (case.harmless or case.builds or away or _undoes(cell)):
        yield f"{case.id} was done while the volume was {state.name}"
    if request.get("params", {}).get("lost") and others.name != "move away":
        yield f"{V} was struck as lost, and it is there"
    yield from _results(site, case, request, job)


def _undoes(cell: Any) -> bool:
    """Whether the action ends the very use, or leaves what is used as it is."""
    quiet = {"volume.create", "volume.import", "volume.clone of a snapshot", "snapshot.delete"}
    return cell.case in quiet | {"volume.export of a snapshot"} or (
        cell.case == "volume.detach" and cell.state in ("plain", "attached here")
    )


def _results(site: Site, case: Case, request: Request, job: Any) -> Iterator[str]:
    """What a succeeded job has handed out or written elsewhere."""
    volume = site.model.volumes.get(V)
    if volume is None:
        return
    good = [volume.padded, *_also(site, V)]
    if "snapshot" in request and case.action == "volume.export":
        good = [volume.snapshots[request["snapshot"]].contents]
    if case.action == "volume.export":
        path = Path(request["params"]["target"])
        yield from _whole("the export", path.read_bytes(), good)
        site.model.files[path] = path.read_bytes()
    elif case.action == "volume.copy":
        found = list((site.directory / SIDE).glob("volumes/**/*.img"))
        if len(found) != 1:
            yield f"the copy is {[path.name for path in found]}"
        else:
            yield from _whole("the copy", found[0].read_bytes(), good)
    elif case.action == "volume.attach":
        device = site.device(V)
        if device is not None:
            yield from _whole("the device", Path(device).read_bytes(), good)
    elif case.action == "volume.verify" and job["result"].get("agrees"):
        for told in _recorded(site, volume):
            yield f"'verify' agrees, and {told}"
    elif case.action in _TAKES_AWAY and _wiped(job):
        for held in site.ground.recycled():
            if owners(held) & {V}:
                yield "the removal says that it has wiped, and what it wiped is still there"


def _wiped(job: Any) -> bool:
    """Whether the result says that something was overwritten."""
    return any(value for name, value in job["result"].items() if name.startswith("wiped"))


def _whole(what: str, held: bytes, good: list[bytes]) -> Iterator[str]:
    if not any(_same(held, one) for one in good):
        yield f"{what} is not what the volume held: {differing(held, good[0])}"


def _same(held: bytes, wanted: bytes) -> bool:
    return held.rstrip(b"\0") == wanted.rstrip(b"\0")


def _also(site: Site, name: str) -> list[bytes]:
    return [site.model.also[name]] if name in site.model.also else []


def kept(site: Site, cell: Any, case: Case, others: Any, job: Job) -> Iterator[str]:
    """No byte is gone, nothing is shown to others, and the record is true or a finding says so."""
    partly = case.overwrites and (job is None or job["state"] != "succeeded")
    told = list(_contents(site, cell, partly))
    told += _files(site)
    findings = site.audit()
    told += _records(site, cell, others, findings, job)
    told += [f"left over: {one}" for one in site.ground.leftovers()]
    yield from told


def _contents(site: Site, cell: Any, partly: bool) -> Iterator[str]:
    with site.seen_as_truth():
        truth = site.ground.contents()
        volumes = [*site.model.volumes.values(), *site.model.forgotten]
        for volume in volumes:
            held = truth.get(volume.id)
            if held is None:
                yield f"{volume.name} is gone from the storage"
                continue
            yield from _held(site, volume, held, partly and volume.name == V)
            kept = site.ground.snapshots(volume.id) if "snapshots" in site.ground.has else {}
            for name, one in volume.snapshots.items():
                if volume.name == V and name in site.model.deleted:
                    continue
                if one.id not in kept:
                    yield f"snapshot {name} of {volume.name} is gone from the storage"
                    continue
                good = [one.contents, *_also(site, volume.name), volume.contents]
                recent = name == "s3"
                if not any(_same(kept[one.id], each) for each in (good if recent else good[:1])):
                    yield (
                        f"snapshot {name} of {volume.name} is not what it was: "
                        f"{differing(kept[one.id], one.contents)}"
                    )


def _held(site: Site, volume: Volume, held: bytes, partly: bool) -> Iterator[str]:
    fresh = volume.name == N
    good = [volume.padded]
    if fresh:
        good += _also(site, V)
        good += [site.model.volumes[V].padded] if V in site.model.volumes else []
        good = good if len(volume.owners) > 1 else good[:1]
    strangers = owners(held) - volume.owners
    if strangers:
        yield f"{volume.name} shows what belongs to {', '.join(sorted(strangers))}"
    if any(_same(held, one) for one in good):
        return
    if partly and _overwritten(held, volume.padded):
        return
    yield f"{volume.name} does not hold what it must: {differing(held, good[0])}"


def _overwritten(held: bytes, before: bytes) -> bool:
    """Whether each block is what it was or zeroes."""
    return len(held) == len(before) and all(
        held[place : place + BLOCK] in (before[place : place + BLOCK], ZERO)
        for place in range(0, len(before), BLOCK)
    )


def _files(site: Site) -> list[str]:
    told = []
    for path, wanted in site.model.files.items():
        if not path.exists():
            told.append(f"a person's file {path.name!r} is gone")
        elif not _same(held := path.read_bytes(), wanted):
            told.append(f"a person's file {path.name!r} was changed: {differing(held, wanted)}")
    return told


def _records(
    site: Site, cell: Any, others: Any, findings: list[dict[str, Any]], job: Job
) -> Iterator[str]:
    """The record is true. A finding may say otherwise where persons have changed something."""
    # What is recorded then is what was there at that moment.
    told_so = others.differs and CASES[cell.case].action in ("volume.reconcile", "volume.adopt")
    excused = not others.passes or cell.life != "as it is" or told_so
    rows = site.recorded()
    named = {one["volume"] for one in findings} if excused else set()
    for name in rows.keys() ^ site.model.volumes.keys():
        forgotten = any(one.name == name for one in site.model.forgotten)
        if name in site.model.volumes and name in named:
            continue
        if name in site.model.volumes or not forgotten:
            yield f"{name} is {'not ' if name in site.model.volumes else ''}in the inventory"
    for name, volume in site.model.volumes.items():
        if name not in rows:
            continue
        row = rows[name]
        if row.state not in ("available", "restricted"):
            yield f"{name} is in state {row.state}: {row.detail}"
        for told in _recorded(site, volume):
            if name not in named:
                yield told
    stamps = site.ground.contents().keys()
    known = {one.id for one in (*site.model.volumes.values(), *site.model.forgotten)}
    removes = CASES[cell.case].action in ("volume.remove", "volume.purge")
    if removes and others.name == "move away" and site.ground.driver == "extstorage":
        # A provider's remove ends with success where nothing is, and cannot list what came back.
        return
    for id_ in stamps - known:
        # Of a file that bears no stamp the finding tells the path, which has the id in it.
        if not any(id_ in (one["volume_id"], str(one["volume"])[-36:-4]) for one in findings):
            yield f"the storage has a volume {id_} that nobody knows, and no finding says so"


def _recorded(site: Site, volume: Volume) -> Iterator[str]:
    """What of the record of a volume is not so."""
    row = site.recorded().get(volume.name)
    if row is None:
        return
    if row.id != volume.id:
        yield f"{volume.name} is recorded as {row.id}, and is {volume.id}"
    held = site.ground.contents().get(volume.id)
    if held is not None and "images" in site.ground.has and len(held) != row.size_bytes:
        yield f"{volume.name} is recorded with {row.size_bytes} bytes, and has {len(held)}"
    told = site.told(volume) if "requests" in site.ground.has else row.size_bytes
    if told != row.size_bytes:
        yield f"{volume.name} is recorded with {row.size_bytes} bytes, and the filer has {told}"
    if row.size_bytes != volume.size:
        yield f"{volume.name} is recorded with {row.size_bytes} bytes instead of {volume.size}"
    if volume.metadata and "metadata" in site.ground.has and row.metadata != volume.metadata:
        yield f"{volume.name} is recorded with {row.metadata} instead of {volume.metadata}"
    kept = site.ground.snapshots(volume.id).keys() if "snapshots" in site.ground.has else set()
    for name, one in site.recorded_snapshots(volume.id).items():
        if one.state != "available":
            yield f"snapshot {name} of {volume.name} is in state {one.state}"
    recorded = {one.id for one in site.recorded_snapshots(volume.id).values()}
    names = set(site.recorded_snapshots(volume.id))
    if names != (right := set(volume.snapshots) - site.model.deleted):
        yield f"{volume.name} is recorded with the snapshots {names} instead of {right}"
    if held is not None and recorded != kept:
        yield (
            f"{len(recorded - kept)} snapshots of {volume.name} are recorded and not there, "
            f"{len(kept - recorded)} are there and not recorded"
        )


def usable(site: Site, name: str, others: Any, life: Any) -> None:
    """Once the cause is gone the volume grows, is attached, read, and goes: nobody need help."""
    if name not in site.model.volumes:
        name = W
    if not others.passes or life.name != "as it is":
        _heed(site)
    try:
        _use(site, name, site.model.volumes[name])
    except AssertionError as error:
        raise Broken(f"{name} cannot be used once the cause is gone: {error}") from None


def _use(site: Site, name: str, volume: Volume) -> None:
    row = site.recorded()[name]
    if row.state == "restricted":
        site.do({"action": "volume.unrestrict", "volume": name})
    for _ in range(len(site.attached(row.id))):
        site.do({"action": "volume.detach", "volume": name, "host": HERE})
    size = row.size_bytes + MIB
    site.do({"action": "volume.grow", "volume": name, "params": {"size_bytes": size}})
    if "attach" in site.ground.has:
        device = site.attach(name)
        held = Path(device).read_bytes()
        good = [volume.padded, *_also(site, name), *_also(site, V)]
        if CASES and not any(_same(held, one) for one in good) and name not in (N,):
            raise Broken(f"the device of {name} shows {differing(held, volume.padded)}")
        site.detach(name)
    for snapshot in site.recorded_snapshots(row.id):
        # Those that were found and recorded are not in the model.
        delete = site.do if snapshot in volume.snapshots else site.done
        delete({"action": "snapshot.delete", "volume": name, "snapshot": snapshot})
    site.do({"action": "volume.remove", "volume": name})
    if row.id in site.ground.contents():
        raise Broken(f"{name} was removed, and is still on the storage")


def _heed(site: Site) -> None:
    """Do what findings offer and loses nothing; after each repair the rest is seen anew."""
    harmless = ("record", "detach", "adopt", "recount")
    done: set[str] = set()
    while True:
        offered = (
            (one, repair["name"])
            for one in site.audit()
            for repair in one["repairs"]
            if repair["name"] in harmless and one["subject"] not in done
        )
        if (found := next(offered, None)) is None:
            return
        one, name = found
        done.add(one["subject"])
        job = site.repair(one["id"], name)
        known = {volume.name for volume in site.model.forgotten}
        if (
            job["state"] == "succeeded"
            and job["action"] == "volume.adopt"
            and one["volume"] in known
        ):
            site.play({"action": "volume.adopt", "volume": one["volume"]}, job)
