"""What the double of a filer holds, and what it allows: volumes, snapshots, jobs."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from tests.ontap.jobs import Jobs
from tests.ontap.policies import Policies
from tests.ontap.records import Refused, missing

MIB = 2**20
_VOLUME_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,202}", re.ASCII)
_SNAPSHOT_NAME = re.compile(r"[^\s/]{1,255}", re.ASCII)


class Filer:
    """One cluster with one SVM to work in, and another that is none of our business."""

    def __init__(self, svm: str = "svm1", aggregates: tuple[str, ...] = ("aggr1", "aggr2")) -> None:
        self.jobs = Jobs()
        self.svms: list[dict[str, Any]] = [
            {
                "uuid": str(uuid.uuid4()),
                "name": name,
                "state": "running",
                "aggregates": [{"name": one, "uuid": f"uuid-{one}"} for one in aggregates],
            }
            for name in (svm, "other_svm")
        ]
        self.aggregates: list[dict[str, Any]] = [
            {
                "uuid": f"uuid-{name}",
                "name": name,
                "state": "online",
                "space": {"block_storage": {"size": 2**42, "available": 2**41 + number * MIB}},
            }
            for number, name in enumerate(("aggr0_node1", *aggregates, "aggr_of_others"))
        ]
        self.interfaces: list[dict[str, Any]] = [
            {
                "uuid": str(uuid.uuid4()),
                "name": name,
                "enabled": True,
                "state": "up",
                "ip": {"address": address},
                "services": services,
                "svm": {"name": svm},
            }
            for name, address, services in (
                ("mgmt", "192.0.2.1", ["management_https"]),
                ("data1", "192.0.2.10", ["data_core", "data_nfs"]),
                ("data2", "192.0.2.11", ["data_core", "data_nfs"]),
            )
        ]
        self.locks: list[dict[str, Any]] = []
        self.volumes: dict[str, dict[str, Any]] = {}
        self.policies = Policies(self.svms)
        for one in self.svms:
            root = self.plant(f"{one['name']}_root", svm=one["name"], path="/")
            root["is_svm_root"] = True
        self.plant("vol0", aggregate="aggr0_node1")
        self.plant("closed_foreign", state="restricted")

    # -- behind everybody's back ------------------------------------------------------------

    def plant(
        self,
        name: str,
        *,
        svm: str | None = None,
        size: int = 20 * MIB,
        aggregate: str = "aggr1",
        path: str | None = None,
        state: str = "online",
        comment: str = "",
    ) -> dict[str, Any]:
        """A volume that was there already."""
        body: dict[str, Any] = {
            "name": name,
            "svm": {"name": svm or self.svms[0]["name"]},
            "size": size,
            "aggregates": [{"name": aggregate}],
            "comment": comment,
        }
        record = self._new_volume(str(uuid.uuid4()), body)
        record["state"] = state
        if path:
            record["nas"]["path"] = path
        self.volumes[record["uuid"]] = record
        return record

    def named(self, name: str) -> dict[str, Any]:
        """The volume with this native name in our SVM."""
        svm = self.svms[0]["name"]
        return next(
            one for one in self.volumes.values() if (one["name"], one["svm"]["name"]) == (name, svm)
        )

    def bearing(self, stamp_id: str) -> dict[str, Any]:
        """The one published volume that bears this id."""
        (found,) = (
            one
            for one in self.volumes.values()
            if f"id={stamp_id}" in one["comment"] and "_new_" not in one["name"]
        )
        return found

    def write(self, record: dict[str, Any], data: bytes, offset: int = 0) -> None:
        """Change what a volume holds, as an NFS client would."""
        before = record["_contents"].ljust(offset, b"\0")
        record["_contents"] = before[:offset] + data + before[offset + len(data) :]
        record["space"]["used"] = len(record["_contents"])

    # -- volumes ------------------------------------------------------------------------------

    def volume(self, key: str) -> dict[str, Any]:
        if key not in self.volumes:
            raise missing()
        return self.volumes[key]

    def volume_records(self) -> list[dict[str, Any]]:
        """All, by name, with what is computed."""
        for record in self.volumes.values():
            record["snapshot_count"] = len(record["_snapshots"])
            split = record["_split"]
            if split is not None:
                part = (time.monotonic() - split[0]) / split[1] if split[1] else 0.4
                record["clone"]["split_complete_percent"] = min(99, int(part * 100))
        return sorted(self.volumes.values(), key=lambda one: one["name"])

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name, svm = body.get("name", ""), self._svm(body)
        self._check_name(name, svm)
        clone = body.get("clone", {})
        if clone.get("is_flexclone"):
            parent = self._parent(clone)
            self._base(parent, clone)
        elif not body.get("aggregates"):
            raise Refused(400, 787140, "One of aggregates.uuid, aggregates.name must be provided.")
        elif body.get("size", 20 * MIB) < 20 * MIB:
            raise Refused(400, 917534, "The minimum size of a volume is 20MB.", "size")
        if path := body.get("nas", {}).get("path"):
            self._check_path(path, None)
        new_uuid = str(uuid.uuid4())

        def effect() -> None:
            self._check_name(name, svm)
            self._need(body.get("size", 0) if body.get("guarantee", {}) != {"type": "none"} else 0)
            self.volumes[new_uuid] = self._new_volume(new_uuid, body)

        return self.jobs.start(f"POST /api/storage/volumes/{new_uuid}", effect, reserves=name)

    def change(self, key: str, body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        record = self.volume(key)
        name, size = body.get("name"), body.get("size")
        if name is not None and name != record["name"]:
            self._check_name(name, record["svm"]["name"])
        if size is not None and size < max(20 * MIB, record["space"]["used"]):
            raise Refused(400, 917534, "The volume cannot be made that small.", "size")
        if size is not None and record["state"] != "online":
            raise Refused(400, 918234, "The volume is not online.")
        if path := body.get("nas", {}).get("path"):
            if record["state"] != "online":
                raise Refused(400, 918237, "A volume that is not online cannot be mounted.")
            self._check_path(path, key)
        if policy := body.get("nas", {}).get("export_policy"):
            self.policies.find(policy, record["svm"]["name"])
        snapshot = query.get("restore_to.snapshot.uuid") or query.get("restore_to.snapshot.name")
        if snapshot is not None:
            self._snapshot(record, snapshot)
        split = bool(body.get("clone", {}).pop("split_initiated", False))
        if split:
            if not record["clone"]["is_flexclone"]:
                raise Refused(400, 918210, "The volume is not a FlexClone volume.")
            record["clone"]["split_initiated"] = True
            record["_split"] = (time.monotonic(), self.jobs.split_seconds)

        def effect() -> None:
            there = self.volume(key)
            if name is not None and name != there["name"]:
                self._check_name(name, there["svm"]["name"])
            if snapshot is not None:
                self._restore(there, snapshot)
            if split:
                self._split(there)
            self._apply(there, body)

        def undo() -> None:
            if split:
                record["clone"]["split_initiated"] = False

        takes = self.jobs.split_seconds if split else None
        return self.jobs.start(
            f"PATCH /api/storage/volumes/{key}", effect, seconds=takes, undo=undo
        )

    def delete(self, key: str) -> dict[str, Any]:
        record = self.volume(key)
        if record["nas"].get("path"):
            raise Refused(400, 918667, f'Volume "{record["name"]}" must be unmounted first.')

        def effect() -> None:
            there = self.volume(key)
            if self._clones_of(key):
                raise Refused(
                    409, 524615, "Failed to delete volume because it has one or more clones."
                )
            self.volumes.pop(there["uuid"])

        return self.jobs.start(f"DELETE /api/storage/volumes/{key}", effect)

    def _apply(self, record: dict[str, Any], body: dict[str, Any]) -> None:
        for key in ("name", "comment", "size", "state"):
            if key in body:
                record[key] = body[key]
        for key in ("autosize", "efficiency", "flash_pool", "guarantee"):
            record[key] |= body.get(key, {})
        record["space"]["snapshot"] |= body.get("space", {}).get("snapshot", {})
        record["space"]["size"] = record["size"]
        nas = body.get("nas", {})
        if "path" in nas:
            record["nas"].pop("path", None)
            if nas["path"]:
                record["nas"]["path"] = nas["path"]
        if "export_policy" in nas:
            policy = self.policies.find(nas["export_policy"], record["svm"]["name"])
            record["nas"]["export_policy"] = policy
        if record["state"] != "online":
            record["nas"].pop("path", None)

    def _new_volume(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "uuid": key,
            "svm": {"name": self._svm(body)},
            "style": "flexvol",
            "type": "rw",
            "state": "online",
            "is_svm_root": False,
            "create_time": _now(),
            "comment": "",
            "size": 20 * MIB,
            "aggregates": [{"name": one["name"]} for one in body.get("aggregates", ())],
            "space": {"used": 0, "snapshot": {"reserve_percent": 5, "space_used_percent": 0}},
            "autosize": {"mode": "off", "maximum": 24 * MIB},
            "efficiency": {"compression": "none"},
            "flash_pool": {"caching_policy": "auto"},
            "guarantee": {"type": "volume"},
            "nas": {"export_policy": self.policies.find({"name": "default"}, self._svm(body))},
            "clone": {"is_flexclone": False},
            "_contents": b"",
            "_snapshots": [],
            "_split": None,
        }
        clone = body.get("clone", {})
        if clone.get("is_flexclone"):
            parent = self._parent(clone)
            base = self._base(parent, clone)
            if base is None:
                base = self._new_snapshot(parent, f"clone_{body['name']}.{_now()}", "")
            until = parent["_snapshots"].index(base) + 1
            mine = {"uuid": key, "name": body["name"]}
            record |= {
                "size": parent["size"],
                "aggregates": parent["aggregates"],
                "_contents": base["_contents"],
                "_snapshots": [{**one, "volume": mine} for one in parent["_snapshots"][:until]],
                "clone": {
                    "is_flexclone": True,
                    "split_initiated": False,
                    "parent_volume": {"uuid": parent["uuid"], "name": parent["name"]},
                    "parent_snapshot": {"uuid": base["uuid"], "name": base["name"]},
                },
            }
            record["space"]["used"] = len(record["_contents"])
        self._apply(record, body)
        return record

    def _split(self, record: dict[str, Any]) -> None:
        record["clone"] = {"is_flexclone": False}
        record["_split"] = None

    def _clones_of(self, key: str, snapshot: str | None = None) -> list[str]:
        return [
            one["name"]
            for one in self.volumes.values()
            if one["clone"].get("parent_volume", {}).get("uuid") == key
            and snapshot in (None, one["clone"]["parent_snapshot"]["uuid"])
        ]

    def _svm(self, body: dict[str, Any]) -> str:
        for one in self.svms:
            if body.get("svm", {}).get("name") == one["name"]:
                return str(one["name"])
        raise Refused(404, 2621462, "SVM does not exist.", "svm.name")

    def _parent(self, clone: dict[str, Any]) -> dict[str, Any]:
        wanted = clone.get("parent_volume", {})
        for one in self.volumes.values():
            if wanted and all(one[key] == value for key, value in wanted.items()):
                return one
        raise Refused(404, 918194, "The parent volume does not exist.", "clone.parent_volume")

    def _base(self, parent: dict[str, Any], clone: dict[str, Any]) -> dict[str, Any] | None:
        if "parent_snapshot" not in clone:
            return None
        return self._snapshot(parent, *clone["parent_snapshot"].values())

    def _check_name(self, name: str, svm: str) -> None:
        if not _VOLUME_NAME.fullmatch(name):
            raise Refused(400, 917888, f'Invalid volume name "{name}".', "name")
        for one in self.volumes.values():
            if (one["name"], one["svm"]["name"]) == (name, svm):
                raise Refused(
                    409, 917532, f'Volume "{name}" already exists in Vserver "{svm}".', "name"
                )

    def _check_path(self, path: str, mine: str | None) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise Refused(400, 918255, f'Invalid junction path "{path}".', "nas.path")
        for one in self.volumes.values():
            if one["uuid"] != mine and one["nas"].get("path", "").lower() == path.lower():
                raise Refused(409, 918252, f'Junction path "{path}" is in use.', "nas.path")

    def _need(self, size: int) -> None:
        if size > max(one["space"]["block_storage"]["available"] for one in self.aggregates):
            raise Refused(400, 917828, "Not enough space in the aggregate: no space left.")

    # -- snapshots ----------------------------------------------------------------------------

    def snapshot_records(self, key: str) -> list[dict[str, Any]]:
        volumes = self.volumes.values() if key == "*" else [self.volume(key)]
        for volume in volumes:
            for one in volume["_snapshots"]:
                # How much of the volume was written anew since it was taken.
                consumed = 0 if one["_contents"] == volume["_contents"] else 4096
                one["delta"] = {"size_consumed": consumed, "time_elapsed": "PT1S"}
        return [one for volume in volumes for one in volume["_snapshots"]]

    def _snapshot(self, record: dict[str, Any], *keys: str) -> dict[str, Any]:
        for one in record["_snapshots"]:
            if one["uuid"] in keys or one["name"] in keys:
                return one  # type: ignore[no-any-return]
        raise Refused(404, 1638600, "The snapshot does not exist.")

    def take(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        record, name = self.volume(key), body.get("name", "")
        if not _SNAPSHOT_NAME.fullmatch(name):
            raise Refused(400, 1638461, f'Invalid snapshot name "{name}".', "name")
        if len(body.get("comment", "")) > 255:
            raise Refused(400, 1638431, "The comment is too long.", "comment")
        if record["state"] != "online":
            raise Refused(400, 1638424, "The volume is not online.")

        def effect() -> None:
            there = self.volume(key)
            if any(one["name"] == name for one in there["_snapshots"]):
                raise Refused(409, 1638526, f'Snapshot "{name}" already exists.')
            self._new_snapshot(there, name, body.get("comment", ""))

        return self.jobs.start(f"POST /api/storage/volumes/{key}/snapshots/{name}", effect)

    def _new_snapshot(self, record: dict[str, Any], name: str, comment: str) -> dict[str, Any]:
        new = {
            "uuid": str(uuid.uuid4()),
            "name": name,
            "comment": comment,
            "create_time": _now(),
            "size": len(record["_contents"]),
            "volume": {"uuid": record["uuid"], "name": record["name"]},
            "svm": record["svm"],
            "_contents": record["_contents"],
        }
        record["_snapshots"].append(new)
        return new

    def note(self, key: str, snapshot: str, body: dict[str, Any]) -> dict[str, Any]:
        found = self._snapshot(self.volume(key), snapshot)
        if len(body.get("comment", "")) > 255:
            raise Refused(400, 1638431, "The comment is too long.", "comment")
        before = found["comment"]

        def effect() -> None:
            found["comment"] = body.get("comment", before)

        return self.jobs.start(f"PATCH /api/storage/volumes/{key}/snapshots/{snapshot}", effect)

    def drop(self, key: str, snapshot: str) -> dict[str, Any]:
        if all(one["uuid"] != snapshot for one in self.volume(key)["_snapshots"]):
            raise missing()

        def effect() -> None:
            there = self.volume(key)
            found = self._snapshot(there, snapshot)
            if self._clones_of(key, found["uuid"]):
                raise Refused(
                    409, 1638543, "Failed to delete the snapshot because it has an owner: busy."
                )
            there["_snapshots"].remove(found)

        return self.jobs.start(f"DELETE /api/storage/volumes/{key}/snapshots/{snapshot}", effect)

    def _restore(self, record: dict[str, Any], snapshot: str) -> None:
        found = self._snapshot(record, snapshot)
        newer = record["_snapshots"][record["_snapshots"].index(found) + 1 :]
        for one in newer:
            if self._clones_of(record["uuid"], one["uuid"]):
                raise Refused(409, 1638543, f'Newer snapshot "{one["name"]}" is busy.')
            record["_snapshots"].remove(one)
        record["_contents"] = found["_contents"]
        record["space"]["used"] = len(found["_contents"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
