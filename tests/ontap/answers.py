"""What the double answers to each request: collections, single records, changes."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import urlencode

from netapp_ontap.resources.aggregate import AggregateSchema
from netapp_ontap.resources.client_lock import ClientLockSchema
from netapp_ontap.resources.export_policy import ExportPolicySchema
from netapp_ontap.resources.export_rule import ExportRuleSchema
from netapp_ontap.resources.ip_interface import IpInterfaceSchema
from netapp_ontap.resources.job import JobSchema
from netapp_ontap.resources.snapshot import SnapshotSchema
from netapp_ontap.resources.svm import SvmSchema
from netapp_ontap.resources.volume import VolumeSchema

from tests.ontap.filer import Filer
from tests.ontap.records import Refused, check_body, missing, selected, shown

#: Of each collection: its schema, and the fields that every answer has.
_COLLECTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "storage/volumes": (VolumeSchema, ("uuid", "name")),
    "storage/volumes/snapshots": (SnapshotSchema, ("uuid", "name", "volume.uuid")),
    "storage/aggregates": (AggregateSchema, ("uuid", "name")),
    "protocols/nfs/export-policies": (ExportPolicySchema, ("id", "name")),
    "protocols/nfs/export-policies/rules": (ExportRuleSchema, ("index",)),
    "protocols/locks": (ClientLockSchema, ("uuid",)),
    "network/ip/interfaces": (IpInterfaceSchema, ("uuid", "name")),
    "svm/svms": (SvmSchema, ("uuid", "name")),
    "cluster/jobs": (JobSchema, ("uuid",)),
}
_SCHEMAS = {name: schema() for name, (schema, _) in _COLLECTIONS.items()}
with warnings.catch_warnings():
    # The library loads these when they are first used, and warns of a coming Marshmallow 4.
    warnings.simplefilter("ignore")
    for _schema in _SCHEMAS.values():
        for _field in _schema.fields.values():
            getattr(_field, "schema", None)
_WRITES_IN_JOBS = ("storage/volumes", "storage/volumes/snapshots")
_OF_A_WRITE = {"return_timeout", "return_records", "force"}
_OF_A_CHANGE = {"restore_to.snapshot.uuid", "restore_to.snapshot.name"}


def answer(
    filer: Filer, method: str, parts: list[str], query: dict[str, str], body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to one request. Raises `Refused`."""
    name, keys = _address(parts)
    if name == "cluster" and method == "GET":
        version = {"full": "NetApp Release 9.19.1 (double)"}
        return 200, {"name": "double", "version": version}
    if name not in _COLLECTIONS:
        raise Refused(404, 3, "API not found")
    if method == "GET":
        return _read(filer, name, keys, query)
    allowed = _OF_A_WRITE if name in _WRITES_IN_JOBS else {"return_records"}
    for key in set(query) - allowed - (_OF_A_CHANGE if method == "PATCH" else set()):
        raise Refused(400, 262197, f'Unexpected query parameter "{key}".', key)
    if method != "DELETE":
        kind = "postable_fields" if method == "POST" else "patchable_fields"
        check_body(_SCHEMAS[name], body, kind)
    if name in _WRITES_IN_JOBS:
        return 202, _write_volume(filer, name, method, keys, query, body)
    return _write_policy(filer, name, method, keys, query, body)


def _address(parts: list[str]) -> tuple[str, list[str]]:
    """``api/storage/volumes/x/snapshots/y``: ``storage/volumes/snapshots``, [x, y]."""
    known = {"storage": 2, "protocols": 3, "network": 3, "svm": 2, "cluster": 2}
    length = known.get(parts[1] if len(parts) > 1 else "", 0)
    if parts[1:3] == ["protocols", "locks"]:
        length = 2
    rest = parts[1 + length :]
    return "/".join([*parts[1 : 1 + length], *rest[1::2]]), rest[0::2]


def _records(filer: Filer, name: str, keys: list[str]) -> list[dict[str, Any]]:
    match name:
        case "storage/volumes":
            return filer.volume_records()
        case "storage/volumes/snapshots":
            return filer.snapshot_records(keys[0])
        case "protocols/nfs/export-policies":
            return list(filer.policies.records.values())
        case "protocols/nfs/export-policies/rules":
            return list(filer.policies.get(keys[0])["rules"])
        case "cluster/jobs":
            return filer.jobs.records()
        case "storage/aggregates":
            return filer.aggregates
        case "network/ip/interfaces":
            return filer.interfaces
        case "protocols/locks":
            return filer.locks
    return filer.svms


def _read(
    filer: Filer, name: str, keys: list[str], query: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    _, always = _COLLECTIONS[name]
    records = _records(filer, name, keys)
    fields = query.get("fields")
    for field in fields.split(",") if fields else ():
        if field.partition(".")[0] not in _SCHEMAS[name].fields:
            raise Refused(400, 262197, f'The value "{field}" is invalid for field "fields"', field)
    if len(keys) > name.count("snapshots") + name.count("rules"):
        for record in records:
            if str(record[always[0]]) == keys[-1]:
                return 200, shown(record, fields, always)
        raise missing(always[0])
    found = selected(records, query, frozenset(_SCHEMAS[name].fields))
    begin = int(query.get("start.index", 0))
    end = begin + int(query.get("max_records", 10_000))
    body: dict[str, Any] = {
        "records": [shown(one, fields, always) for one in found[begin:end]],
        "num_records": len(found[begin:end]),
    }
    if end < len(found):
        path = "/".join(["/api", name]) if not keys else f"/api/storage/volumes/{keys[0]}/snapshots"
        href = f"{path}?{urlencode(query | {'start.index': str(end)})}"
        body["_links"] = {"next": {"href": href}}
    return 200, body


def _write_volume(
    filer: Filer,
    name: str,
    method: str,
    keys: list[str],
    query: dict[str, str],
    body: dict[str, Any],
) -> dict[str, Any]:
    match name, method:
        case "storage/volumes", "POST":
            return filer.create(body)
        case "storage/volumes", "PATCH":
            return filer.change(keys[0], body, query)
        case "storage/volumes", "DELETE":
            return filer.delete(keys[0])
        case "storage/volumes/snapshots", "POST":
            return filer.take(keys[0], body)
        case "storage/volumes/snapshots", "PATCH":
            return filer.note(keys[0], keys[1], body)
        case "storage/volumes/snapshots", "DELETE":
            return filer.drop(keys[0], keys[1])
    raise Refused(405, 3, "Method not allowed")


def _write_policy(
    filer: Filer,
    name: str,
    method: str,
    keys: list[str],
    query: dict[str, str],
    body: dict[str, Any],
) -> tuple[int, dict[str, Any]]:
    policies, volumes = filer.policies, list(filer.volumes.values())
    made: dict[str, Any] | None = None
    match name, method:
        case "protocols/nfs/export-policies", "POST":
            made = policies.create(body)
        case "protocols/nfs/export-policies", "PATCH":
            policies.rename(keys[0], body, volumes)
        case "protocols/nfs/export-policies", "DELETE":
            policies.delete(keys[0], volumes)
        case "protocols/nfs/export-policies/rules", "POST":
            made = policies.add_rule(keys[0], body)
        case "protocols/nfs/export-policies/rules", "PATCH":
            policies.change_rule(keys[0], keys[1], body)
        case "protocols/nfs/export-policies/rules", "DELETE":
            policies.drop_rule(keys[0], keys[1])
        case _:
            raise Refused(405, 3, "Method not allowed")
    if made is None:
        return 200, {}
    records = [made] if query.get("return_records") == "true" else []
    return 201, {"num_records": 1, **({"records": records} if records else {})}
