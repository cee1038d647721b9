"""Settings that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.settings import Settings, load_settings


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
