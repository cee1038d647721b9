"""What is wrong with a configuration: all of it at once, each with where it was written."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.nearest import did_you_mean

PREFIX = "ORCHESTRATOR_"
DELIMITER = "__"

Location = tuple[str, ...]


def read_toml(path: Path, named_by: str) -> str:
    """The text of a TOML file. Raises `InvalidInput` saying who named it and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
    except OSError as error:
        raise InvalidInput(
            f"{named_by} names {path}, which cannot be read: {error.strerror}", field="config"
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8: save it as UTF-8", field="config") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is no TOML: {error}", field="config") from None
    return text


def problem_from(
    error: ValidationError, model: type[BaseModel], file: Path | None, text: str
) -> InvalidInput:
    """All mistakes as one problem: the first is its sentence, each is under ``errors``."""
    lines = dict(reversed(list(_lines(text))))

    def place(one: ErrorDetails) -> tuple[bool, int]:
        # What is missing may stand there under a mistyped name: that is told first.
        return one["type"] == "missing", _line(_location(one), lines)

    found = sorted(error.errors(include_input=False, include_url=False), key=place)
    told = [_told(one, model, file, lines) for one in found]
    facts = {"errors": [{"field": field, "detail": detail} for field, detail in told]}
    return InvalidInput(told[0][1], field=told[0][0], **(facts if len(told) > 1 else {}))


def unknown_variables(model: type[BaseModel], environment: Mapping[str, str]) -> list[str]:
    """Sentences about variables that look like settings and are none.

    Only those with two underscores: others may be somebody else's, such as those that Kubernetes
    gives to a service of this name.
    """
    told = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and DELIMITER in name:
            section = name.removeprefix(PREFIX).partition(DELIMITER)[0].lower()
            if section not in model.model_fields:
                meant = did_you_mean(section, model.model_fields)
                told.append(f"{name}: there is no section {section!r}{meant}")
    return told


def _told(
    error: ErrorDetails, model: type[BaseModel], file: Path | None, lines: Mapping[Location, int]
) -> tuple[str, str]:
    """The setting, and the sentence that says where it was given and what is wrong with it."""
    location = _location(error)
    if error["type"] == "extra_forbidden":
        what = f"there is no setting {location[-1]!r}" + did_you_mean(
            location[-1], _known(model, location[:-1])
        )
        shown = location[:-1]
    elif error["type"] == "missing":
        what, shown = f"{location[-1]!r} is missing", location[:-1]
    else:
        what, shown = error["msg"].removeprefix("Value error, "), location
    where = _where(location, file, lines)
    return ".".join(location) or "config", ": ".join(
        part for part in (where, ".".join(shown), what) if part
    )


def _location(error: ErrorDetails) -> Location:
    return tuple(str(part) for part in error["loc"] if part != "[key]")


def _where(location: Location, file: Path | None, lines: Mapping[Location, int]) -> str:
    """The variable or the line that gave a setting, or what is around it."""
    for length in range(len(location), 0, -1):
        variable = PREFIX + DELIMITER.join(location[:length]).upper()
        if variable in os.environ:
            return variable
        if location[:length] in lines:
            return f"{file}, line {lines[location[:length]]}"
    return ""


def _line(location: Location, lines: Mapping[Location, int]) -> int:
    around = (location[:length] for length in range(len(location), 0, -1))
    return next((lines[part] for part in around if part in lines), 0)


def _known(model: type[BaseModel], location: Location) -> Sequence[str]:
    """The settings there are at a place."""
    here: Any = model
    for part in location:
        field = here.model_fields.get(part) if _is_model(here) else None
        if field is None:
            return ()
        here = field.annotation
    return list(here.model_fields) if _is_model(here) else ()


def _is_model(kind: Any) -> bool:
    return not get_args(kind) and isinstance(kind, type) and issubclass(kind, BaseModel)


def _lines(text: str) -> Iterator[tuple[Location, int]]:
    """Each setting in a TOML text, and the line on which it is written."""
    table: Location = ()
    pending: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        pending.append(line)
        try:
            read = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue  # a value of several lines goes on
        begun, header = number - len(pending) + 1, pending[0].lstrip().startswith("[")
        pending = []
        if header:
            table = next(reversed(list(_paths(read))), ())
            yield table, begun
        else:
            yield from ((table + path, begun) for path in _paths(read))


def _paths(read: Any) -> Iterator[Location]:
    """The path of each table and value, outer ones first."""
    if isinstance(read, list):
        read = read[-1] if read else None
    if isinstance(read, dict):
        for name, value in read.items():
            yield (name,)
            yield from ((name, *path) for path in _paths(value))
