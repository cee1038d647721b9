"""The NAS contract over HTTP at ``/v3``, against the whole running product."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from orchestrator.api.app import create_app
from tests.nas.conftest import ADMIN, NOBODY, SIZE, UBER, USER, Nas, awaited
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import Faults

on = pytest.mark.parametrize

NETWORK = "10.0.0.0/24"

#: What a volume has in an answer, whether it has a value or not.
VOLUME_FIELDS = {
    *("name", "size_used", "size_total", "filer_address", "uuid", "state", "creation_time"),
    *("percentage_snapshot_reserve", "percentage_snapshot_reserve_used", "autosize_enabled"),
    *("max_autosize", "active_policy_name", "junction_path", "aggregate_name"),
    *("compression_enabled", "inline_compression", "caching_policy"),
}


@dataclass(frozen=True)
class Route:
    """One row of the contract's table."""

    method: str
    #: With ``{v}`` for a volume, ``{s}`` a snapshot, ``{h}`` a host, ``{p}`` a policy and
    #: ``{r}`` a rule.
    path: str
    #: Who may.
    role: str
    #: A body in the right form.
    body: Any = None
    #: What it is where none of what it names is there: the volume, the policy.
    absent: int = 404
    #: A body that has not the form, and the field that is told to be wrong.
    malformed: tuple[Any, str] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


ROUTES = [
    Route("GET", "/volumes", USER, absent=200),
    Route("GET", "/volumes/{v}", USER),
    Route(
        "POST",
        "/volumes/{v}",
        ADMIN,
        {"from_volume": "is_not_there", "from_snapshot": "snap"},
        malformed=({"size_total": "lots"}, "size_total"),
    ),
    Route(
        "PATCH",
        "/volumes/{v}",
        UBER,
        {"size_total": SIZE},
        malformed=({"autosize_enabled": "perhaps"}, "autosize_enabled"),
    ),
    Route("DELETE", "/volumes/{v}", UBER),
    Route("GET", "/volumes/{v}/snapshots", USER),
    Route("GET", "/volumes/{v}/snapshots/{s}", USER),
    Route(
        "POST",
        "/volumes/{v}/snapshots/{s}",
        ADMIN,
        {"purge_old_if_needed": True},
        malformed=({"purge_old_if_needed": "perhaps"}, "purge_old_if_needed"),
    ),
    Route("DELETE", "/volumes/{v}/snapshots/{s}", ADMIN),
    Route("GET", "/volumes/{v}/locks", USER),
    Route("PUT", "/volumes/{v}/locks/{h}", ADMIN),
    Route("DELETE", "/volumes/{v}/locks/{h}", UBER),
    Route("GET", "/export", ADMIN, absent=200),
    Route("GET", "/export/{p}", ADMIN),
    Route(
        "POST",
        "/export/{p}",
        ADMIN,
        {"rules": []},
        absent=201,
        malformed=({"rules": [NETWORK, ""]}, "rules.1"),
    ),
    Route("DELETE", "/export/{p}", ADMIN),
    Route("PUT", "/export/{p}/rule/{r}", ADMIN),
    Route("DELETE", "/export/{p}/rule/{r}", ADMIN),
]
WITH_FORM = [route for route in ROUTES if route.malformed is not None]

#: Of each caller, what it has.
CALLERS = [None, NOBODY, USER, ADMIN, UBER]


@pytest.fixture
def nas(nas_product: Nas) -> Nas:
    return nas_product


def ask(
    nas: Nas,
    who: str | None,
    method: str,
    path: str,
    body: Any = None,
    *,
    sub: str = "ram",
    **names: str,
) -> httpx.Response:
    """Send a request below ``/v3/{sub}``, names put into the path as they are."""
    given = {"json": body} if body is not None else {}
    return nas.client(who).request(method, f"/{sub}{path.format(**names)}", **given)


def ask_absent(nas: Nas, who: str | None, route: Route, name: str, **more: Any) -> httpx.Response:
    """Ask for what is not there."""
    names = {"v": name, "s": "snap", "h": "host1", "p": name, "r": NETWORK}
    body = more.pop("body", route.body)
    return ask(nas, who, route.method, route.path, body, **{**names, **more})


def made(nas: Nas, volume_name: str, **fields: Any) -> dict[str, Any]:
    body = {"size_total": SIZE, **fields}
    answer = ask(nas, ADMIN, "POST", f"/volumes/{volume_name}", body)
    assert answer.status_code == 201, answer.text
    volume: dict[str, Any] = answer.json()
    return volume


def snapshot(nas: Nas, volume: str, *names: str) -> None:
    for name in names:
        answer = ask(nas, ADMIN, "POST", f"/volumes/{volume}/snapshots/{name}")
        assert (answer.status_code, answer.json()) == (201, "")


def found(nas: Nas, name: str) -> dict[str, Any]:
    answer = ask(nas, USER, "GET", f"/volumes/{name}")
    assert answer.status_code == 200, answer.text
    volume: dict[str, Any] = answer.json()
    return volume


def snapshots_of(nas: Nas, name: str) -> list[str]:
    return [one["name"] for one in ask(nas, USER, "GET", f"/volumes/{name}/snapshots").json()]


def message(answer: httpx.Response, status: int) -> str:
    """The sentence of a refusal with this status, which tells nothing else."""
    assert (answer.status_code, answer.json().keys()) == (status, {"message"}), answer.text
    sentence = answer.json()["message"]
    assert isinstance(sentence, str)
    assert len(sentence.split()) > 3
    return sentence


def field_errors(answer: httpx.Response) -> dict[str, str]:
    """By field, what is wrong with the form of a request that was refused for it."""
    assert (answer.status_code, answer.json().keys()) == (400, {"message", "errors"}), answer.text
    assert isinstance(answer.json()["message"], str)
    errors: dict[str, str] = answer.json()["errors"]
    assert all(isinstance(text, str) for text in errors.values())
    return errors


# -- who may ----------------------------------------------------------------------------------


@on("route", ROUTES, ids=str)
@on("who", CALLERS)
def test_each_route_needs_its_own_role_and_no_other(
    nas: Nas, name: str, route: Route, who: str | None
) -> None:
    answer = ask_absent(nas, who, route, name)
    if who == route.role:
        assert answer.status_code == route.absent, answer.text
    elif who is None:
        message(answer, 401)
    else:
        wanted = {USER: "USER", ADMIN: "ADMIN", UBER: "UBER_ADMIN"}[route.role]
        assert message(answer, 403).endswith(f"role {wanted}")


@on("route", ROUTES, ids=str)
@on("header", ["Bearer wrong", "Bearer orc_0123456789abcdef_wrong", "Basic dXNlcjp1c2Vy", "wrong"])
def test_an_invalid_token_is_not_taken_for_none(nas: Nas, name: str, route: Route, header: str):
    path = route.path.format(v=name, s="snap", h="host1", p=name, r=NETWORK)
    answer = nas.client(None).request(
        route.method, f"/ram{path}", json=route.body or {}, headers={"Authorization": header}
    )
    message(answer, 401)


def test_a_401_says_how_to_authenticate(nas: Nas) -> None:
    answer = nas.client(None).get("/ram/volumes", headers={"Authorization": "Bearer wrong"})
    message(answer, 401)
    assert answer.headers.get("WWW-Authenticate") == "Bearer"


@on("who", CALLERS)
def test_everybody_reads_the_configuration(nas: Nas, who: str | None) -> None:
    client = nas.client(who)
    roles = {USER: ["USER"], ADMIN: ["ADMIN"], UBER: ["UBER_ADMIN"]}.get(who or "", [])
    assert client.get("/conf/subsystems").json() == ["fast", "ram"]
    assert client.get("/conf/roles").json() == ["USER", "ADMIN", "UBER_ADMIN"]
    assert client.get("/conf/me").json() == {"name": who, "roles": roles}
    assert client.get("/conf/me/roles").json() == roles


def roles_of(nas: Nas, who: dict[str, str | None], **v3: Any) -> dict[str, list[str]]:
    """The roles of each, by the configuration ``v3``; ``who``: a token by what to call it."""

    async def look() -> dict[str, list[str]]:
        async with nas.other(**v3) as client:
            answers = {}
            for label, token in who.items():
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                answer = await client.get("/conf/me/roles", headers=headers)
                assert answer.status_code == 200, answer.text
                answers[label] = answer.json()
            return answers

    found: dict[str, list[str]] = awaited(look)
    return found


def test_roles_come_from_the_tokens_where_nothing_is_configured(nas: Nas, name: str) -> None:
    who: dict[str, str | None] = {"anonymous": None, "local": nas.product.token}
    for role in ("reader", "operator", "admin"):
        who[role] = nas.make_token(f"{name}-{role}", role)
    assert roles_of(nas, who) == {
        "anonymous": [],
        "reader": ["USER"],
        "operator": ["ADMIN", "USER"],
        "admin": ["ADMIN", "UBER_ADMIN", "USER"],
        "local": ["ADMIN", "UBER_ADMIN", "USER"],
    }


def test_a_configured_role_is_that_of_its_members_alone(nas: Nas) -> None:
    who: dict[str, str | None] = {
        "anonymous": None,
        "local": nas.product.token,
        USER: nas.tokens[USER],
        UBER: nas.tokens[UBER],
    }
    assert roles_of(nas, who, user=["everybody"]) == {
        "anonymous": ["USER"],
        "local": ["ADMIN", "UBER_ADMIN", "USER"],
        USER: ["ADMIN", "USER"],
        UBER: ["ADMIN", "USER"],
    }
    assert roles_of(nas, who, user=[USER], uber_admin=["anonymous", USER]) == {
        "anonymous": ["UBER_ADMIN"],
        "local": ["ADMIN"],
        USER: ["ADMIN", "UBER_ADMIN", "USER"],
        UBER: ["ADMIN"],
    }


def statuses(nas: Nas, calls: list[tuple[str, str, Any]], token: str | None = None, **v3: Any):
    """What each call below ``/v3/ram`` is answered by an API with other settings."""

    async def work() -> list[int]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with nas.other(**v3) as client:
            answers = [
                await client.request(method, f"/ram{path}", json=body, headers=headers)
                for method, path, body in calls
            ]
        return [answer.status_code for answer in answers]

    return awaited(work)


def reads_and_writes(name: str) -> list[tuple[str, str, Any]]:
    return [
        ("GET", "/volumes", None),
        ("POST", f"/volumes/{name}", {"size_total": SIZE}),
        ("GET", f"/volumes/{name}", None),
        ("POST", f"/volumes/{name}/snapshots/snap", {}),
        ("GET", f"/volumes/{name}/snapshots", None),
        ("PUT", f"/volumes/{name}/locks/host1", None),
        ("GET", f"/volumes/{name}/locks", None),
        ("GET", "/export", None),
        ("POST", f"/export/{name}", {"rules": []}),
        ("PATCH", f"/volumes/{name}", {"size_total": 2 * SIZE}),
        ("DELETE", f"/volumes/{name}/locks/host1", None),
        ("DELETE", f"/volumes/{name}", None),
    ]


EVERYTHING = [200, 201, 200, 201, 200, 201, 200, 200, 201, 200, 204, 204]


def test_anonymous_callers_do_what_is_configured_and_nothing_else(nas: Nas, name: str) -> None:
    made(nas, name)
    assert statuses(nas, reads_and_writes(name)) == [401] * 12
    assert statuses(nas, reads_and_writes(name), user=["everybody"]) == [
        *(200, 401, 200, 401, 200, 401, 200, 401, 401, 401, 401, 401)
    ]


def test_anonymous_callers_write_where_that_is_configured(nas: Nas, name: str) -> None:
    assert (
        statuses(
            nas,
            reads_and_writes(name),
            user=["anonymous"],
            admin=["anonymous"],
            uber_admin=["anonymous"],
        )
        == EVERYTHING
    )


def test_configured_roles_are_enough_whatever_the_token_may_do_elsewhere(
    nas: Nas, name: str
) -> None:
    token = nas.make_token(name, "reader")
    assert (
        statuses(nas, reads_and_writes(name), token, user=[name], admin=[name], uber_admin=[name])
        == EVERYTHING
    )


def test_anybody_makes_snapshots_where_that_is_configured(nas: Nas, name: str) -> None:
    made(nas, name)
    path = f"/volumes/{name}/snapshots/snap"
    calls = [("POST", path, None), ("DELETE", path, None)]
    assert statuses(nas, calls, user=[], open_snapshots=True) == [201, 401]
    assert snapshots_of(nas, name) == ["snap"]


def test_only_the_configured_backends_are_served(nas: Nas) -> None:
    async def look() -> tuple[Any, int, httpx.Response]:
        async with nas.other(backends=["ram"], user=["everybody"]) as client:
            return (
                (await client.get("/conf/subsystems")).json(),
                (await client.get("/ram/volumes")).status_code,
                await client.get("/fast/volumes"),
            )

    served, there, hidden = awaited(look)
    assert (served, there) == (["ram"], 200)
    assert "fast" in message(hidden, 404)


@on("enabled", [True, False])
def test_the_interface_can_be_turned_off(nas: Nas, enabled: bool) -> None:
    async def look() -> int:
        app = create_app(nas.service(enabled=enabled))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client,
        ):
            return (await client.get("/v3/conf/roles")).status_code

    assert awaited(look) == (200 if enabled else 404)


# -- what is refused, and in which order ------------------------------------------------------


@on("route", WITH_FORM, ids=str)
@on("who", [NOBODY, ADMIN, UBER])
def test_the_form_is_checked_before_the_role(nas: Nas, name: str, route: Route, who: str) -> None:
    assert route.malformed is not None
    body, field = route.malformed
    answer = ask_absent(nas, who, route, name, v="not%20a%20name", p="not%20a%20name", body=body)
    assert list(field_errors(answer)) == [field]


@on(
    ("method", "path", "body", "said"),
    [
        ("POST", "/volumes/v", {"size_total": "lots"}, "a whole number is wanted, not 'lots'"),
        ("POST", "/volumes/v", {"size_total": True}, "a whole number is wanted, not true"),
        ("POST", "/volumes/v", {"size_total": 0}, "it is at least 1, not 0"),
        ("POST", "/volumes/v", {"autosize_enabled": 1}, "true or false is wanted, not 1"),
        ("POST", "/volumes/v", {"junction_path": 7}, "text is wanted, not 7"),
        ("POST", "/volumes/v", [], "an object is wanted, not a list"),
        ("POST", "/export/p", {"rules": "10.0.0.1"}, "a list is wanted, not '10.0.0.1'"),
        ("POST", "/export/p", {}, "it is missing"),
        ("POST", "/export/p", None, "it is missing"),
        ("GET", "/volumes?limit=many", None, "a whole number is wanted, not 'many'"),
    ],
)
def test_what_is_wrong_with_the_form_is_told_in_our_words(
    nas: Nas, method: str, path: str, body: Any, said: str
) -> None:
    assert list(field_errors(ask(nas, UBER, method, path, body)).values()) == [said]


@on("route", ROUTES, ids=str)
def test_the_role_is_checked_before_names_and_what_there_is(
    nas: Nas, name: str, route: Route
) -> None:
    bad = dict.fromkeys(("v", "s", "h", "p", "r"), "not%20a%20name")
    message(ask_absent(nas, NOBODY, route, name, **bad), 403)
    message(ask_absent(nas, NOBODY, route, name, sub="nowhere"), 403)


@on("body", [None, {}, {"colour": "red"}])
def test_the_role_is_checked_before_whether_there_is_anything_to_change(
    nas: Nas, name: str, body: Any
) -> None:
    message(ask(nas, NOBODY, "PATCH", f"/volumes/{name}", body), 403)
    refused = ask(nas, UBER, "PATCH", f"/volumes/{name}", body)
    assert (refused.status_code, refused.json()["errors"]) == (400, {})


@on(
    ("route", "part"),
    [
        (route, part)
        for route in ROUTES
        for part in ("v", "s", "h", "p", "r")
        if f"{{{part}}}" in route.path
    ],
    ids=str,
)
@on("bad", ["not%20a%20name", "%C3%BCmlaut", "nul%00", "%FF", "two%0Alines"])
def test_names_are_checked_before_what_there_is(
    nas: Nas, name: str, route: Route, part: str, bad: str
) -> None:
    answer = ask_absent(nas, route.role, route, name, **{part: bad})
    message(answer, 400)


@on("route", ROUTES, ids=str)
def test_a_storage_that_is_not_there_is_a_404(nas: Nas, name: str, route: Route) -> None:
    answer = ask_absent(nas, route.role, route, name, sub="nowhere")
    assert "nowhere" in message(answer, 404)


@on("route", [route for route in ROUTES if route.absent == 404], ids=str)
def test_what_is_not_there_is_named(nas: Nas, name: str, route: Route) -> None:
    sentence = message(ask_absent(nas, route.role, route, name), 404)
    assert (name if route.method != "POST" or "{s}" in route.path else "is_not_there") in sentence


@on("route", [route for route in ROUTES if route.method in ("GET", "DELETE", "PUT")], ids=str)
def test_an_empty_object_as_body_is_tolerated(nas: Nas, name: str, route: Route) -> None:
    assert ask_absent(nas, route.role, route, name, body={}).status_code == route.absent


_DEEP = "[" * 100_000 + "]" * 100_000


@on("route", [route for route in ROUTES if route.method in ("POST", "PATCH")], ids=str)
@on(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff\xfe", _DEEP.encode(), b"{}"),
        b'{"size_total": NaN, "rules": NaN}',
        b'{"size_total": 1e400, "rules": 1e400}',
        b'{"size_total": -1, "rules": [-1]}',
        b'{"size_total": 1.5, "rules": [1.5]}',
        b'{"size_total": 9223372036854775808, "rules": {}}',
        b'{"size_total": 1' + b"0" * 5000 + b', "rules": null}',
        b'{"size_total": 1048576, "name": "\\ud800", "rules": ["\\ud800"]}',
        b'{"size_total": 1048576, "name": "\\u0000", "rules": ["\\u0000"]}',
        b'{"max_autosize": 0, "from_volume": "", "purge_old_if_needed": 3, "rules": "10.0.0.1"}',
        b'{"active_policy_name": "two words", "size_total": 1048576, "rules": ["two words"]}',
    ],
    ids=lambda body: repr(body[:40]),
)
@on("media_type", ["application/json", "text/plain"])
def test_whatever_the_body_is_the_answer_is_no_500(
    nas: Nas, name: str, route: Route, body: bytes, media_type: str
) -> None:
    path = route.path.format(v=name, s="snap", p=name)
    # In RAM a volume may be made without saying anything of it.
    sub = "fast" if route.method == "POST" and route.path == "/volumes/{v}" else "ram"
    answer = nas.client(route.role).request(
        route.method, f"/{sub}{path}", content=body, headers={"Content-Type": media_type}
    )
    assert answer.status_code in (400, 404), answer.text
    assert isinstance(answer.json()["message"], str)
    assert ask(nas, USER, "GET", f"/volumes/{name}").status_code == 404
    assert ask(nas, ADMIN, "GET", f"/export/{name}").status_code == 404


@on(
    ("body", "field"),
    [
        ({"size_total": "lots"}, "size_total"),
        ({"size_total": 0}, "size_total"),
        ({"size_total": -5}, "size_total"),
        ({"size_total": SIZE, "max_autosize": -1}, "max_autosize"),
        ({"size_total": SIZE, "autosize_enabled": "perhaps"}, "autosize_enabled"),
        ({"size_total": SIZE, "compression_enabled": []}, "compression_enabled"),
        ({"size_total": SIZE, "percentage_snapshot_reserve": 101}, "percentage_snapshot_reserve"),
        ({"size_total": SIZE, "name": 7}, "name"),
        ({"size_total": SIZE, "junction_path": {}}, "junction_path"),
        ({"from_volume": [], "from_snapshot": "snap"}, "from_volume"),
    ],
    ids=str,
)
def test_a_field_in_the_wrong_form_is_named(
    nas: Nas, name: str, body: dict[str, Any], field: str
) -> None:
    assert list(field_errors(ask(nas, ADMIN, "POST", f"/volumes/{name}", body))) == [field]


def test_all_fields_in_the_wrong_form_are_named(nas: Nas, name: str) -> None:
    body = {"size_total": "lots", "autosize_enabled": "perhaps", "max_autosize": None}
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", body)
    assert field_errors(answer).keys() == {"size_total", "autosize_enabled"}
    assert "size_total" in answer.json()["message"]


@on(
    ("method", "path", "status"),
    [
        ("GET", "/ram", 404),
        ("GET", "/ram/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/conf/nothing", 404),
        ("PUT", "/ram/volumes/vol", 405),
        ("POST", "/ram/volumes", 405),
        ("DELETE", "/conf/roles", 405),
    ],
)
def test_what_is_no_route_is_told_in_the_same_form(
    nas: Nas, method: str, path: str, status: int
) -> None:
    answer = nas.client(ADMIN).request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["message"])


# -- volumes ----------------------------------------------------------------------------------


def test_a_volume_is_made_read_listed_and_hidden(nas: Nas, name: str) -> None:
    fields = {"size_total": SIZE, "junction_path": f"/{name}", "autosize_enabled": True}
    answer = ask(nas, ADMIN, "POST", f"/volumes/{name}", fields)
    assert answer.status_code == 201
    volume = answer.json()
    assert volume.keys() == VOLUME_FIELDS
    assert {**volume, **fields} == volume
    assert SIZE <= volume["size_total"] <= 10 * SIZE
    assert found(nas, name) == found(nas, f":/{name}") == volume
    assert volume in ask(nas, USER, "GET", "/volumes").json()
    gone = ask(nas, UBER, "DELETE", f"/volumes/{name}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert name in message(ask(nas, USER, "GET", f"/volumes/{name}"), 404)
    message(ask(nas, UBER, "DELETE", f"/volumes/{name}"), 404)
    assert name not in [one["name"] for one in ask(nas, USER, "GET", "/volumes").json()]


def test_unknown_keys_are_dropped_and_absent_ones_answered_as_null(nas: Nas, name: str) -> None:
    volume = made(nas, name, colour="red", uuid="mine", size_used=7)
    assert volume.keys() == VOLUME_FIELDS
    assert volume["uuid"] != "mine"
    absent = {"active_policy_name", "junction_path", "aggregate_name", "caching_policy"}
    assert {volume[field] for field in absent} == {None}
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", {"size_total": 2 * SIZE, "colour": "red"})
    assert answer.status_code == 200
    assert found(nas, name)["size_total"] == 2 * SIZE


def test_times_are_written_as_in_rfc_822(nas: Nas, name: str) -> None:
    volume = made(nas, name)
    snapshot(nas, name, "snap")
    told = ask(nas, USER, "GET", f"/volumes/{name}/snapshots/snap").json()
    made_at, kept_at = (parsedate_to_datetime(one["creation_time"]) for one in (volume, told))
    assert made_at.tzinfo is not None
    assert made_at <= kept_at
    assert volume["creation_time"].endswith(" GMT")


def test_a_volume_that_is_there_is_not_made_again(nas: Nas, name: str) -> None:
    volume = made(nas, name, junction_path=f"/{name}")
    for again in (name, f":/{name}"):
        answer = ask(nas, ADMIN, "POST", f"/volumes/{again}", {"size_total": 2 * SIZE})
        assert name in message(answer, 400)
    assert found(nas, name) == volume


@on(
    "body",
    [
        {"size_total": 2**63},
        {"size_total": SIZE, "name": "another"},
        {"size_total": SIZE, "junction_path": "no/path"},
        {"size_total": SIZE, "active_policy_name": "is_not_there"},
        {"size_total": SIZE, "caching_policy": "two words"},
    ],
    ids=str,
)
def test_a_volume_that_makes_no_sense_is_not_made(
    nas: Nas, name: str, body: dict[str, Any]
) -> None:
    message(ask(nas, ADMIN, "POST", f"/volumes/{name}", body), 400)
    message(ask(nas, USER, "GET", f"/volumes/{name}"), 404)


@on("body", [None, {}, {"colour": "red"}, {"from_volume": "is_not_there"}, {"max_autosize": 0}])
def test_a_volume_has_a_usual_size_where_storage_costs_nothing(
    nas: Nas, name: str, body: Any
) -> None:
    answer = ask(nas, ADMIN, "POST", f"/volumes/{name}", body)
    assert (answer.status_code, answer.json()["size_total"]) == (201, 2**30)
    refused = ask(nas, ADMIN, "POST", f"/volumes/{name}", body, sub="fast")
    assert "size_total" in message(refused, 400)


def test_a_name_that_was_deleted_is_still_taken_and_why_is_told(nas: Nas, name: str) -> None:
    made(nas, name)
    assert ask(nas, UBER, "DELETE", f"/volumes/{name}").status_code == 204
    message(ask(nas, USER, "GET", f"/volumes/{name}"), 404)
    again = message(ask(nas, ADMIN, "POST", f"/volumes/{name}", {"size_total": SIZE}), 400)
    assert "was deleted here" in again
    assert "unrestrict" in again


def test_volumes_are_listed_in_pages_where_that_is_asked_for(nas: Nas, name: str) -> None:
    names = sorted(f"{name}{end}" for end in ("a", "b", "c"))
    for one in names:
        made(nas, one)
    seen: list[str] = []
    after = name
    while True:
        query = f"/volumes?limit=2&after={after}"
        page = [one["name"] for one in ask(nas, USER, "GET", query).json()]
        seen += page
        if len(page) < 2:
            break
        after = page[-1]
    assert [one for one in seen if one.startswith(name)] == names
    whole = [one["name"] for one in ask(nas, USER, "GET", "/volumes").json()]
    assert whole == sorted(whole)
    assert set(names) <= set(whole)


def test_names_may_have_a_plus(nas: Nas, name: str) -> None:
    made(nas, f"{name}+b")
    assert found(nas, f"{name}+b")["name"] == f"{name}+b"


@on(
    "change",
    [
        {"autosize_enabled": True, "max_autosize": 2**100 + 1},
        {"size_total": 2 * SIZE},
        {"percentage_snapshot_reserve": 20, "compression_enabled": True},
        {"inline_compression": True, "caching_policy": "auto"},
    ],
    ids=str,
)
def test_a_patch_is_answered_with_null_and_reads_back(
    nas: Nas, name: str, change: dict[str, Any]
) -> None:
    before = made(nas, name)
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", change)
    assert (answer.status_code, answer.text) == (200, "null")
    after = found(nas, name)
    # Floats would lose the last digits of large numbers, and read as equal to them.
    assert {field: repr(after[field]) for field in change} == {
        field: repr(value) for field, value in change.items()
    }
    assert {**before, **change} == after


@on("body", [None, {}, {"colour": "red"}, {"uuid": "mine", "name": "other"}], ids=str)
def test_a_patch_of_nothing_is_refused(nas: Nas, name: str, body: Any) -> None:
    made(nas, name)
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", body)
    assert answer.status_code == 400
    assert "size_total" in answer.json()["message"], "what can be changed is told"
    assert ask(nas, UBER, "PATCH", f"/volumes/{name}_2", body).status_code == 400


@on(
    ("change", "word"),
    [
        ({"size_total": 1}, "smaller"),
        ({"size_total": 2**63}, "size_total"),
        ({"size_total": 2 * SIZE, "active_policy_name": "is_not_there"}, "is_not_there"),
        ({"size_total": 2 * SIZE, "max_autosize": 2**200}, "max_autosize"),
    ],
    ids=str,
)
def test_a_patch_that_makes_no_sense_changes_nothing(
    nas: Nas, name: str, change: dict[str, Any], word: str
) -> None:
    before = made(nas, name)
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", change)
    assert answer.status_code == 400
    assert word in answer.json()["message"]
    assert found(nas, name) == before


# -- names in paths ---------------------------------------------------------------------------


def test_names_have_slashes_written_as_they_are_or_encoded(nas: Nas, name: str) -> None:
    volume = made(nas, f"{name}/of/it")
    assert volume["name"] == f"{name}/of/it"
    assert found(nas, f"{name}%2Fof%2fit") == found(nas, f"{name}/of/it") == volume
    snapshot(nas, f"{name}%2Fof/it", "snap")
    assert snapshots_of(nas, f"{name}/of%2Fit") == ["snap"]
    lock = ask(nas, ADMIN, "PUT", f"/volumes/{name}/of/it/locks/host1")
    assert lock.status_code == 201
    assert ask(nas, USER, "GET", f"/volumes/{name}%2Fof%2Fit/locks").json() == [{"host": "host1"}]


def test_other_characters_may_be_encoded_too(nas: Nas, name: str) -> None:
    volume = made(nas, f"node%3A%2F{name}", name=name)
    assert volume["junction_path"] == f"/{name}"
    assert found(nas, f"%3a/{name}") == found(nas, f"node:/{name}") == volume


@on("word", ["snapshots", "locks"])
def test_a_volume_may_be_called_like_a_route(nas: Nas, name: str, word: str) -> None:
    made(nas, name)
    odd = made(nas, f"{name}%2F{word}")
    assert odd["name"] == f"{name}/{word}"
    assert found(nas, f"{name}%2F{word}") == odd
    assert ask(nas, USER, "GET", f"/volumes/{name}/{word}").json() == []
    assert ask(nas, USER, "GET", f"/volumes/{name}%2F{word}/{word}").json() == []


def test_names_of_snapshots_have_encoded_slashes(nas: Nas, name: str) -> None:
    made(nas, name)
    snapshot(nas, name, "daily%2F1")
    answer = ask(nas, USER, "GET", f"/volumes/{name}/snapshots/daily%2F1")
    assert (answer.status_code, answer.json()["name"]) == (200, "daily/1")
    gone = ask(nas, ADMIN, "DELETE", f"/volumes/{name}/snapshots/daily%2F1")
    assert gone.status_code == 204
    assert snapshots_of(nas, name) == []


def test_policies_and_rules_have_slashes_written_as_they_are_or_encoded(
    nas: Nas, name: str
) -> None:
    policy = f"{name}/of/it"
    assert ask(nas, ADMIN, "POST", f"/export/{policy}", {"rules": []}).status_code == 201
    for written in ("10.1.0.0/16", "10.2.0.0%2F16", "2001:db8::%2F32", "10.0.0.7%28ro%29"):
        answer = ask(nas, ADMIN, "PUT", f"/export/{name}%2Fof/it/rule/{written}")
        assert (answer.status_code, answer.json()) == (201, "")
    rules = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32", "10.0.0.7(ro)"]
    assert ask(nas, ADMIN, "GET", f"/export/{name}/of%2fit").json() == {
        "name": policy,
        "rules": rules,
    }
    assert ask(nas, ADMIN, "DELETE", f"/export/{policy}/rule/10.1.0.0%2F16").status_code == 204
    assert ask(nas, ADMIN, "GET", f"/export/{policy}").json()["rules"] == rules[1:]


# -- POST makes, clones and rolls back --------------------------------------------------------


def test_from_volume_and_from_snapshot_make_a_clone(nas: Nas, name: str) -> None:
    source = made(nas, name)
    snapshot(nas, name, "snap")
    body = {"from_volume": name, "from_snapshot": "snap"}
    answer = ask(nas, ADMIN, "POST", f"/volumes/{name}_clone", body)
    assert answer.status_code == 201
    clone = answer.json()
    assert clone["name"] == f"{name}_clone"
    assert clone["size_total"] == source["size_total"]
    assert found(nas, f"{name}_clone") == clone
    assert "in use" in message(ask(nas, ADMIN, "POST", f"/volumes/{name}_clone", body), 400)
    assert found(nas, name) == source


@on(
    ("missing", "word"),
    [({"from_volume": "is_not_there"}, "No such volume"), ({"from_snapshot": "other"}, "'other'")],
)
def test_a_clone_of_what_is_not_there_is_a_404(
    nas: Nas, name: str, missing: dict[str, str], word: str
) -> None:
    made(nas, name)
    snapshot(nas, name, "snap")
    body = {"from_volume": name, "from_snapshot": "snap", **missing}
    assert word in message(ask(nas, ADMIN, "POST", f"/volumes/{name}_clone", body), 404)
    message(ask(nas, USER, "GET", f"/volumes/{name}_clone"), 404)


def test_from_snapshot_alone_rolls_back(nas: Nas, name: str) -> None:
    volume = made(nas, name)
    ram = MemoryDriver("ram", MemoryOptions(), nas.installation)
    ram.write(volume["uuid"], b"first")
    snapshot(nas, name, "snap")
    ram.write(volume["uuid"], b"later")
    answer = ask(nas, ADMIN, "POST", f"/volumes/{name}", {"from_snapshot": "snap"})
    assert (answer.status_code, answer.json()["uuid"]) == (201, volume["uuid"])
    assert ram.read(volume["uuid"], 5) == b"first"


def test_rolling_back_to_what_is_not_there_is_a_404(nas: Nas, name: str) -> None:
    body = {"from_snapshot": "snap"}
    message(ask(nas, ADMIN, "POST", f"/volumes/{name}", body), 404)
    made(nas, name)
    assert "'snap'" in message(ask(nas, ADMIN, "POST", f"/volumes/{name}", body), 404)


def test_rolling_back_loses_newer_snapshots_only_where_that_is_configured(
    nas: Nas, name: str
) -> None:
    made(nas, name)
    snapshot(nas, name, "old", "new")
    body = {"from_snapshot": "old"}
    assert "new" in message(ask(nas, ADMIN, "POST", f"/volumes/{name}", body), 400)
    assert snapshots_of(nas, name) == ["old", "new"]
    roll = [("POST", f"/volumes/{name}", body)]
    assert statuses(nas, roll, nas.tokens[ADMIN], discard_newer=True) == [201]
    assert snapshots_of(nas, name) == ["old"]


def test_from_volume_alone_makes_an_empty_volume(nas: Nas, name: str) -> None:
    assert made(nas, name, from_volume="is_not_there")["name"] == name


# -- snapshots --------------------------------------------------------------------------------


def test_a_snapshot_is_made_read_listed_and_deleted(nas: Nas, name: str) -> None:
    made(nas, name)
    snapshot(nas, name, "one", "two")
    listed = ask(nas, USER, "GET", f"/volumes/{name}/snapshots").json()
    assert [one["name"] for one in listed] == ["one", "two"]
    assert all(one.keys() == {"name", "size_kbytes", "creation_time"} for one in listed)
    one = ask(nas, USER, "GET", f"/volumes/{name}/snapshots/one")
    assert (one.status_code, one.json()) == (200, listed[0])
    gone = ask(nas, ADMIN, "DELETE", f"/volumes/{name}/snapshots/one")
    assert (gone.status_code, gone.content) == (204, b"")
    for method, who in (("GET", USER), ("DELETE", ADMIN)):
        assert "'one'" in message(ask(nas, who, method, f"/volumes/{name}/snapshots/one"), 404)
    assert snapshots_of(nas, name) == ["two"]


def test_a_snapshot_that_is_there_is_a_409(nas: Nas, name: str) -> None:
    made(nas, name)
    snapshot(nas, name, "snap")
    before = ask(nas, USER, "GET", f"/volumes/{name}/snapshots").json()
    assert "'snap'" in message(ask(nas, ADMIN, "POST", f"/volumes/{name}/snapshots/snap"), 409)
    assert ask(nas, USER, "GET", f"/volumes/{name}/snapshots").json() == before


@pytest.fixture
def faults(nas: Nas) -> Iterator[Faults]:
    """Makes the backend ``ram`` fail, until the test ends."""
    made = Faults("ram", nas.installation)
    yield made
    made.clear()


def test_the_oldest_snapshot_makes_room_where_that_was_asked_for(
    nas: Nas, faults: Faults, name: str
) -> None:
    made(nas, name)
    snapshot(nas, name, "one", "two", "three")
    path = f"/volumes/{name}/snapshots/four"

    def fill(times: int) -> None:
        faults.clear()
        faults.set(
            kind="fail",
            operation="create_snapshot",
            name_pattern="four",
            code="no_space",
            times=times,
        )

    refused: list[dict[str, bool] | None] = [None, {}, {"purge_old_if_needed": False}]
    for body in refused:
        fill(1)
        answer = ask(nas, ADMIN, "POST", path, body)
        assert (answer.status_code, list(answer.json())) == (507, ["message"])
        assert snapshots_of(nas, name) == ["one", "two", "three"]
    fill(1)
    answer = ask(nas, ADMIN, "POST", path, {"purge_old_if_needed": True})
    assert (answer.status_code, answer.json()) == (201, "")
    assert snapshots_of(nas, name) == ["two", "three", "four"]


def test_what_stays_full_costs_no_more_than_the_oldest_snapshot(
    nas: Nas, faults: Faults, name: str
) -> None:
    made(nas, name)
    snapshot(nas, name, "one", "two", "three")
    faults.set(kind="fail", operation="create_snapshot", name_pattern="four", code="no_space")
    answer = ask(
        nas, ADMIN, "POST", f"/volumes/{name}/snapshots/four", {"purge_old_if_needed": True}
    )
    assert answer.status_code == 507
    assert snapshots_of(nas, name) == ["two", "three"]


def test_a_call_that_takes_too_long_says_so_and_goes_on(
    nas: Nas, faults: Faults, name: str
) -> None:
    faults.set(kind="hang", operation="create", name_pattern=name)

    async def post() -> httpx.Response:
        async with nas.other(wait_seconds=0.2) as client:
            return await client.post(
                f"/ram/volumes/{name}", json={"size_total": SIZE}, headers=nas.headers(ADMIN)
            )

    sentence = message(awaited(post), 503)
    (job,) = [word for word in sentence.split() if word.isdigit()][:1]
    faults.clear()
    with nas.product.client() as client:
        ended = client.get(f"/v1/jobs/{job}/wait", params={"timeout": 60}).json()
    assert ended["state"] == "succeeded"
    assert found(nas, name)["name"] == name


def test_what_the_storage_refuses_is_told(nas: Nas, faults: Faults, name: str) -> None:
    faults.set(kind="fail", operation="create", name_pattern=name, code="no_space")
    answer = ask(nas, ADMIN, "POST", f"/volumes/{name}", {"size_total": SIZE})
    assert (answer.status_code, list(answer.json())) == (507, ["message"])
    message(ask(nas, USER, "GET", f"/volumes/{name}"), 404)


# -- locks ------------------------------------------------------------------------------------


def test_a_lock_is_taken_told_and_ended(nas: Nas, name: str) -> None:
    made(nas, name)
    locks = f"/volumes/{name}/locks"
    assert ask(nas, USER, "GET", locks).json() == []
    for _ in range(2):
        taken = ask(nas, ADMIN, "PUT", f"{locks}/host1.example.com")
        assert (taken.status_code, taken.json()) == (201, "")
    answer = ask(nas, USER, "GET", locks)
    assert (answer.status_code, answer.json()) == (200, [{"host": "host1.example.com"}])
    assert "host1.example.com" in message(ask(nas, ADMIN, "PUT", f"{locks}/host2"), 400)
    for host, left in (("host2", 1), ("host1.example.com", 0), ("host1.example.com", 0)):
        ended = ask(nas, UBER, "DELETE", f"{locks}/{host}")
        assert (ended.status_code, ended.content) == (204, b"")
        assert len(ask(nas, USER, "GET", locks).json()) == left


def test_of_200_clients_that_lock_a_volume_at_once_one_wins(nas: Nas, name: str) -> None:
    made(nas, name)

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=f"{nas.product.url}/v3", headers=nas.headers(ADMIN), timeout=60, limits=limits
        ) as client:
            return await asyncio.gather(
                *(client.put(f"/ram/volumes/{name}/locks/host-{n}-") for n in range(200))
            )

    answers = awaited(all_at_once)
    (winner,) = [n for n, answer in enumerate(answers) if answer.status_code == 201]
    assert answers[winner].json() == ""
    refused = [message(answer, 400) for n, answer in enumerate(answers) if n != winner]
    assert [sentence for sentence in refused if f"host-{winner}- " not in sentence] == []
    held = ask(nas, USER, "GET", f"/volumes/{name}/locks").json()
    assert held == [{"host": f"host-{winner}-"}]


# -- export policies --------------------------------------------------------------------------


def test_a_policy_is_made_read_listed_and_removed(nas: Nas, name: str) -> None:
    rules = [NETWORK, "10.1.0.1", "2001:db8::7(ro)"]
    new = ask(nas, ADMIN, "POST", f"/export/{name}", {"rules": rules, "colour": "red"})
    assert (new.status_code, new.json()) == (201, "")
    answer = ask(nas, ADMIN, "GET", f"/export/{name}")
    assert (answer.status_code, answer.json()) == (200, {"name": name, "rules": rules})
    assert answer.json() in ask(nas, ADMIN, "GET", "/export").json()
    assert name in message(ask(nas, ADMIN, "POST", f"/export/{name}", {"rules": []}), 400)
    assert ask(nas, ADMIN, "GET", f"/export/{name}").json()["rules"] == rules
    gone = ask(nas, ADMIN, "DELETE", f"/export/{name}")
    assert (gone.status_code, gone.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert name in message(ask(nas, ADMIN, method, f"/export/{name}"), 404)
    assert ask(nas, ADMIN, "POST", f"/export/{name}", {"rules": []}).status_code == 201


@on(
    ("body", "field"),
    [
        (None, ""),
        ({}, "rules"),
        ({"rules": None}, "rules"),
        ({"rules": NETWORK}, "rules"),
        ({"rules": [""]}, "rules.0"),
        ({"rules": [NETWORK, 7]}, "rules.1"),
        ({"rules": ["10.0.0.300"]}, "rules.0"),
        ({"rules": [NETWORK, "10.0.0.*"]}, "rules.1"),
    ],
    ids=str,
)
def test_rules_in_the_wrong_form_are_named(nas: Nas, name: str, body: Any, field: str) -> None:
    assert list(field_errors(ask(nas, ADMIN, "POST", f"/export/{name}", body))) == [field]


def test_rules_are_added_and_removed_idempotently(nas: Nas, name: str) -> None:
    ask(nas, ADMIN, "POST", f"/export/{name}", {"rules": ["10.0.0.7"]})
    for method, status, rules in (
        ("PUT", 201, ["10.0.0.7", NETWORK]),
        ("PUT", 201, ["10.0.0.7", NETWORK]),
        ("DELETE", 204, ["10.0.0.7"]),
        ("DELETE", 204, ["10.0.0.7"]),
    ):
        answer = ask(nas, ADMIN, method, f"/export/{name}/rule/{NETWORK}")
        assert (answer.status_code, answer.text) == (status, '""' if status == 201 else "")
        assert ask(nas, ADMIN, "GET", f"/export/{name}").json()["rules"] == rules


def test_a_policy_in_use_is_not_removed(nas: Nas, name: str) -> None:
    ask(nas, ADMIN, "POST", f"/export/{name}", {"rules": []})
    assert made(nas, name, active_policy_name=name)["active_policy_name"] == name
    assert name in message(ask(nas, ADMIN, "DELETE", f"/export/{name}"), 400)
    answer = ask(nas, UBER, "PATCH", f"/volumes/{name}", {"active_policy_name": None})
    assert answer.status_code == 200
    assert found(nas, name)["active_policy_name"] is None
    assert ask(nas, ADMIN, "DELETE", f"/export/{name}").status_code == 204


@on(
    ("method", "path"),
    [("POST", "/export/web"), ("DELETE", "/export/web"), ("PUT", f"/export/web/rule/{NETWORK}")],
)
def test_storage_without_policies_says_so(nas: Nas, method: str, path: str) -> None:
    body: dict[str, list[str]] | None = {"rules": []} if method == "POST" else None
    assert "polic" in message(ask(nas, ADMIN, method, path, body, sub="fast"), 400)
    assert ask(nas, ADMIN, "GET", "/export", sub="fast").json() == []


# -- on files ---------------------------------------------------------------------------------


def test_files_are_served_as_well(nas: Nas, name: str) -> None:
    def on_files(who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        return ask(nas, who, method, f"/volumes/{name}{path}", body, sub="fast")

    assert on_files(ADMIN, "POST", "", {"size_total": SIZE}).status_code == 201
    assert on_files(ADMIN, "POST", "/snapshots/snap").status_code == 201
    assert on_files(ADMIN, "POST", "", {"from_snapshot": "snap"}).status_code == 201
    assert on_files(UBER, "PATCH", "", {"size_total": 2 * SIZE}).status_code == 200
    assert "caching_policy" in message(on_files(UBER, "PATCH", "", {"caching_policy": "a"}), 400)
    assert on_files(USER, "GET", "").json()["size_total"] == 2 * SIZE
    assert on_files(UBER, "DELETE", "").status_code == 204
    assert on_files(USER, "GET", "").status_code == 404


def test_the_interface_describes_itself(nas: Nas) -> None:
    document = nas.client(None).get("/openapi.json").json()
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    names = {"v": "{name}", "s": "{snapshot}", "h": "{host}", "p": "{policy}", "r": "{rule}"}
    routes = {(route.method, "/{sub}" + route.path.format(**names)) for route in ROUTES}
    assert routes <= described
    for path, methods in document["paths"].items():
        for operation in methods.values():
            told = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert told == set(re.findall(r"{(\w+)}", path)), path
            assert {"400", "401", "403", "404"} <= operation["responses"].keys()
            assert "422" not in operation["responses"]
