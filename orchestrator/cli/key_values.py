"""Reads ``key=value`` words by the types that an action's declaration gives its parameters."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.action import written_names
from orchestrator.domain.errors import InvalidInput, MalformedBody
from orchestrator.domain.exact import read_json

_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


def read_words(action: str, words: Iterable[str]) -> dict[str, Any]:
    """The parameters that ``key=value`` words give.

    ``metadata.owner=billing`` sets one entry of a parameter that has entries. What the
    action does not declare is passed on as text, for the service to say so.
    Raises `InvalidInput` naming the word.
    """
    params: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{word!r} is no parameter: write KEY=VALUE, such as size=10G")
        add_param(params, action, key, value)
    return params


def add_param(params: dict[str, Any], action: str, key: str, value: str) -> None:
    """Add one parameter, converted. Raises `InvalidInput` if it cannot be, or is there already."""
    name, dot, entry = key.partition(".")
    field = f"params.{key}"
    if dot:
        entries = params.setdefault(name, {})
        if not entry or not isinstance(entries, dict):
            raise InvalidInput(f"{key}: give {name} either whole or entry by entry", field=field)
        if entry in entries:
            raise InvalidInput(f"{key} is given twice", field=field)
        entries[entry] = value
    elif name in params:
        raise InvalidInput(f"{key} is given twice, or both whole and by entry", field=field)
    else:
        try:
            params[name] = convert(action, name, value)
        except ValueError as error:
            raise InvalidInput(f"{key}: {error}", field=field) from None


def parameter(action: str, name: str) -> FieldInfo | None:
    """The declaration of a parameter, by its name or another name it may be written with."""
    declared = ACTIONS.get(action)
    if declared is None:
        return None
    for own_name, info in declared.params.model_fields.items():
        if name in written_names(own_name, info):
            return info
    return None


def convert(action: str, name: str, value: str) -> Any:
    """``value`` as the type that ``name`` is declared with. Raises `ValueError` with the reason."""
    info = parameter(action, name)
    if info is None:
        return value
    kind, reads_text = _kind_of(info.annotation, info.metadata)
    if reads_text:
        return value  # a size: whoever declared it reads the text
    if kind is bool:
        if value.lower() not in _BOOLEANS:
            raise ValueError(f"write true or false, not {value!r}")
        return _BOOLEANS[value.lower()]
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{value!r} is no number") from None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = dict
    if kind is list and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    if kind in (dict, list):
        return _from_json(value, kind)
    return value


def _from_json(value: str, kind: type) -> Any:
    example = '{"owner": "billing"}' if kind is dict else '["one", "two"]'
    try:
        read = read_json(value)
    except MalformedBody as problem:
        if "path" in problem.facts:
            raise ValueError(problem.detail) from None
        read = None
    if not isinstance(read, kind):
        raise ValueError(f"{value!r} is no JSON such as {example}")
    return read


def _kind_of(annotation: Any, metadata: Iterable[Any]) -> tuple[Any, bool]:
    """The plain type below Optional and Annotated, and whether it reads text by itself."""
    reads_text = any(isinstance(part, BeforeValidator) for part in metadata)
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *further = get_args(annotation)
        return _merged(_kind_of(inner, further), reads_text)
    if origin in (Union, types.UnionType):
        members = [part for part in get_args(annotation) if part is not type(None)]
        return _merged(_kind_of(members[0], ()), reads_text) if len(members) == 1 else (str, True)
    return origin or annotation, reads_text


def _merged(found: tuple[Any, bool], reads_text: bool) -> tuple[Any, bool]:
    return found[0], found[1] or reads_text
