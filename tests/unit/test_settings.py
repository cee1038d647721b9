"""Settings that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import BrokerSettings, DatabaseSettings, Settings, load_settings


def _settings(directory: Path, **transfer: list[str]) -> Settings:
    return load_settings(
        data=directory,
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
