"""Export rules: which clients may mount a volume, and whether they may write to it.

A rule is written as in exports(5): a client, and in brackets what it may do if that is not
to read and write: ``10.0.0.0/24``, ``2001:db8::7(ro)``, ``web1.example.com(rw)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import (
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from orchestrator.domain.checking import checked
from orchestrator.domain.errors import Conflict, InvalidInput

#: The most rules that one policy may have.
MAX_RULES = 1000
MAX_WRITTEN = 300


class Access(StrEnum):
    """What a client may do."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"


class ClientKind(StrEnum):
    """How a rule names clients; a driver tells which of these its storage knows."""

    ADDRESS = "address"
    NETWORK = "network"
    HOST = "host"  # web1.example.com
    PATTERN = "pattern"  # *.example.com, web?
    DOMAIN = "domain"  # .example.com
    NETGROUP = "netgroup"  # @trusted


@dataclass(frozen=True)
class Rule:
    """One rule of a policy. Two are equal if they mean the same, however they are written."""

    #: As the user wrote it, without blanks around it.
    written: str = field(compare=False)
    kind: ClientKind
    #: The client in one way of writing it: ``10.1.2.3/24`` is ``10.1.2.0/24``.
    client: str
    access: Access


_WRITTEN = re.compile(r"(?P<client>[^\s()]+)(?:\((?P<access>rw|ro)\))?", re.ASCII)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
#: By the form of what is neither address nor network.
_FORMS: tuple[tuple[ClientKind, re.Pattern[str]], ...] = (
    (ClientKind.HOST, re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)),
    (ClientKind.DOMAIN, re.compile(rf"(?:\.{_LABEL})+", re.ASCII)),
    (ClientKind.NETGROUP, re.compile(r"@[A-Za-z0-9_.-]+", re.ASCII)),
    (ClientKind.PATTERN, re.compile(r"[A-Za-z0-9_.*?-]*[*?][A-Za-z0-9_.*?-]*", re.ASCII)),
)
#: What only an address, or several, looks like: `10.0.0.300`, `10.0.0.1-10.0.0.9`, `10.0.0.*` and
#: `0x7f.1` are no host names.
_NUMBER = r"(?:0[xX][0-9A-Fa-f]*|[0-9][0-9-]*|[*?])"
_NO_NAME = re.compile(
    rf"{_NUMBER}?(?:\.{_NUMBER}?)+|[0-9]+|0[xX][0-9A-Fa-f]+|.*:.*|.*/.*", re.ASCII
)
_STARS = re.compile(r"(?P<kept>[0-9]{1,3}(?:\.[0-9]{1,3}){0,2})(?:\.\*)+", re.ASCII)
_DASHED = re.compile(r"(?P<address>[0-9A-Fa-f.:]+)-(?P<bits>[0-9]{1,3})", re.ASCII)
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,8}", re.ASCII)
#: IPv4 addresses as IPv6 has them.
_MAPPED = IPv6Network("::ffff:0:0/96")
#: A range is named as networks if it is no more than these.
_MOST_NETWORKS = 8


def parse_rule(written: str) -> Rule:
    """Read a rule. Raises `InvalidInput`."""
    text = written.strip()
    found = _WRITTEN.fullmatch(text) if len(text) <= MAX_WRITTEN else None
    if found is None:
        raise InvalidInput(
            f"{written[:80]!r} is no export rule: write an address, a network or a host name, and "
            "'(ro)' behind it for reading only"
        )
    kind, client = _client(found["client"])
    return Rule(text, kind, client, Access(found["access"] or Access.READ_WRITE))


def _client(text: str) -> tuple[ClientKind, str]:
    try:
        if "%" in text:
            raise ValueError
        network = _network(text)
    except ValueError:
        if _NO_NAME.fullmatch(text):
            raise InvalidInput(
                f"{text[:80]!r} is neither an address nor a network: write {_meant(text)}"
            ) from None
    else:
        if network.num_addresses == 1:
            return ClientKind.ADDRESS, str(network.network_address)
        return ClientKind.NETWORK, str(network)
    for kind, form in _FORMS:
        if form.fullmatch(text):
            return kind, text if kind is ClientKind.NETGROUP else text.lower()
    raise InvalidInput(f"{text[:80]!r} is neither an address, a network nor a host name")


def _network(text: str) -> IPv4Network | IPv6Network:
    """The network of this text, of an address a network of one; IPv4 that is written as IPv6
    is IPv4. Raises `ValueError`."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        packed = network.network_address.packed[-4:]
        return IPv4Network((packed, network.prefixlen - _MAPPED.prefixlen))
    return network


def _meant(text: str) -> str:
    """How to write what somebody has probably meant."""
    try:
        if found := _STARS.fullmatch(text):
            kept = found["kept"].split(".")
            if len(kept) + text.count("*") <= 4:
                address = ".".join([*kept, "0", "0", "0"][:4])
                return str(ip_network(f"{address}/{8 * len(kept)}"))
        if found := _DASHED.fullmatch(text):
            with suppress(ValueError):
                return str(ip_network(f"{found['address']}/{found['bits']}"))
        if _HEXADECIMAL.fullmatch(text):
            return str(ip_address(int(text, 16)))
        first, dash, last = text.partition("-")
        if dash:
            networks = list(summarize_address_range(*_ends(first, last)))
            if len(networks) <= _MOST_NETWORKS:
                return " and ".join(str(one).removesuffix("/32") for one in networks)
    except (TypeError, ValueError):
        pass
    return "10.0.0.7, 10.0.0.0/24, 2001:db8::7 or 2001:db8::/32"


def _ends(first: str, last: str) -> tuple[Any, Any]:
    """Of a range, whose end may be its last number alone: 10.0.0.1-9."""
    before, dot, _ = first.rpartition(".")
    return ip_address(first), ip_address(f"{before}{dot}{last}" if last.isdecimal() else last)


def recorded_rules(written: Iterable[str]) -> tuple[Rule, ...] | None:
    """The rules that are recorded; None where a record cannot be read: somebody may have written
    it by hand."""
    try:
        return tuple(parse_rule(rule) for rule in written)
    except InvalidInput:
        return None


def written_rules(rules: Iterable[Rule]) -> list[str]:
    """Rules as they are recorded."""
    return [rule.written for rule in rules]


def parse_rules(written: Iterable[str]) -> tuple[Rule, ...]:
    """Read the rules of a policy, in their order; one that is there twice counts once.

    Raises `InvalidInput`, also where two rules give one client different access: which of them
    holds differs from one kind of storage to the next.
    """
    rules: dict[tuple[ClientKind, str], Rule] = {}
    for text in written:
        rule = parse_rule(text)
        known = rules.setdefault((rule.kind, rule.client), rule)
        if known.access is not rule.access:
            raise InvalidInput(
                f"{known.written!r} and {rule.written!r} give one client different access: keep "
                "one of them"
            )
    return tuple(rules.values())


def is_ours(rule: Rule) -> bool:
    """Whether it can be read again from what is written, and means the same."""
    try:
        return parse_rule(rule.written) == rule
    except InvalidInput:
        return False


def with_rule(rules: Iterable[Rule], rule: Rule) -> tuple[Rule, ...]:
    """The same with ``rule`` at the end, unless it is there. Raises `Conflict`."""
    before = tuple(rules)
    for known in before:
        if (known.kind, known.client) == (rule.kind, rule.client):
            if known.access is rule.access:
                return before
            raise Conflict(
                f"there is the rule {known.written!r}, which gives the same client other access: "
                "remove it first",
                field="params.rule",
            )
    return (*before, rule)


def without_rule(rules: Iterable[Rule], rule: Rule) -> tuple[Rule, ...]:
    """The same without what means the same as ``rule``."""
    return tuple(known for known in rules if known != rule)


def _checked_rule(written: str) -> str:
    return parse_rule(written).written


def _checked_rules(written: list[str]) -> list[str]:
    return [rule.written for rule in parse_rules(written)]


#: A rule, and the rules of a policy, as a request has them.
RuleText = Annotated[
    str,
    AfterValidator(checked(_checked_rule)),
    Field(
        min_length=1,
        max_length=MAX_WRITTEN,
        description="A client (address, network, host name if the backend supports it), "
        "followed by '(ro)' if it may only read.",
        examples=["10.0.0.0/24(ro)"],
    ),
]
RuleTexts = Annotated[
    list[RuleText],
    AfterValidator(checked(_checked_rules)),
    Field(
        max_length=MAX_RULES,
        description="The rules in order; without any, nobody is admitted.",
        examples=[["10.0.0.0/24", "2001:db8::7(ro)"]],
    ),
]
