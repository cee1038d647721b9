"""Providers: directories of executables, found along a search path as Ganeti finds them.

Source of the rules: Ganeti's "ExtStorage" interface, man page ganeti-extstorage-interface(7),
and what its code does where that says less.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.names import PROVIDER
from orchestrator.trust import why_untrusted

REQUIRED = ("create", "attach", "detach", "remove", "grow", "setinfo", "verify")
OPTIONAL = ("snapshot", "open", "close")
PARAMETERS = "parameters.list"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A directory that was looked at; usable if it has no faults."""

    name: str
    directory: Path
    #: Why it cannot be used, a sentence each.
    faults: tuple[str, ...]
    #: Its parameters with their help, in the order of its list.
    parameters: dict[str, str]
    #: The scripts there are, optional ones included.
    scripts: frozenset[str]

    @property
    def usable(self) -> bool:
        """Whether Ganeti would use it, and nobody but root and we could exchange it."""
        return not self.faults


def find(name: str, search_path: Iterable[Path]) -> Provider | None:
    """The first directory of this name along the search path; None if there is none."""
    if not PROVIDER.fullmatch(name):
        return None
    there = (directory / name for directory in search_path)
    first = next((entry for entry in there if entry.is_dir()), None)
    return None if first is None else look_at(name, first)


def diagnose(search_path: Sequence[Path]) -> list[Provider]:
    """Every visible entry of every directory of the search path, also those another one hides."""
    return [
        look_at(entry.name, entry)
        for directory in search_path
        if directory.is_dir()
        for entry in sorted(directory.iterdir())
        if not entry.name.startswith(".")
    ]


def look_at(name: str, directory: Path) -> Provider:
    """What a directory that should be a provider has, and what it lacks."""
    faults: list[str] = []
    scripts: set[str] = set()
    parameters: dict[str, str] = {}
    if not PROVIDER.fullmatch(name):
        faults.append(f"{name!r} is no name of a provider: letters, digits, '_' and '-' only")
    elif not directory.is_dir():
        what = "a link that leads nowhere" if not directory.exists() else "no directory"
        faults.append(f"{directory} is {what}")
    else:
        if (why := why_untrusted(directory)) is not None:
            faults.append(why)
        for script in (*REQUIRED, *OPTIONAL):
            fault = _fault(directory / script, executable=True)
            if fault is None:
                scripts.add(script)
            elif script in REQUIRED or (directory / script).exists():
                faults.append(fault)
        listed = directory / PARAMETERS
        if (fault := _fault(listed, executable=False)) is not None:
            faults.append(fault)
        else:
            try:
                parameters = parse_parameters(listed.read_text())
            except (OSError, UnicodeDecodeError) as error:
                faults.append(f"{listed} cannot be read as text: {error}")
    return Provider(
        name=name,
        directory=directory,
        faults=tuple(dict.fromkeys(faults)),
        parameters=parameters,
        scripts=frozenset(scripts),
    )


def parse_parameters(text: str) -> dict[str, str]:
    """Name and help of each line; blank lines are passed over, and help may be missing."""
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        name, *told = line.split(maxsplit=1)
        found[name] = told[0].strip() if told else ""
    return found


def _fault(path: Path, *, executable: bool) -> str | None:
    """What is wrong with a file of a provider, if anything."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"{path} is a link that leads nowhere"
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(mode):
        return f"{path} is not a regular file"
    if executable and not mode & stat.S_IXUSR:
        return f"{path} is not executable by its owner: chmod u+x {path}"
    return why_untrusted(path)
