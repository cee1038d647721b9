"""What the filer's records say of volumes, in our words; and settings, in the filer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domain.errors import InvalidInput, Unsupported
from workers.backends.base.facts import SnapshotFacts, VolumeFacts
from workers.backends.base.references import PolicyRef
from workers.backends.ontap.names import (
    NEW,
    is_scheduled,
    native_policy,
    seen_other,
    seen_volume,
)
from workers.backends.ontap.stamps import read_stamp

#: All that is ever wanted of a volume, so that a listing is one query.
VOLUME_FIELDS = ",".join(
    (
        *("uuid", "name", "comment", "state", "size", "is_svm_root", "aggregates.name"),
        *("space.used", "space.snapshot.reserve_percent", "space.snapshot.space_used_percent"),
        *("autosize.mode", "autosize.maximum", "efficiency.compression"),
        *("nas.path", "nas.export_policy.name"),
        *("clone.is_flexclone", "clone.split_initiated", "clone.split_complete_percent"),
    )
)
#: Where a snapshot's record has its place among those of its volume (`SnapshotFacts.order`).
ORDER = "_order"
SNAPSHOT_FIELDS = "uuid,name,comment,create_time,size,volume.uuid"

#: Background and inline compression, as ONTAP puts both into one word.
_COMPRESSION = {
    (False, False): "none",
    (True, False): "background",
    (False, True): "inline",
    (True, True): "both",
}
_SYSTEM_AGGREGATE = "aggr0"
_DEFAULT_POLICY = "default"


def usable(aggregate: str) -> bool:
    """Whether volumes may be on it: ``aggr0*`` is where the filer keeps its own system."""
    return not aggregate.startswith(_SYSTEM_AGGREGATE)


def is_listed(record: Mapping[str, Any]) -> bool:
    """Whether a listing tells of it: not of what is being built, nor of the filer's own.

    What others have made and closed (restricted, offline) is left out as well.
    """
    if record.get("is_svm_root") or str(record["name"]).startswith(NEW):
        return False
    if not all(usable(one["name"]) for one in record.get("aggregates", ())):
        return False
    return record.get("state") == "online" or read_stamp(record.get("comment")) is not None


def volume_facts(record: Mapping[str, Any], address: str | None) -> VolumeFacts:
    """What a record says; ``address`` is where the SVM serves NFS."""
    stamp = read_stamp(record.get("comment"))
    space = record.get("space", {})
    nas = record.get("nas", {})
    policy = nas.get("export_policy", {}).get("name")
    used = space.get("snapshot", {}).get("space_used_percent")
    return VolumeFacts(
        id=stamp.id if stamp else None,
        name=seen_volume(record["name"]),
        size_bytes=int(record.get("size", 0)),
        used_bytes=int(space.get("used", 0)),
        restored_by=stamp.restored_by if stamp else None,
        settings=_settings(record),
        policy=None if policy in (None, _DEFAULT_POLICY) else seen_other(policy),
        address=address if nas.get("path") else None,
        snapshot_reserve_used_percent=None if used is None else int(used),
        restricted=record.get("state") == "restricted",
    )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    autosize, efficiency = record.get("autosize", {}), record.get("efficiency", {})
    background, inline = _compression(record) if efficiency.get("compression") else (None, None)
    aggregates = [one["name"] for one in record.get("aggregates", ())]
    told = {
        "autosize_enabled": autosize["mode"] != "off" if "mode" in autosize else None,
        "autosize_max_bytes": autosize.get("maximum"),
        "snapshot_reserve_percent": record.get("space", {})
        .get("snapshot", {})
        .get("reserve_percent"),
        "compression": background,
        "inline_compression": inline,
        "junction_path": record.get("nas", {}).get("path"),
        "aggregate": aggregates[0] if len(aggregates) == 1 else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _compression(record: Mapping[str, Any]) -> tuple[bool, bool]:
    there = record.get("efficiency", {}).get("compression")
    return next((both for both, word in _COMPRESSION.items() if word == there), (False, False))


def settings_body(
    settings: Mapping[str, Any], present: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The part of a request that asks for these settings, the aggregate not among them.

    ``present`` is the volume's record, if there is one.
    """
    body: dict[str, Any] = {}
    autosize: dict[str, Any] = {}
    if settings.get("autosize_enabled") is not None:
        autosize["mode"] = "grow" if settings["autosize_enabled"] else "off"
    if settings.get("autosize_max_bytes") is not None:
        autosize["maximum"] = settings["autosize_max_bytes"]
    if autosize:
        body["autosize"] = autosize
    if settings.get("snapshot_reserve_percent") is not None:
        body["space"] = {"snapshot": {"reserve_percent": settings["snapshot_reserve_percent"]}}
    asked = (settings.get("compression"), settings.get("inline_compression"))
    if asked != (None, None):
        there = _compression(present or {})
        both = (
            there[0] if asked[0] is None else bool(asked[0]),
            there[1] if asked[1] is None else bool(asked[1]),
        )
        body["efficiency"] = {"compression": _COMPRESSION[both]}
    if settings.get("caching_policy") is not None:
        raise Unsupported("ONTAP's REST interface tells caching policies and cannot set them")
    if settings.get("junction_path") is not None:
        body["nas"] = {"path": checked_path(settings["junction_path"])}
    return body


def checked_path(path: str) -> str:
    """A junction path; ``""``: mounted nowhere. Raises `InvalidInput`."""
    if path and (not path.startswith("/") or path.endswith("/")):
        raise InvalidInput(
            f"the junction path {path!r} must begin with a slash and not end with one"
        )
    return path


def policy_body(policy: PolicyRef | None) -> dict[str, Any]:
    """How a request names the export policy of a volume."""
    if policy is None:
        return {"name": _DEFAULT_POLICY}
    if policy.native is not None:
        return {"id": int(policy.native)}
    return {"name": native_policy(policy.name)}


def snapshot_facts(record: Mapping[str, Any]) -> SnapshotFacts:
    """What a record says. Of a foreign one the volume's size then is not known."""
    stamp = read_stamp(record.get("comment"))
    used = int(record.get("size", 0))
    return SnapshotFacts(
        id=stamp.id if stamp else None,
        name=seen_other(record["name"]),
        size_bytes=stamp.size if stamp and stamp.size is not None else used,
        used_bytes=used,
        order=record.get(ORDER, 0),
        passing=stamp is None and is_scheduled(record["name"]),
    )
