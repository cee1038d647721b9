"""What must be there once everything has ended: jobs played in their order, each once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: What the image that volumes are imported from begins with.
#: No text, which is not taken for an image.
IMAGE = b"an image\x00\x01"
#: What the volume that is copied from the other backend begins with.
SOURCE_MARK = b"copy me"
SOURCE_SIZE = 2**20


@dataclass
class Volume:
    """A volume as it must be. ``mark`` is what a user has written at its beginning."""

    id: str
    name: str
    size: int
    metadata: dict[str, str] = field(default_factory=dict)
    state: str = "available"
    mark: bytes = b""
    #: By name, oldest first: the size and the mark that each has kept.
    snapshots: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    attached: bool = False
    opening: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    #: The name of its export policy.
    policy: str | None = None
    #: Its storage was lost, and has not been made again.
    lost: bool = False


@dataclass
class Policy:
    """An export policy as it must be: its rules in their order, as they were written."""

    id: str
    rules: list[str]


class Model:
    """All volumes and policies of one backend, by name, and the volumes that were forgotten."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self.policies: dict[str, Policy] = {}
        self.forgotten: list[Volume] = []
        #: By path: what volumes had at their beginning that were exported.
        self.exports: dict[str, bytes] = {}
        self.backend_state = "enabled"

    def play(
        self, request: dict[str, Any], volume_id: str | None, policy_id: str | None = None
    ) -> None:
        """Do what a job that succeeded must have done."""
        params = request.get("params") or {}
        name = request.get("volume") or ""
        kind, _, verb = request["action"].partition(".")
        if kind == "backend":
            states = {"drain": "draining", "resume": "enabled"}
            self.backend_state = states.get(verb, self.backend_state)
            return
        if (kind, verb) == ("volume", "create"):
            metadata = dict(params.get("metadata") or {})
            self.volumes[name] = Volume(
                volume_id or "",
                name,
                params["size_bytes"],
                metadata,
                settings=dict(params.get("settings") or {}),
                policy=request.get("policy"),
            )
            return
        if kind == "policy" and verb != "assign":
            self._change_policy(request["policy"], verb, params, policy_id)
            return
        if verb == "clone":
            source = self.volumes[params["source"]]
            size = params.get("size_bytes") or source.size
            given = params.get("metadata")
            metadata = dict(source.metadata if given is None else given)
            self.volumes[name] = Volume(volume_id or "", name, size, metadata, mark=source.mark)
            return
        if verb == "import":
            size = params["size_bytes"]
            self.volumes[name] = Volume(volume_id or "", name, size, mark=IMAGE)
            return
        if verb == "copy":
            self.volumes[name] = Volume(volume_id or "", name, SOURCE_SIZE, mark=SOURCE_MARK)
            return
        if verb in ("adopt", "remove_orphan"):
            [volume] = [one for one in self.forgotten if one.name == name]
            self.forgotten.remove(volume)
            if verb == "adopt":
                volume.id = volume_id or ""
                self.volumes[name] = volume
            return
        volume = self.volumes[name]
        if kind == "snapshot":
            if verb == "create":
                volume.snapshots[request["snapshot"]] = (volume.size, volume.mark)
            else:
                del volume.snapshots[request["snapshot"]]
            return
        self._change(volume, verb, request, params)

    def _change_policy(
        self, name: str, verb: str, params: dict[str, Any], policy_id: str | None
    ) -> None:
        if verb == "create":
            self.policies[name] = Policy(policy_id or "", list(params["rules"]))
            return
        policy = self.policies[name]
        match verb:
            case "remove":
                del self.policies[name]
            case "add_rule":
                policy.rules = [*policy.rules, params["rule"]]
            case "remove_rule":
                policy.rules = [rule for rule in policy.rules if rule != params["rule"]]
            case "set_rules":
                policy.rules = list(params["rules"])
            case "reapply" | "verify":
                pass
            case _:
                raise KeyError(verb)

    def _change(
        self, volume: Volume, verb: str, request: dict[str, Any], params: dict[str, Any]
    ) -> None:
        match verb:
            case "grow":
                volume.size = params["size_bytes"]
            case "update":
                volume.metadata = {**volume.metadata, **(params.get("metadata") or {})}
                volume.settings = {**volume.settings, **(params.get("settings") or {})}
            case "assign":
                volume.policy = request.get("policy")
            case "set_info":
                volume.metadata = {**volume.metadata, "info": params["info"]}
            case "rename":
                del self.volumes[volume.name]
                volume.name = params["new_name"]
                self.volumes[volume.name] = volume
            case "rollback":
                names = list(volume.snapshots)
                for newer in names[names.index(request["snapshot"]) + 1 :]:
                    del volume.snapshots[newer]
                volume.size, volume.mark = volume.snapshots[request["snapshot"]]
            case "trim":
                pass
            case "wipe":
                volume.mark = b""
            case "recreate":
                volume.mark, volume.lost = b"", False
                volume.snapshots.clear()
            case "restrict":
                volume.state = "restricted"
            case "unrestrict":
                volume.state = "available"
            case "remove" | "purge":
                del self.volumes[volume.name]
            case "forget":
                self.forgotten.append(self.volumes.pop(volume.name))
            case "attach":
                volume.attached = True
            case "detach":
                volume.attached, volume.opening = False, None
            case "open":
                volume.opening = "exclusive" if params.get("exclusive") else "shared"
            case "close":
                volume.opening = None
            case "export":
                self.exports[params["target"]] = volume.mark
            case "verify" | "reconcile" | "break_lock":
                pass
            case _:
                raise KeyError(verb)
