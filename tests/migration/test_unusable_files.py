"""Files of SQLite that cannot be used: each reason has its sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.domain.errors import InvalidInput, Unavailable
from orchestrator.store import migrate
from tests.rigs.privileges import permissions_count

#: Somebody else.
_OTHER = 64055


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in a directory of its own."""
    made = tmp_path / "data" / "orchestrator.db"
    migrate.upgrade(f"sqlite:///{made}")
    return made


def _another_owner(path: Path) -> None:
    for each in (*path.parent.iterdir(), path.parent):
        os.chown(each, _OTHER, _OTHER)


def _another_owner_readable(path: Path) -> None:
    _another_owner(path)
    path.parent.chmod(0o755)
    path.chmod(0o644)


def _damaged(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def _a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_another_owner, "has a file that cannot be opened"),
        (_another_owner_readable, "takes no writes"),
        (_damaged, "is damaged, or no SQLite database"),
        (_a_directory, "has a file that cannot be opened"),
    ],
)
def test_why_a_file_cannot_be_used(path: Path, spoil: Callable[[Path], None], why: str) -> None:
    spoil(path)
    with permissions_count(), pytest.raises(Unavailable, match=why):
        migrate.upgrade(f"sqlite:///{path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with permissions_count(), pytest.raises(InvalidInput, match="cannot be made: Permission den"):
        migrate.upgrade(f"sqlite:///{tmp_path / 'data' / 'orchestrator.db'}")
    tmp_path.chmod(0o700)
