"""Names of lanes: what a job has to itself while it is unfinished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domain.action import Action, Lane, source_of

#: What stands before the name in lanes of other things than volumes: no volume's name begins
#: with a dash.
_POLICY, _JUNCTION, _AUDIT = "-policy/", "-junction", "-audit"


def lanes_of(
    action: Action,
    backend: str,
    volume: str | None,
    named: str | None,
    params: Mapping[str, Any],
) -> list[str]:
    """The keys of the lanes a job holds, sorted. A backend's name has no slash.

    ``named`` is the name of the object of the action's own kind.
    """
    keys: set[str] = set()
    for lane in action.lanes:
        match lane:
            case Lane.VOLUME:
                keys.add(f"{backend}/{volume}")
            case Lane.SOURCE:
                keys.add("/".join(source_of(backend, params) or ()))
            case Lane.NEW_NAME:
                keys.add(f"{backend}/{params.get('new_name')}")
            case Lane.JUNCTION:
                if path := (params.get("settings") or {}).get("junction_path"):
                    keys.add(junction_lane(backend, path))
            case Lane.NAMED:
                keys.add(named_lane(action.kind, backend, named or ""))
            case Lane.BACKEND:
                keys.add(f"{backend}/")  # no volume has this name
            case Lane.AUDIT:
                keys.add(f"{backend}/{_AUDIT}")
    return sorted(keys)


def named_lane(kind: str, backend: str, name: str) -> str:
    """The lane of an object that is no volume."""
    return f"{backend}/-{kind}/{name}"


def policy_lane(backend: str, policy: str) -> str:
    """The lane of an export policy."""
    return named_lane("policy", backend, policy)


def junction_lane(backend: str, path: str) -> str:
    """The lane of a junction path."""
    return f"{backend}/{_JUNCTION}{path}"


def target_of(lane: str) -> tuple[str, str]:
    """The backend and the name of the volume that a lane stands for, if it is a volume's."""
    backend, _, name = lane.partition("/")
    return backend, name
