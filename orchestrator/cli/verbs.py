"""Commands derived from actions: ``volume grow vm1 --backend fast size=20G``."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer

from orchestrator.actions.registry import ACTIONS
from orchestrator.cli import options
from orchestrator.cli.submit import submit
from orchestrator.domain.action import Action, Need, written_names
from orchestrator.domain.targets import KINDS

_TARGETS = ("backend", *KINDS, "host")
_REQUIRED: dict[str, Any] = {
    "backend": options.Backend,
    **{kind.name: Annotated[str, options.naming(kind)] for kind in KINDS.values()},
    "host": Annotated[str, typer.Option("--host", help="The host on which the job runs.")],
}


def add_actions(app: typer.Typer, kind: str) -> None:
    """Add a command for each action of a kind: ``volume``, ``policy`` …"""
    for action in ACTIONS.values():
        if action.kind == kind:
            app.command(action.verb.replace("_", "-"), help=_help(action))(_command(action))


def _command(action: Action) -> Callable[..., None]:
    """A function like ``submit``, with the action given and its target as the argument."""

    def command(**given: Any) -> None:
        submit(action.name, given.pop("values", None), **given)

    of_submit = signature(submit, eval_str=True).parameters
    named = Annotated[
        str, typer.Argument(metavar=action.kind.upper(), help=f"Name of the {action.kind}.")
    ]
    target = Parameter(action.kind, Parameter.KEYWORD_ONLY, annotation=named)
    if action.needs[action.kind] is Need.OPTIONAL:
        target = target.replace(annotation=named | None, default=None)
    parameters = [target]
    for name, parameter in of_submit.items():
        if name in ("action", action.kind):
            continue
        if name == "values" and not action.params.model_fields:
            continue
        if name in _TARGETS:
            need = Need.REQUIRED if name == "backend" else action.needs[name]
            if need is Need.REQUIRED:
                parameter = Parameter(name, Parameter.KEYWORD_ONLY, annotation=_REQUIRED[name])
            elif need is Need.NO and name != "host":
                continue
        parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
    command.__name__ = action.verb
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _help(action: Action) -> str:
    lines = [action.summary, ""]
    for own_name, info in action.params.model_fields.items():
        names = " or ".join(f"{name}=" for name in written_names(own_name, info))
        needed = " (required)" if info.is_required() else ""
        described = info.description or f"{own_name.capitalize()}."
        lines += [f"{names}{needed}: {described}", ""]
    return "\n".join(lines).strip()
