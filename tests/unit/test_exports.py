"""Rules of export policies: what clients they mean, and what is said of those that mean none."""

from __future__ import annotations

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.exports import ClientKind, parse_rule, parse_rules


@pytest.mark.parametrize(
    ("written", "kind", "client"),
    [
        ("10.0.0.1", ClientKind.ADDRESS, "10.0.0.1"),
        ("10.0.0.1/32", ClientKind.ADDRESS, "10.0.0.1"),
        ("10.0.0.7/24", ClientKind.NETWORK, "10.0.0.0/24"),
        ("10.0.0.0/255.255.255.0", ClientKind.NETWORK, "10.0.0.0/24"),
        ("2001:DB8::0007", ClientKind.ADDRESS, "2001:db8::7"),
        ("::ffff:10.0.0.1", ClientKind.ADDRESS, "10.0.0.1"),
        ("::ffff:a00:1", ClientKind.ADDRESS, "10.0.0.1"),
        ("::ffff:10.0.0.0/120", ClientKind.NETWORK, "10.0.0.0/24"),
        ("::ffff:0:0/96", ClientKind.NETWORK, "0.0.0.0/0"),
        ("::/0", ClientKind.NETWORK, "::/0"),
        ("*", ClientKind.PATTERN, "*"),
        ("*.Example.com", ClientKind.PATTERN, "*.example.com"),
        ("web-1", ClientKind.HOST, "web-1"),
        ("10-0-0-1", ClientKind.HOST, "10-0-0-1"),
        ("ip-10-0-0-1", ClientKind.HOST, "ip-10-0-0-1"),
        ("3com", ClientKind.HOST, "3com"),
        ("0xcafe.example.com", ClientKind.HOST, "0xcafe.example.com"),
        ("@10", ClientKind.NETGROUP, "@10"),
    ],
)
def test_a_client_is_an_address_a_network_or_a_name(
    written: str, kind: ClientKind, client: str
) -> None:
    rule = parse_rule(written)
    assert (rule.kind, rule.client, rule.written) == (kind, client, written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10.0.0.1-10.0.0.9", "10.0.0.1 and 10.0.0.2/31 and 10.0.0.4/30 and 10.0.0.8/31"),
        ("10.0.0.1-9", "10.0.0.1 and 10.0.0.2/31 and 10.0.0.4/30 and 10.0.0.8/31"),
        ("10.0.0.0-10.0.0.255", "10.0.0.0/24"),
        ("2001:db8::-2001:db8::ffff", "2001:db8::/112"),
        ("10.0.0.0-24", "10.0.0.0/24"),
        ("2001:db8::-32", "2001:db8::/32"),
        ("10.0.0.*", "10.0.0.0/24"),
        ("10.*", "10.0.0.0/8"),
        ("10.1.*.*", "10.1.0.0/16"),
        ("0x7f000001", "127.0.0.1"),
        ("10.0.0.9-10.0.0.1", "10.0.0.7, 10.0.0.0/24"),
        ("10.0.0.1-10.0.255.254", "10.0.0.7, 10.0.0.0/24"),  # more networks than one wants
        ("10.0.0.*.*", "10.0.0.7, 10.0.0.0/24"),
        ("256.0.0.*", "10.0.0.7, 10.0.0.0/24"),
        ("192.168.?.1", "10.0.0.7, 10.0.0.0/24"),
        ("0x7f.1", "10.0.0.7, 10.0.0.0/24"),
        ("127.1", "10.0.0.7, 10.0.0.0/24"),
        ("2130706433", "10.0.0.7, 10.0.0.0/24"),
        ("010.0.0.1", "10.0.0.7, 10.0.0.0/24"),
        ("10.0.0.300", "10.0.0.7, 10.0.0.0/24"),
        ("fe80::1%eth0", "10.0.0.7, 10.0.0.0/24"),
        (".10", "10.0.0.7, 10.0.0.0/24"),
    ],
)
@pytest.mark.parametrize("access", ["", "(ro)"])
def test_addresses_in_another_notation_are_no_names_that_admit_nobody(
    written: str, meant: str, access: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_rule(written + access)
    assert f"write {meant}" in refused.value.detail


def test_an_address_counts_once_in_whichever_family_it_is_written() -> None:
    assert len(parse_rules(["10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.1/128"])) == 1
    with pytest.raises(InvalidInput, match="different access"):
        parse_rules(["10.0.0.1", "::ffff:10.0.0.1(ro)"])
