"""What the contract's methods return is checked; and what helps those who implement it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, ParamSpec

import pydantic

from orchestrator.nas.fields import LockSchema, PolicySchema, SnapshotSchema, VolumeSchema

P = ParamSpec("P")

#: The schemas by the names under which `normalised_with` knows them.
SCHEMAS: dict[str, type[pydantic.BaseModel]] = {
    "volume": VolumeSchema,
    "snapshot": SnapshotSchema,
    "policy": PolicySchema,
    "lock": LockSchema,
}


class ValidationError(Exception):
    """A return value does not have the form that it must have."""


def normalised(schema_name: str, value: Any, *, allow_unknown: bool = False) -> dict[str, Any]:
    """The value in the schema's form, absent fields as None. Raises `ValidationError`."""
    schema = SCHEMAS[schema_name]
    known, unknown = dict(value), {}
    if allow_unknown:
        unknown = {name: known.pop(name) for name in list(known) if name not in schema.model_fields}
    try:
        return {**schema.model_validate(known).model_dump(), **unknown}
    except pydantic.ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        raise ValidationError(f"this is no {schema_name}: {wrong}") from error


def normalised_with(
    schema_name: str, allow_unknown: bool = False, as_list: bool = False
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Have a function's return value (with ``as_list``: each entry of it) checked by a schema.

    ``schema_name`` is one of ``volume``, ``snapshot``, ``policy`` and ``lock``.
    """

    def decorate(function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Any:
            form = functools.partial(normalised, schema_name, allow_unknown=allow_unknown)
            returned = function(*args, **kwargs)
            if as_list:
                return [form(one) for one in returned]
            return form(returned)

        return checked

    return decorate


@contextmanager
def annotate_exception(exception: type[BaseException], annotation: str) -> Iterator[None]:
    """Say of exceptions of this kind what they mean here: ``annotation``."""
    try:
        yield
    except exception as error:
        raise exception(annotation) from error


def patch_and_diff(
    previous: MutableMapping[str, Any], new: Mapping[str, Any]
) -> tuple[list[str], MutableMapping[str, Any]]:
    """Put the values of ``new`` into ``previous``: the keys whose values changed, and it."""
    changed = [key for key, value in new.items() if key in previous and previous[key] != value]
    previous.update({key: value for key, value in new.items() if key in previous})
    return changed, previous
