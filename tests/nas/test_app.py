"""An application of one's own: storages below endpoints of a `NasApp`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from orchestrator.nas import DummyStorage, NasApp, StorageBackend
from tests.acceptance.conftest import free_port
from tests.nas.conftest import SIZE, awaited

on = pytest.mark.parametrize

#: Each with one role and no other; `nobody` has none.
TOKENS: dict[str, tuple[str, list[str]]] = {
    "secret-u": ("user", ["USER"]),
    "secret-a": ("admin", ["ADMIN"]),
    "secret-x": ("uber", ["UBER_ADMIN"]),
    "secret-n": ("nobody", []),
    "secret-ü": ("ünï", ["ADMIN"]),
}


@pytest.fixture(scope="module")
def dummy() -> Iterator[DummyStorage]:
    made = DummyStorage()
    yield made
    made.close()


def serving(storage: StorageBackend, endpoint: str = "netapp", **options: Any) -> NasApp:
    app = NasApp(**{"tokens": TOKENS, "anonymous": (), **options})
    storage.init_app(app=app, endpoint=endpoint)
    return app


def bearing(secret: str) -> dict[bytes, bytes]:
    """As it is: a token may be any text."""
    return {b"Authorization": f"Bearer {secret}".encode()}


@asynccontextmanager
async def client_of(app: Any, secret: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://here",
        headers=bearing(secret) if secret else {},
    ) as client:
        yield client


def asked(app: Any, secret: str | None, method: str, path: str, body: Any = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(app, secret) as client:
            return await client.request(method, path, json=body)

    answer: httpx.Response = awaited(ask)
    return answer


def test_a_storage_is_served_below_its_endpoint(dummy: DummyStorage, name: str) -> None:
    volume = dummy.create_volume(volume_name=name, size_total=SIZE)
    app = serving(dummy, "netapp")
    assert asked(app, "secret-u", "GET", f"/netapp/volumes/{name}").json() == volume
    other = asked(app, "secret-u", "GET", f"/other/volumes/{name}")
    assert (other.status_code, list(other.json())) == (404, ["message"])
    assert "other" in other.json()["message"]


def test_what_is_made_over_http_is_there_in_python(dummy: DummyStorage, name: str) -> None:
    app = serving(dummy)
    calls: list[tuple[str, str, str, Any, int]] = [
        ("secret-a", "POST", f"/volumes/{name}", {"size_total": SIZE}, 201),
        ("secret-a", "POST", f"/volumes/{name}/snapshots/snap", None, 201),
        ("secret-a", "PUT", f"/volumes/{name}/locks/host1", None, 201),
        ("secret-a", "POST", f"/export/{name}/a", {"rules": ["10.0.0.7"]}, 201),
        ("secret-a", "PUT", f"/export/{name}%2Fa/rule/10.0.0.0/24", None, 201),
        ("secret-x", "PATCH", f"/volumes/{name}", {"active_policy_name": f"{name}/a"}, 400),
        ("secret-x", "DELETE", f"/volumes/{name}/locks/host1", None, 204),
        ("secret-x", "PATCH", f"/volumes/{name}", {"active_policy_name": f"{name}/a"}, 200),
    ]
    for secret, method, path, body, status in calls:
        if status == 400:
            assert dummy.locks(volume_name=name) == "host1"
        answer = asked(app, secret, method, f"/netapp{path}", body)
        assert answer.status_code == status, answer.text
    assert dummy.locks(volume_name=name) is None
    assert dummy.get_volume(volume_name=name)["active_policy_name"] == f"{name}/a"
    assert dummy.get_policy(policy_name=f"{name}/a") == ["10.0.0.7", "10.0.0.0/24"]
    assert len(dummy.get_snapshots(volume_name=name)) == 1


def test_storages_below_two_endpoints_are_two(dummy: DummyStorage, name: str) -> None:
    other = DummyStorage()
    try:
        app = serving(dummy, "one")
        other.init_app(app=app, endpoint="two")
        other.create_volume(volume_name=name, size_total=SIZE)
        assert asked(app, None, "GET", "/conf/subsystems").json() == ["one", "two"]
        assert asked(app, "secret-u", "GET", f"/one/volumes/{name}").status_code == 404
        assert asked(app, "secret-u", "GET", f"/two/volumes/{name}").status_code == 200
    finally:
        other.close()


def test_it_can_be_mounted_in_another_application(dummy: DummyStorage, name: str) -> None:
    dummy.create_volume(volume_name=f"{name}/of/it", size_total=SIZE)
    outer = Starlette(routes=[Mount("/v3", app=serving(dummy))])
    path = f"/v3/netapp/volumes/{name}/of/it"
    assert asked(outer, "secret-u", "GET", path).json()["name"] == f"{name}/of/it"
    assert asked(outer, None, "GET", "/v3/conf/subsystems").json() == ["netapp"]
    assert asked(outer, None, "GET", path).status_code == 401


def test_encoded_slashes_are_part_of_names(dummy: DummyStorage, name: str) -> None:
    dummy.create_volume(volume_name=f"{name}/locks", size_total=SIZE)
    app = serving(dummy)
    answer = asked(app, "secret-u", "GET", f"/netapp/volumes/{name}%2Flocks")
    assert answer.status_code == 200, answer.text
    assert answer.json()["name"] == f"{name}/locks"


def test_names_are_decoded_once(dummy: DummyStorage, name: str) -> None:
    dummy.create_volume(volume_name=name, size_total=SIZE)
    twice = "".join(f"%25{ord(letter):x}" for letter in name)
    answer = asked(serving(dummy), "secret-u", "GET", f"/netapp/volumes/{twice}")
    assert answer.status_code == 400, "a name has no percent signs"


@on(
    ("method", "path", "body", "may"),
    [
        ("GET", "/volumes", None, "secret-u"),
        ("GET", "/export", None, "secret-a"),
        ("POST", "/volumes/{}/snapshots/snap", {}, "secret-a"),
        ("PATCH", "/volumes/{}", {"size_total": SIZE}, "secret-x"),
        ("DELETE", "/volumes/{}", None, "secret-x"),
    ],
)
def test_each_call_needs_its_own_role_and_no_other(
    dummy: DummyStorage, name: str, method: str, path: str, body: Any, may: str
) -> None:
    app = serving(dummy)
    for secret in (None, *(secret for secret in TOKENS if secret.isascii())):
        answer = asked(app, secret, method, f"/netapp{path.format(name)}", body)
        wrong = 401 if secret is None else 403
        assert answer.status_code in ((200, 404) if secret == may else (wrong,)), secret
        assert secret == may or list(answer.json()) == ["message"]


@on("secret", ["wrong", "secret-", "secret-ux", "sécret"])
def test_a_wrong_token_is_refused_everywhere(dummy: DummyStorage, name: str, secret: str) -> None:
    app = serving(dummy, anonymous=("USER", "ADMIN", "UBER_ADMIN"))

    for path in ("/netapp/volumes", f"/netapp/volumes/{name}/snapshots", "/conf/me"):
        answer = asked(app, secret, "GET", path)
        assert (answer.status_code, list(answer.json())) == (401, ["message"])


def test_everybody_is_told_who_they_are(dummy: DummyStorage) -> None:
    app = serving(dummy, anonymous=("USER",))
    assert asked(app, None, "GET", "/conf/me").json() == {"name": None, "roles": ["USER"]}
    assert asked(app, "secret-x", "GET", "/conf/me").json()["name"] == "uber"
    assert asked(app, "secret-x", "GET", "/conf/me/roles").json() == ["UBER_ADMIN", "USER"]


def test_anonymous_callers_have_the_roles_they_are_given(dummy: DummyStorage, name: str) -> None:
    def may(app: NasApp) -> list[int]:
        return [
            asked(app, None, method, f"/netapp{path}", body).status_code
            for method, path, body in (
                ("GET", "/volumes", None),
                ("GET", "/export", None),
                ("PATCH", f"/volumes/{name}", {"size_total": SIZE}),
                ("GET", f"/volumes/{name}/snapshots", None),
            )
        ]

    plain = NasApp()
    dummy.init_app(app=plain, endpoint="netapp")
    assert may(plain) == [401, 401, 401, 401], "by default they may nothing"
    assert may(serving(dummy, anonymous=("USER",))) == [200, 401, 401, 404]
    assert may(serving(dummy, anonymous=("ADMIN", "UBER_ADMIN"))) == [401, 200, 404, 401]


def test_an_application_of_flasks_has_it_among_its_extensions(dummy: DummyStorage) -> None:
    class App:
        def __init__(self) -> None:
            self.extensions: dict[str, Any] = {}

    app = App()
    dummy.init_app(app=app, endpoint="netapp")
    dummy.init_app(app=app, endpoint="netapp")
    assert app.extensions == {"netapp": dummy}
    other = DummyStorage()
    try:
        with pytest.raises(ValueError, match="called 'netapp' already"):
            other.init_app(app=app, endpoint="netapp")
    finally:
        other.close()


@on("secret, given", [("wrong", 401), (None, 401), ("secret-a", 201)])
def test_who_asks_is_decided_before_the_body_is_read(
    dummy: DummyStorage, name: str, secret: str | None, given: int
) -> None:
    read: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        read.append("body")
        yield b'{"size_total": %d}' % SIZE

    async def ask() -> httpx.Response:
        async with client_of(serving(dummy), secret) as client:
            kind = {"Content-Type": "application/json"}
            return await client.post(f"/netapp/volumes/{name}", content=body(), headers=kind)

    answer = awaited(ask)
    assert (answer.status_code, read) == (given, ["body"] if given != 401 else [])


@on(
    "options",
    [{"anonymous": ("OBSERVER",)}, {"tokens": {"secret": ("alice", ["OBSERVER"])}}],
    ids=lambda options: str(*options),
)
def test_roles_that_there_are_not_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="OBSERVER"):
        NasApp(**options)


def test_a_storage_that_is_away_is_told(name: str) -> None:
    storage = StorageBackend(backend="ram", url=f"http://127.0.0.1:{free_port()}", token="none")
    answer = asked(serving(storage), "secret-u", "GET", f"/netapp/volumes/{name}")
    assert (answer.status_code, list(answer.json())) == (503, ["message"])


class Broken(StorageBackend):
    """One whose author has forgotten the gateway."""

    def __init__(self) -> None:
        self._begin(None, discard_newer=False)  # type: ignore[arg-type]


def test_what_nobody_foresaw_is_told_in_the_same_form_and_nothing_of_the_inside() -> None:
    answer = asked(serving(Broken()), "secret-u", "GET", "/netapp/volumes")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/json", answer.text
    assert list(answer.json()) == ["message"]
    assert "NoneType" not in answer.text


def test_snapshots_are_open_to_anybody_where_that_was_said(dummy: DummyStorage, name: str) -> None:
    dummy.create_volume(volume_name=name, size_total=SIZE)
    path = f"/netapp/volumes/{name}/snapshots/snap"
    assert asked(serving(dummy), None, "POST", path).status_code == 401
    assert asked(serving(dummy, open_snapshots=True), None, "POST", path).status_code == 201


def test_newer_snapshots_are_discarded_where_that_was_said(dummy: DummyStorage, name: str) -> None:
    dummy.create_volume(volume_name=name, size_total=SIZE)
    for snapshot in ("old", "new"):
        dummy.create_snapshot(volume_name=name, snapshot_name=snapshot)
    call = ("secret-a", "POST", f"/netapp/volumes/{name}", {"from_snapshot": "old"})
    assert asked(serving(dummy), *call).status_code == 400
    assert asked(serving(dummy, discard_newer=True), *call).status_code == 201
    assert [one["name"] for one in dummy.get_snapshots(volume_name=name)] == ["old"]


def test_calls_at_once_are_all_served(dummy: DummyStorage, name: str) -> None:
    app = serving(dummy)

    async def make() -> list[int]:
        import asyncio

        async with client_of(app, "secret-a") as client:
            answers = await asyncio.gather(
                *(
                    client.post(f"/netapp/volumes/{name}_{n}", json={"size_total": SIZE})
                    for n in range(20)
                )
            )
        return [answer.status_code for answer in answers]

    assert awaited(make) == [201] * 20
    made = {volume["name"] for volume in dummy.volumes}
    assert {f"{name}_{n}" for n in range(20)} <= made
