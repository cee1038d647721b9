"""Export rules in ONTAP's words, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.exports import Access, ClientKind, Rule, parse_rule

_EVERY_PROTOCOL = {"any", "nfs"}
_OPEN = {"any", "sys"}


def rule_body(rule: Rule) -> dict[str, Any]:
    """What a request says of a rule."""
    return {
        "clients": [{"match": rule.client}],
        "protocols": ["nfs"],
        "ro_rule": ["sys"],
        "rw_rule": ["sys"] if rule.access is Access.READ_WRITE else ["never"],
        "superuser": ["sys"],
    }


def meaning(record: Mapping[str, Any]) -> tuple[Rule, ...]:
    """What a rule of the filer means in our words: one rule for each of its clients.

    What cannot be said so (other protocols, Kerberos, nobody) is told as a rule that equals
    none a user can write, so that it shows and is never taken for another.
    """
    reading, writing = set(record.get("ro_rule", ())), set(record.get("rw_rule", ()))
    plain = bool(_EVERY_PROTOCOL & set(record.get("protocols", ("any",)))) and bool(reading & _OPEN)
    if writing & _OPEN:
        access = Access.READ_WRITE
    elif writing <= {"never", "none"}:
        access = Access.READ_ONLY
    else:
        plain, access = False, Access.READ_ONLY
    return tuple(
        _rule(str(one["match"]), access) if plain else _unsaid(str(one["match"]), access, record)
        for one in record.get("clients", ())
    )


def _rule(match: str, access: Access) -> Rule:
    try:
        return parse_rule(f"{match}({access})")
    except InvalidInput:
        return _unsaid(match, access, {})


def _unsaid(match: str, access: Access, record: Mapping[str, Any]) -> Rule:
    words = ", ".join(
        f"{key} {'/'.join(record[key])}"
        for key in ("protocols", "ro_rule", "rw_rule")
        if record.get(key)
    )
    written = f"{match} [{words or 'not to be said as a rule'}]"
    return Rule(written, ClientKind.HOST, written, access)


def shared(there: Sequence[tuple[Rule, ...]], wanted: Sequence[Rule]) -> tuple[int, int]:
    """How many rules both begin with, and how many they end with."""
    same = [len(old) == 1 and old[0] == new for old, new in zip(there, wanted, strict=False)]
    first = same.index(False) if False in same else len(same)
    last = 0
    while (
        last < min(len(there), len(wanted)) - first
        and len(there[-1 - last]) == 1
        and there[-1 - last][0] == wanted[-1 - last]
    ):
        last += 1
    return first, last
