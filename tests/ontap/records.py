"""How ONTAP's REST interface takes bodies apart, selects records and shows fields of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import ValidationError, fields

#: Parameters of a GET that are no fields to look for.
CONTROLS = frozenset(
    {"fields", "max_records", "return_records", "return_timeout", "order_by", "start.index"}
)


class Refused(Exception):
    """The filer answers with an error."""

    def __init__(self, status: int, code: int, message: str, target: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "code": str(self.code)}
        return {"error": error | ({"target": self.target} if self.target else {})}


def missing(target: str = "uuid") -> Refused:
    """What is asked for by its key is not there."""
    return Refused(404, 4, "entry doesn't exist", target)


def check_body(schema: Any, body: Mapping[str, Any], kind: str, prefix: str = "") -> None:
    """Refuse a body with fields that are not documented for this method, or wrong values.

    ``kind`` is ``postable_fields`` or ``patchable_fields`` of the library's schema.
    """
    allowed = list(getattr(schema, kind))
    for key, value in body.items():
        if key not in allowed and not any(name.startswith(f"{key}.") for name in allowed):
            raise Refused(400, 262179, f'Unexpected argument "{prefix}{key}".', f"{prefix}{key}")
        _check_value(schema, key, value, kind, allowed, prefix)


def _check_value(
    schema: Any, key: str, value: Any, kind: str, allowed: list[str], prefix: str
) -> None:
    field = schema.fields[key]
    inner = field.inner if isinstance(field, fields.List) else field
    values = value if isinstance(field, fields.List) else [value]
    if isinstance(field, fields.List) and not isinstance(value, list):
        raise Refused(400, 262247, f'Invalid value for field "{prefix}{key}"', f"{prefix}{key}")
    for one in values:
        if isinstance(inner, fields.Nested):
            if not isinstance(one, dict):
                raise Refused(400, 262247, f'Invalid value for field "{prefix}{key}"', key)
            named = {name.removeprefix(f"{key}.") for name in allowed if name.startswith(f"{key}.")}
            if named:
                for unknown in set(one) - named:
                    where = f"{prefix}{key}.{unknown}"
                    raise Refused(400, 262179, f'Unexpected argument "{where}".', where)
            else:
                check_body(inner.schema, one, kind, f"{prefix}{key}.")
        else:
            try:
                inner.deserialize(one)
            except ValidationError as error:
                raise Refused(
                    400,
                    262247,
                    f'Invalid value "{one}" for field "{prefix}{key}" ({error})',
                    f"{prefix}{key}",
                ) from None


def selected(
    records: list[dict[str, Any]], query: Mapping[str, str], known: frozenset[str]
) -> list[dict[str, Any]]:
    """The records that match; a parameter that is neither field nor control is refused."""
    wanted = {key: value for key, value in query.items() if key not in CONTROLS}
    for key in wanted:
        if key.partition(".")[0] not in known:
            raise Refused(400, 262197, f'The value "{key}" is invalid for field "fields"', key)
    return [
        record
        for record in records
        if all(_matches(_values(record, key), pattern) for key, pattern in wanted.items())
    ]


def _values(record: Any, key: str) -> Iterator[Any]:
    if isinstance(record, list):
        for one in record:
            yield from _values(one, key)
    elif not key:
        yield record
    elif isinstance(record, dict):
        head, _, rest = key.partition(".")
        if head in record:
            yield from _values(record[head], rest)


def _matches(values: Iterator[Any], pattern: str) -> bool:
    there = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    if pattern.startswith("!"):
        return not any(fnmatch.fnmatchcase(value, pattern[1:]) for value in there)
    # Brackets mean something to fnmatch and nothing to ONTAP; none of ours has any.
    return any(fnmatch.fnmatchcase(value, one) for value in there for one in pattern.split("|"))


def shown(record: Mapping[str, Any], wanted: str | None, always: tuple[str, ...]) -> dict[str, Any]:
    """The record with the fields asked for, and its keys. What begins with ``_`` is never."""
    if wanted == "*":
        return {key: value for key, value in record.items() if not key.startswith("_")}
    result: dict[str, Any] = {}
    for name in (*always, *(wanted.split(",") if wanted else ())):
        _copy(record, result, name.split("."))
    return result


def _copy(record: Any, result: dict[str, Any], path: list[str]) -> None:
    head, *rest = path
    if not isinstance(record, Mapping) or head not in record:
        return
    value = record[head]
    if not rest:
        result[head] = value
    elif isinstance(value, list):
        into = result.setdefault(head, [{} for _ in value])
        for one, target in zip(value, into, strict=True):
            _copy(one, target, rest)
    else:
        _copy(value, result.setdefault(head, {}), rest)
