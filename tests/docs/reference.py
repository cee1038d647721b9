"""The reference pages made from the code: actions, commands, error codes, metrics, HTTP routes.

``make docs`` writes them; `tests.docs.test_docs` fails where one is not current.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import typer
from pydantic import BaseModel

from orchestrator.actions.registry import ACTIONS
from orchestrator.api.app import create_app
from orchestrator.api.routes.health import Figures
from orchestrator.api.service import Service
from orchestrator.cli.root import app as command_line
from orchestrator.domain.action import Action, Lane, Need, written_names
from orchestrator.domain.errors import Problem, vocabulary
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.targets import KINDS
from orchestrator.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"

#: An option that so many commands have is described once.
_COMMON = 8

_NOTE = "This page is made from the code by `make docs`; a test keeps it current."


def _cell(text: str) -> str:
    """``text`` on one line of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


# -- actions ------------------------------------------------------------------------------


def _actions() -> Iterator[str]:
    yield "# Actions"
    yield ""
    yield (
        "Every change of storage is an action. Submit one with `POST /v1/jobs`, with its own "
        "route, with `orchestrator submit` or with the command of the same name "
        "([command line](command-line.md), [HTTP](http.md)). `GET /v1/actions` and "
        f"`orchestrator action list` describe the actions of a running service. {_NOTE}"
    )
    yield ""
    yield (
        "*Lanes* are the names that a job has to itself from submission to its end "
        "([lanes](design/0002-lanes.md)). A *capability* must be supported by the backend's "
        "[driver](drivers.md)."
    )
    yield ""
    yield from _table(
        ["action", "what it does", "role"],
        [
            [f"[`{action.name}`](#{action.name.replace('.', '')})", action.summary, action.role]
            for action in ACTIONS.values()
        ],
    )
    for action in ACTIONS.values():
        yield ""
        yield from _action(action)


def _action(action: Action) -> Iterator[str]:
    method, path = action.route
    yield f"## {action.name}"
    yield ""
    yield action.summary
    yield ""
    yield f"`{method} /v1/backends/{{backend}}{path}`"
    yield ""
    yield from _table(["property", "value"], [list(row) for row in _properties(action)])
    rows = [*_parameters(action.params)]
    if rows:
        yield ""
        yield from _table(["parameter", "required", "meaning"], rows)


def _properties(action: Action) -> Iterator[tuple[str, str]]:
    yield "role", action.role
    for need, word in ((Need.REQUIRED, "requires"), (Need.OPTIONAL, "accepts")):
        named = [name for name in (*KINDS, "host") if action.needs[name] is need]
        if named:
            yield word, ", ".join(named)
    lanes = [action.kind if lane is Lane.NAMED else lane for lane in action.lanes]
    yield "lanes", ", ".join(lanes) or "none"
    if action.capability is not None:
        able = [name for name, spec in DRIVERS.items() if action.capability in spec.capabilities]
        yield "capability", f"`{action.capability}` ({', '.join(able)})"
    yield "time limit of one attempt", f"{action.time_limit / 3600:g} h"
    facts = {
        "refused while another host holds the volume's [lock](locks.md)": action.respects_lock,
        "runs only if the unfinished jobs before it in its lanes succeed": action.destructive,
        "what a failed or canceled job has made is removed": action.creates,
        "can be stopped at any time; what was done until then stays": action.stoppable,
        "always needs an approval": action.approval,
        "can be [scheduled](schedules.md)": action.schedulable,
    }
    if holding := [text for text, holds in facts.items() if holds]:
        yield "also", "; ".join(holding)


def _parameters(model: type[BaseModel], within: str = "") -> Iterator[list[str]]:
    """A row for each parameter, and for each entry of one that has declared entries."""
    for name, field in model.model_fields.items():
        names = ", ".join(f"`{within}{written}`" for written in written_names(name, field))
        yield [names, "yes" if field.is_required() else "", field.description or _inner(field)]
        for kind in get_args(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _parameters(kind, f"{within}{name}.")


def _inner(field: Any) -> str:
    """The description that a parameter's type carries."""
    return next((m.description for m in field.metadata if getattr(m, "description", None)), "")


# -- error codes --------------------------------------------------------------------------


def _errors() -> Iterator[str]:
    yield "# Error codes"
    yield ""
    yield (
        "An error has a stable `code`. The service answers a refused request with the HTTP status "
        "and a problem document (RFC 9457); the command line ends with the exit status; a failed "
        "job records the code in `error.code`. A job whose error is *retried* runs again after a "
        "back-off, up to `max_attempts`. A code belongs to the family under which it is listed: "
        "the [Python client](python-client.md#errors) raises its class, which `except` catches by "
        f"the family, too. {_NOTE}"
    )
    families = [kind for kind in vocabulary() if kind.__base__ is Problem]
    with_members = [kind for kind in families if _members(kind)]
    alone = [kind for kind in families if not _members(kind)]
    for family in with_members:
        yield ""
        yield f"## {family.__name__}"
        yield ""
        yield from _codes([family, *_below(family)])
    yield ""
    yield "## Other errors"
    yield ""
    yield from _codes(alone)


def _members(family: type[Problem]) -> list[type[Problem]]:
    """The errors with codes of their own: what else is imported may refine one without a code."""
    return [kind for kind in family.__subclasses__() if kind.code != family.code]


def _below(family: type[Problem]) -> Iterator[type[Problem]]:
    for kind in _members(family):
        yield kind
        yield from _below(kind)


def _codes(kinds: list[type[Problem]]) -> Iterator[str]:
    yield from _table(
        ["code", "HTTP", "exit", "retried", "message", "class"],
        [
            [
                f"`{kind.code}`",
                str(kind.status),
                str(kind.exit_status),
                "yes" if kind.retryable else "",
                kind.title(),
                f"`{kind.__name__}`",
            ]
            for kind in kinds
        ],
    )


# -- commands -----------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield (
        "Every command with its arguments and options. What scripts may rely on is on the page "
        f"[command line](command-line.md). {_NOTE}"
    )
    root: Any = typer.main.get_command(command_line)
    commands = [*_leaves("orchestrator", root)]
    counts = Counter(tuple(row) for _, one in commands for row in _options(one))
    common = {row for row, count in counts.items() if count >= _COMMON and _may_be_common(row)}
    yield from ("", "## Common options", "")
    yield from _table(["option", "meaning"], [list(row) for row in counts if row in common])
    for name, command in commands:
        yield from ("", f"## {name}", "", *_help(command.help))
        rows = _options(command)
        if own := [row for row in rows if tuple(row) not in common]:
            yield ""
            yield from _table(["argument or option", "meaning"], own)
        if shared := [row[0] for row in rows if tuple(row) in common]:
            yield from ("", f"Common options: {', '.join(shared)}")


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for own, one in inner.items():
        yield from _leaves(f"{name} {own}", one)


def _options(command: Any) -> list[list[str]]:
    return [_option(one) for one in command.params if one.name != "help" and not one.hidden]


def _may_be_common(row: tuple[str, ...]) -> bool:
    name, meaning = row
    return name.startswith("`-") and not meaning.endswith("Required.")


def _help(text: str | None) -> Iterator[str]:
    """Its paragraphs; one that is a command line is an example."""
    paragraphs = inspect.cleandoc((text or "").split("\f")[0]).split("\n\n")
    for index, paragraph in enumerate(paragraphs):
        if index:
            yield ""
        example = paragraph.startswith("orchestrator ")
        yield from ("```sh", paragraph, "```") if example else (_paragraph(paragraph),)


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _option(one: Any) -> list[str]:
    if one.param_type_name == "argument":
        name = one.metavar or one.name.upper()
        bare = one.required or name.startswith("[")
        written = f"`{name}`" if bare else f"`[{name}]`"
    else:
        written = ", ".join(f"`{way}`" for way in (*one.opts, *one.secondary_opts))
    return [written, _paragraph(one.help) + (" Required." if one.required and one.opts else "")]


# -- HTTP routes --------------------------------------------------------------------------


def _routes() -> Iterator[str]:
    yield "# HTTP routes"
    yield ""
    yield (
        "Every route below `/v1`, and those that monitoring asks. `/openapi.json` and `/docs` of a "
        "running service describe bodies, parameters and answers; what the routes have in common "
        f"is on the page [HTTP](http.md), `/v3` on the page [NAS](nas.md#v3). {_NOTE}"
    )
    settings = Settings.model_construct(**{**_defaults(), "v3": SimpleNamespace(enabled=False)})
    service = cast(Service, SimpleNamespace(settings=settings))
    paths = create_app(service).openapi()["paths"]
    yield ""
    yield from _table(
        ["method and path", "what it does"],
        [
            [f"`{method.upper()} {path}`", _what(operation)]
            for path, operations in sorted(paths.items())
            for method, operation in operations.items()
        ],
    )


def _defaults() -> dict[str, Any]:
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }


def _what(operation: dict[str, Any]) -> str:
    description = _paragraph(operation.get("description", "").split("\n\n")[0])
    return description or operation["summary"]


# -- metrics ------------------------------------------------------------------------------


class _Nothing:
    """A transaction on a database without rows."""

    def execute(self, _statement: object) -> _Nothing:
        return self

    def scalars(self) -> _Nothing:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield (
        "What `GET /metrics` exports for Prometheus, without a token. What to alert on is on the "
        f"page [operations](operations.md#monitoring). {_NOTE}"
    )
    yield ""
    exported: Any = Figures(cast(Any, _Nothing()), waiters=0, refused={}).collect()
    yield from _table(
        ["metric", "type", "labels", "meaning"],
        [
            [
                f"`{one.name}{'_total' if one.type == 'counter' else ''}`",
                one.type,
                ", ".join(f"`{label}`" for label in one._labelnames),
                one.documentation,
            ]
            for one in exported
        ],
    )


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "actions.md": _actions,
    "commands.md": _commands,
    "errors.md": _errors,
    "metrics.md": _metrics,
    "routes.md": _routes,
}


def page(name: str) -> str:
    """The text of one of `PAGES`."""
    return "\n".join(PAGES[name]()) + "\n"


def write() -> None:
    """Write all of `PAGES`."""
    for name in PAGES:
        (DOCS / name).write_text(page(name))
