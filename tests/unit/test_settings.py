"""Settings that do not go together."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import (
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    Settings,
    load_settings,
)


def _settings(directory: Path, **transfer: list[str]) -> Settings:
    return load_settings(
        data=directory / "data",
        backends={"fast": {"driver": "file", "path": str(directory / "srv" / "volumes")}},
        transfer=transfer,
    )


@pytest.mark.parametrize("setting", ["import_from", "export_to"])
@pytest.mark.parametrize("path", ["srv", "srv/volumes", "srv/volumes/volumes", "link"])
def test_no_image_is_read_or_written_where_a_backend_has_its_volumes(
    tmp_path: Path, setting: str, path: str
) -> None:
    (tmp_path / "srv").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "srv")
    with pytest.raises(InvalidInput, match="backend fast"):
        _settings(tmp_path, **{setting: [str(tmp_path / path)]})
    apart = str(tmp_path / "srv" / "images")
    places = _settings(tmp_path, **{setting: [apart]}).transfer.places
    assert apart in map(str, (*places.import_from, *places.export_to))


@pytest.mark.parametrize("setting", ["import_from", "export_to"])
@pytest.mark.parametrize("where", ["above", "it", "below", "mounted"])
@pytest.mark.parametrize(
    "what",
    [
        "the data directory",
        "the configuration file",
        "the file of a secret",
        "the database",
        "the hooks",
        "the archive",
        "the directory of exported events",
        "the certificate's key",
        "the directory of backend fast",
        "a directory of programs of backend other",
    ],
)
def test_no_image_is_read_or_written_where_anything_of_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, where: str, what: str
) -> None:
    own, apart = tmp_path / "own" / "deep", tmp_path / "apart"
    own.mkdir(parents=True)
    apart.mkdir()
    is_file = what in ("the configuration file", "the file of a secret", "the database")
    is_file = is_file or what == "the certificate's key"
    (own / "file").write_text("")
    path = str(own / "file" if is_file else own)

    def given(of: str, usually: object = None) -> object:
        return path if what == of else usually

    def read(images: Path) -> Settings:
        config = str(given("the configuration file", tmp_path / "o.toml"))
        Path(config).write_text("")
        monkeypatch.setenv("ORCHESTRATOR_CONFIG", config)
        monkeypatch.setenv("PASSWORD", "secret")
        secret = {"env": "PASSWORD"}
        return load_settings(
            data=given("the data directory", tmp_path / "data"),
            database={
                "url": f"sqlite:///{path}" if what == "the database" else None,
                "password": {"file": path} if what == "the file of a secret" else secret,
            },
            hooks={"path": given("the hooks")},
            retention={"archive": given("the archive")},
            audit={"export_to": given("the directory of exported events")},
            api={
                "tls_key": given("the certificate's key"),
                "tls_cert": given("the certificate's key"),
            },
            backends={
                "fast": {
                    "driver": "file",
                    "path": given("the directory of backend fast", tmp_path / "volumes"),
                },
                "other": {
                    "driver": "extstorage",
                    "provider": "nfs",
                    "search_path": [
                        given("a directory of programs of backend other", tmp_path / "none")
                    ],
                },
            },
            transfer={setting: [str(images)]},
        )

    # As a bind mount of it shows, from which no name leads back.
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    place = {"above": own.parent, "it": own, "below": own / "images", "mounted": mounted}[where]
    if where == "below" and is_file:
        pytest.skip("nothing is below a file")
    with ExitStack() as stack:
        if where == "mounted":
            if os.geteuid():
                pytest.skip("only root mounts")
            subprocess.run(["mount", "--bind", own.parent, mounted], check=True)
            stack.callback(lambda: subprocess.run(["umount", mounted], check=True))
        with pytest.raises(InvalidInput, match=f"{what}, .* lie one in the other"):
            read(place)
        read(apart)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("postgresql+psycopg://u@db/o", "postgresql+psycopg://u:p%40%2Fw@db/o"),
        (
            "postgresql://u@a:1,b:2/o?sslmode=require",
            "postgresql://u:p%40%2Fw@a:1,b:2/o?sslmode=require",
        ),
        ("postgresql://u@/o?host=/run/pg", "postgresql://u:p%40%2Fw@/o?host=/run/pg"),
        ("postgresql://u:own@db/o", "postgresql://u:own@db/o"),
        ("redis://r:6379/0", "redis://:p%40%2Fw@r:6379/0"),
        ("redis://u@r:6379/0", "redis://u:p%40%2Fw@r:6379/0"),
        ("sentinel://a:1;sentinel://b:2/0", "sentinel://:p%40%2Fw@a:1;sentinel://b:2/0"),
    ],
)
def test_a_password_that_is_given_apart_is_put_into_the_url(
    tmp_path: Path, url: str, whole: str
) -> None:
    file = tmp_path / "password"
    file.write_text("p@/w\n")
    kind = DatabaseSettings if url.startswith("postgresql") else BrokerSettings
    read = kind.model_validate({"url": url, "password": {"file": str(file)}})
    assert read.url == whole
    assert kind.model_validate({"url": whole, "password": "other"}).url == whole
    assert "p%40" not in repr(read)


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"])
@pytest.mark.parametrize(
    ("trusted", "believed"),
    [
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("10.0.0.0/24", True),
        ("::ffff:10.0.0.0/120", True),
        ("10.0.0.2", False),
        ("::ffff:10.0.1.0/120", False),
        ("fd00::1", False),
    ],
)
def test_a_proxy_is_believed_in_whichever_family_its_address_is_written(
    peer: str, trusted: str, believed: bool
) -> None:
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append((scope["scheme"], scope["client"][0]))

    settings = ApiSettings(trusted_proxies=[trusted])
    forwarded = [(b"x-forwarded-proto", b"https")]
    # Two proxies one behind the other: the second one names the first.
    forwarded += [(b"x-forwarded-for", f"192.0.2.7, {peer}".encode())]
    scope = {"type": "http", "client": (peer, 5), "scheme": "http", "headers": forwarded}
    server = ProxyHeadersMiddleware(app, settings.believed_proxies)
    asyncio.run(server(scope, None, None))  # type: ignore[arg-type]
    assert seen == [("https", "192.0.2.7") if believed else ("http", peer)]
