"""Databases of cells, made, copied and put back: SQLite's files, or a PostgreSQL server's."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

from sqlalchemy import make_url

from tests.rigs.postgres import Postgres


class Databases(Protocol):
    """Each is named by its URL. Nobody is connected to one that is copied or replaced."""

    def create(self, directory: Path) -> str:
        """One with nothing but the schema; in ``directory`` if it is a file."""

    def copy(self, url: str, directory: Path) -> str:
        """Another one that is as this one is now."""

    def replace(self, url: str, other: str) -> None:
        """Put ``other`` in its place; it is as that one was, under its own URL."""

    def drop(self, url: str) -> None:
        """Leave nothing of it."""


class Files:
    """SQLite's. ``template`` has the schema."""

    def __init__(self, template: Path) -> None:
        self._template = template

    def create(self, directory: Path) -> str:
        shutil.copy(self._template, directory / "orchestrator.db")
        return f"sqlite:///{directory / 'orchestrator.db'}"

    def copy(self, url: str, directory: Path) -> str:
        copy = directory / _file(url).name
        with closing(sqlite3.connect(_file(url))) as one, closing(sqlite3.connect(copy)) as other:
            one.backup(other)
        return f"sqlite:///{copy}"

    def replace(self, url: str, other: str) -> None:
        self.drop(url)
        self.copy(other, _file(url).parent)

    def drop(self, url: str) -> None:
        for path in _file(url).parent.glob(f"{_file(url).name}*"):
            path.unlink()


class Served:
    """A server's. ``template`` is the name of the one with the schema."""

    def __init__(self, server: Postgres, template: str) -> None:
        self._server, self._template = server, template
        self._numbers = itertools.count(1)

    def create(self, directory: Path) -> str:
        return self._made(self._template)

    def copy(self, url: str, directory: Path) -> str:
        return self._made(_name(url))

    def replace(self, url: str, other: str) -> None:
        self.drop(url)
        self._server.create_database(_name(url), template=_name(other))

    def drop(self, url: str) -> None:
        self._server.drop_database(_name(url))

    def _made(self, template: str) -> str:
        name = f"data_{next(self._numbers)}"
        self._server.create_database(name, template=template)
        return self._server.url(name)


def _file(url: str) -> Path:
    return Path(make_url(url).database or "")


def _name(url: str) -> str:
    return make_url(url).database or ""
