"""What each volume and snapshot must hold, and which bytes a person can still expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Volume:
    """A volume as it must be."""

    id: str
    name: str
    size: int
    contents: bytes
    #: By name, oldest first.
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    #: Whose patterns may be seen in it.
    owners: set[str] = field(default_factory=set)

    @property
    def padded(self) -> bytes:
        """The contents up to the size."""
        return self.contents[: self.size].ljust(self.size, b"\0")


@dataclass(frozen=True)
class Snapshot:
    """What was kept."""

    id: str
    contents: bytes
    size: int


@dataclass
class Model:
    """Everything on one backend that somebody counts on."""

    volumes: dict[str, Volume] = field(default_factory=dict)
    #: Struck from the inventory; the storage keeps them.
    forgotten: list[Volume] = field(default_factory=list)
    #: Files of persons' own: what they hold.
    files: dict[Path, bytes] = field(default_factory=dict)
    #: Where a writer was at work: other contents that are as good.
    also: dict[str, bytes] = field(default_factory=dict)
    #: Snapshots that a person has deleted, and those that the storage has and the database not.
    deleted: set[str] = field(default_factory=set)
    unrecorded: set[str] = field(default_factory=set)

    def play(self, request: dict[str, Any], ids: dict[str, str]) -> None:
        """Do what a job that succeeded must have done; ``ids``: of what it has made."""
        params = request.get("params") or {}
        name = request.get("volume") or ""
        kind, _, verb = request["action"].partition(".")
        match verb:
            case _ if kind == "backend":
                pass
            case "create" if "snapshot" not in request:
                size = params["size_bytes"]
                self.volumes[name] = Volume(
                    ids["volume"],
                    name,
                    size,
                    b"",
                    metadata=dict(params.get("metadata") or {}),
                    owners={name},
                )
            case "clone" | "copy":
                source = self.volumes[params["source"]]
                held = source.snapshots[request["snapshot"]] if "snapshot" in request else source
                size = params.get("size_bytes") or source.size
                self.volumes[name] = Volume(
                    ids["volume"], name, size, held.contents, owners={name} | source.owners
                )
            case "import":
                contents = Path(params["image"]).read_bytes()
                size = params["size_bytes"]
                self.volumes[name] = Volume(
                    ids["volume"], name, size, contents, owners={name, "image"}
                )
            case "adopt":
                found = next(one for one in self.forgotten if one.name == name)
                self.forgotten.remove(found)
                found.id = ids["volume"]
                self.volumes[name] = found
            case "remove_orphan":
                pass
            case _:
                self._change(self.volumes[name], verb, request, params, ids)

    def named(self, name: str) -> Volume | None:
        """The volume of this name that somebody counts on, recorded or forgotten."""
        found = [*self.volumes.values(), *self.forgotten]
        return next((one for one in found if one.name == name), None)

    def _change(
        self,
        volume: Volume,
        verb: str,
        request: dict[str, Any],
        params: dict[str, Any],
        ids: dict[str, str],
    ) -> None:
        match verb:
            case "create":
                kept = Snapshot(ids["snapshot"], volume.contents, volume.size)
                volume.snapshots[request["snapshot"]] = kept
            case "delete":
                del volume.snapshots[request["snapshot"]]
            case "grow":
                volume.size = max(volume.size, params["size_bytes"])
            case "update":
                volume.metadata = volume.metadata | params["metadata"]
            case "set_info":
                volume.metadata = volume.metadata | {"info": params["info"]}
            case "rename":
                self.volumes[params["new_name"]] = self.volumes.pop(volume.name)
                volume.name = params["new_name"]
            case "rollback":
                names = list(volume.snapshots)
                for newer in names[names.index(request["snapshot"]) + 1 :]:
                    del volume.snapshots[newer]
                kept = volume.snapshots[request["snapshot"]]
                volume.contents, volume.size = kept.contents, kept.size
            case "trim":
                pass
            case "wipe" | "recreate":
                volume.contents = b""
                if verb == "recreate":
                    volume.snapshots = {}
            case "remove" | "purge":
                del self.volumes[volume.name]
            case "forget":
                self.forgotten.append(self.volumes.pop(volume.name))
