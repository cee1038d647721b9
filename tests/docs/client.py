"""The client's methods for resources, made from their declarations and those of the actions.

``make docs`` writes them; `tests.docs.test_docs` fails where they are not current.
"""

from __future__ import annotations

import keyword
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.actions.registry import ACTIONS, collection
from orchestrator.actions.requests import JobOptions
from orchestrator.contract.answers import Answer
from orchestrator.contract.inventory import Backend, Snapshot, Volume
from orchestrator.domain import errors
from orchestrator.domain.action import Action, Need, written_names
from orchestrator.domain.targets import KINDS
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.resource import Listed

MODULE = Path(__file__).parents[2] / "orchestrator" / "client" / "actions.py"

_HEAD = '''\
"""What there is of each kind of resource, and what can be done to it, as methods of the client.

This module is made from the declarations by `make docs`; a test keeps it current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import Kind
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.rooms import C, Room
from orchestrator.client.steps import Steps, path_to

if TYPE_CHECKING:
    from orchestrator.contract.jobs import Job
'''

_NAMES = {"integer": "int", "string": "str", "boolean": "bool", "number": "float", "null": "None"}
#: What is read by its name, by kind.
_ANSWERS: dict[str, type[Answer]] = {
    "backend": Backend,
    "volume": Volume,
    "snapshot": Snapshot,
    **{one.kind: one.answer for one in RESOURCES.values() if isinstance(one, Listed)},
}
_HOST = "the host on which, or on whose behalf, it is done"

Schema = Mapping[str, Any]


def module() -> str:
    """The text of the module."""
    shapes: dict[str, Schema] = {}
    rooms = "\n\n".join("\n".join(_room(kind, shapes)) for kind in _kinds())
    written = "\n\n".join(_shape(name, shape) for name, shape in sorted(shapes.items()))
    answers = "\n".join(
        f"    from {one.__module__} import {one.__name__}" for one in _ANSWERS.values()
    )
    methods = "\n".join(_methods())
    return _formatted("\n\n".join([_HEAD + answers, _options(), written, rooms, methods]))


def _kinds() -> Iterator[str]:
    return iter(dict.fromkeys(action.kind for action in ACTIONS.values()))


def write() -> None:
    """Write the module."""
    MODULE.write_text(module())


def _formatted(text: str) -> str:
    for task in (["check", "--quiet", "--fix", "--select", "I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *task, "--stdin-filename", str(MODULE), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


def _kind_of(schema: Schema) -> str:
    """The type of what a JSON schema describes."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_kind_of(part) for part in schema["anyOf"]))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return f"Literal[{', '.join(map(repr, values))}]"
    if schema.get("format") == "date-time":
        return "datetime | str"
    if schema["type"] == "array":
        return f"Sequence[{_kind_of(schema['items'])}]"
    if schema["type"] == "object":
        [values] = schema["patternProperties"].values()
        return f"Mapping[str, {_kind_of(values)}]"
    return _NAMES[schema["type"]]


def _comments(described: str) -> list[str]:
    return [f"    #: {line}" for line in textwrap.wrap(described, 90)]


def _options() -> str:
    lines = ["class Options(TypedDict, total=False):"]
    lines.append('    """What may be said of any job, whatever its action."""\n')
    for name, schema in JobOptions.model_json_schema()["properties"].items():
        lines += _comments(schema["description"])
        lines.append(f"    {name}: {_kind_of(schema)}")
    lines += _comments("Seconds to wait for the end of the job; it is returned as it is by then.")
    lines.append("    wait: float | None")
    lines += _comments("The same key again submits nothing; without one, each call has its own.")
    lines.append("    idempotency_key: str | None")
    return "\n".join(lines)


def _shape(name: str, schema: Schema) -> str:
    lines = [f"class {name}(TypedDict, total=False):"]
    lines.append(f'    """{schema["description"].splitlines()[0]}"""\n')
    for field, part in schema["properties"].items():
        lines += _comments(part["description"])
        lines.append(f"    {field}: {_kind_of(part)}")
    return "\n".join(lines)


def _methods() -> Iterator[str]:
    yield "class ResourceMethods(Methods):"
    yield '    """The methods of each kind of resource, and those that list resources."""'
    for kind in _kinds():
        yield "\n    @cached_property"
        yield f"    def {kind}(self) -> {_class_of(kind)}[Self]:"
        yield f'        """Read {_a(kind)}, or act on it."""'
        yield f"        return {_class_of(kind)}(self)"
    for kind, one in RESOURCES.items():
        if isinstance(one, Listed):
            path = collection(kind).strip("/")
            yield "\n    @listing"
            yield f"    def {path}(self, backend: str) -> Query[{one.answer.__name__}]:"
            yield f'        """A backend\'s {KINDS[kind].titles} by name."""'
            place = f'path_to("backends", backend, "{path}")'
            yield f"        return Query({_kind(one.answer)}, {place})"


def _a(kind: str) -> str:
    return KINDS[kind].a_title if kind in KINDS else f"a {kind}"


def _class_of(kind: str) -> str:
    return f"{kind.title().replace('_', '')}Actions"


def _kind(answer: type[Answer]) -> str:
    """The client's name of an answer."""
    return f'Kind("{answer.__module__.rpartition(".")[2]}", "{answer.__name__}")'


def _get(kind: str) -> Iterator[str]:
    """The method that reads one, if that is read by its name."""
    if (answer := _ANSWERS.get(kind)) is None:
        return
    path = f"{collection(kind)}/{{{kind}}}" if kind in KINDS else ""
    arguments, segments = ["backend"], ['"backends"', "backend"]
    for part in path.split("/")[1:]:
        if (name := part.strip("{}")) != part:
            arguments.append(name)
        segments.append(f'"{part}"' if name == part else name)
    *others, own = arguments
    given = ", ".join(f"{name}: str" for name in (*others, "name"))
    named = ", ".join("name" if one == own else one for one in segments)
    unknown = f"Unknown{answer.__name__}"
    raised = unknown if hasattr(errors, unknown) else "NotFound"
    yield ""
    yield "    @operation"
    yield f"    def get(self, {given}) -> Steps[{answer.__name__}]:"
    yield f'        """Read {_a(kind)}. Raises `{raised}`."""'
    yield f"        return self._get({_kind(answer)}, path_to({named}))"


def _room(kind: str, shapes: dict[str, Schema]) -> Iterator[str]:
    yield f"class {_class_of(kind)}(Room[C]):"
    yield f'    """Read {_a(kind)}, or act on it: each action submits a job."""'
    yield from _get(kind)
    for action in ACTIONS.values():
        if action.kind == kind:
            yield ""
            yield from _method(action, shapes)


def _method(action: Action, shapes: dict[str, Schema]) -> Iterator[str]:
    targets = dict(_targets(action))
    schema = action.params.model_json_schema()
    shapes |= schema.get("$defs", {})
    params = {}
    for own, info in action.params.model_fields.items():
        names = written_names(own, info)
        [found] = [schema["properties"][name] for name in names if name in schema["properties"]]
        params[names[0]] = (_kind_of(found), info.is_required(), found)
    verb = f"{action.verb}_" if keyword.iskeyword(action.verb) else action.verb
    yield "    @operation"
    yield f"    def {verb}(self, {', '.join(_arguments(action, targets, params))},"
    yield "        **options: Unpack[Options]) -> Steps[Job]:"
    yield from _docstring(action, params)
    target = ", ".join(f'"{field}": {name}' for field, name in targets.items())
    given = ", ".join(f'"{name}": {name}' for name in params)
    yield f'        return self._submit("{action.name}", {{{target}}}, {{{given}}}, options)'


def _targets(action: Action) -> Iterator[tuple[str, str]]:
    """The fields of the request that say what it is done to, and the arguments for them."""
    for field in ("backend", *(one.kind for one in action.takes)):
        yield field, "name" if field == action.kind else field
    yield "host", "host"


def _arguments(
    action: Action, targets: Mapping[str, str], params: Mapping[str, tuple[str, bool, Schema]]
) -> Iterator[str]:
    needs = {**action.needs, "backend": Need.REQUIRED}
    by_place = [field for field in targets if needs[field] is Need.REQUIRED and field != "host"]
    if action.kind not in by_place:
        by_place.append(action.kind)
    for field in by_place:
        optional = needs[field] is Need.OPTIONAL
        yield f"{targets[field]}: str{' | None = None' if optional else ''}"
    yield "*"
    for field in targets:
        if field not in by_place:
            required = needs[field] is Need.REQUIRED
            yield f"{targets[field]}: str{'' if required else ' | None = None'}"
    for name, (kind, required, schema) in params.items():
        default = schema.get("default")
        if default is None and not required and "None" not in kind.split(" | "):
            kind += " | None"
        yield f"{name}: {kind}{'' if required else f' = {default!r}'}"


def _docstring(action: Action, params: Mapping[str, tuple[str, bool, Schema]]) -> Iterator[str]:
    yield f'        """{action.summary}\n'
    described = {name: schema.get("description") for name, (_, _, schema) in params.items()}
    for name, text in {**described, "host": _HOST}.items():
        if text:
            yield textwrap.fill(
                f"``{name}``: {text[:1].lower()}{text[1:].rstrip('.')}.",
                100,
                initial_indent="        ",
                subsequent_indent="            ",
            )
    yield '        """'
