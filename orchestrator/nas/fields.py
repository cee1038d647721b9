"""The NAS contract's words: its fields, what they are here, and the schemas of what is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain.errors import InvalidInput, InvalidName, Problem
from orchestrator.domain.exports import parse_rule

#: What volumes, snapshots, hosts and policies may be called there.
NAME = re.compile(r"[a-zA-Z0-9:/_.+-]+", re.ASCII)
#: A volume by where it is mounted: ``node:/path``; the node may be left out.
_PLACE = re.compile(r"(?P<node>[^:/]*):(?P<path>/.*)", re.ASCII)

#: The settings of volumes, as the contract calls them.
SETTINGS = {
    "autosize_enabled": "autosize_enabled",
    "max_autosize": "autosize_max_bytes",
    "percentage_snapshot_reserve": "snapshot_reserve_percent",
    "compression_enabled": "compression",
    "inline_compression": "inline_compression",
    "caching_policy": "caching_policy",
    "junction_path": "junction_path",
    "aggregate_name": "aggregate",
}
#: What may be written: always, and only when a volume is made.
CHANGEABLE = frozenset(
    {"size_total", "active_policy_name", *SETTINGS} - {"junction_path", "aggregate_name"}
)
CREATABLE = CHANGEABLE | {"name", "junction_path", "aggregate_name"}


class _Told(BaseModel):
    """What is told is of these kinds, and has these fields: absent ones are null."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VolumeSchema(_Told):
    """A volume; sizes in bytes."""

    name: str
    size_used: Annotated[int, Field(ge=0)]
    size_total: Annotated[int, Field(ge=0)]
    filer_address: str
    uuid: str | None = None
    state: str | None = None
    creation_time: str | None = Field(default=None, description="RFC 822.")
    percentage_snapshot_reserve: int | None = None
    percentage_snapshot_reserve_used: int | None = None
    autosize_enabled: bool | None = None
    max_autosize: int | None = None
    active_policy_name: str | None = None
    junction_path: str | None = None
    aggregate_name: str | None = None
    compression_enabled: bool | None = None
    inline_compression: bool | None = None
    caching_policy: str | None = None


class SnapshotSchema(_Told):
    """A snapshot."""

    name: str
    size_kbytes: Annotated[int, Field(ge=0)]
    creation_time: str | None = Field(default=None, description="RFC 822.")


class PolicySchema(_Told):
    """An export policy: no rules admit nobody."""

    name: str
    rules: list[str]


class LockSchema(_Told):
    """A host's claim on a volume."""

    host: str


def volume_of(view: Mapping[str, Any]) -> dict[str, Any]:
    """A volume as the contract has it, for one of the inventory."""
    settings = {name: view["settings"].get(ours) for name, ours in SETTINGS.items()}
    return {
        "name": view["name"],
        "size_used": view["used_bytes"],
        "size_total": view["size_bytes"],
        "filer_address": view["address"] or view["backend"],
        "uuid": view["id"],
        "state": view["state"],
        "creation_time": _written(view["created_at"]),
        "percentage_snapshot_reserve_used": view["snapshot_reserve_used_percent"],
        "active_policy_name": view["policy"],
        **settings,
    }


def snapshot_of(view: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot as the contract has it."""
    return {
        "name": view["name"],
        "size_kbytes": -(-view["used_bytes"] // 1024),
        "creation_time": _written(view["created_at"]),
    }


def _written(moment: datetime | str) -> str:
    read = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return format_datetime(read, usegmt=True)


def told(problem: Problem) -> str:
    """The sentence of a problem, with fields called as the contract calls them."""
    text = problem.detail
    for name, ours in {**SETTINGS, "size_total": "size_bytes"}.items():
        text = text.replace(f"params.settings.{ours}", name).replace(f"params.{ours}", name)
        text = text.replace(f"setting '{ours}'", f"setting '{name}'")
    return text


def place_of(name: str) -> tuple[str | None, str] | None:
    """The node and the junction path of ``node:/path``; None if that is no such name."""
    found = _PLACE.fullmatch(name)
    return (found["node"] or None, found["path"]) if found else None


def check_name(name: str, what: str = "name") -> str:
    """``name`` itself. Raises `InvalidName`."""
    if not NAME.fullmatch(name):
        raise InvalidName(
            f"{name[:80]!r} is no {what}: use letters, digits and the characters : / _ . + -",
            field=what,
        )
    return name


def check_rules(rules: Any) -> list[str]:
    """The rules of a policy. Raises `InvalidInput`."""
    if isinstance(rules, str) or not hasattr(rules, "__iter__"):
        raise InvalidInput("rules are a list of texts: ['10.0.0.0/24']", field="rules")
    return [parse_rule(str(rule)).written for rule in rules]


def settings_from(fields: Mapping[str, Any], supported: frozenset[str]) -> dict[str, Any]:
    """The settings that contract fields give; those that only say "no" need no support."""
    given = {ours: fields[name] for name, ours in SETTINGS.items() if fields.get(name) is not None}
    return {ours: value for ours, value in given.items() if value or ours in supported}
