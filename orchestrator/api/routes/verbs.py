"""The actions as verbs on resources: one route for each, derived from its declaration."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import AliasChoices, BaseModel, Field, create_model

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import JobOptions, JobRequest, parse_request
from orchestrator.actions.volume.grow import GROW
from orchestrator.actions.volume.rename import RENAME
from orchestrator.actions.volume.update import UPDATE
from orchestrator.api.requesting import (
    TARGETS_IN_PATH,
    BackendInPath,
    HostInPath,
    IdempotencyKey,
    PreferredWait,
    Reader,
    ReasonHeader,
    ServiceHere,
    VolumeInPath,
)
from orchestrator.api.routes.jobs import SUBMITTED, PlanOnly
from orchestrator.api.submitting import answer, single
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.jobs import Job
from orchestrator.domain.action import Action, Need
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.exact import Written
from orchestrator.domain.names import HostName, VolumeName
from orchestrator.domain.sizes import Size
from orchestrator.domain.targets import KINDS
from orchestrator.domain.volumes import Metadata, VolumeSettings

_IN_BODY: dict[str, Any] = {
    **{kind.name: kind.names for kind in KINDS.values()},
    "host": HostName,
}
_IN_PATH: dict[str, Any] = {
    "backend": BackendInPath,
    **TARGETS_IN_PATH,
    "host": HostInPath,
}
_PLACES = re.compile(r"\{(\w+)\}")


def router() -> APIRouter:
    """The routes of all actions, and ``PATCH`` of a volume."""
    made = APIRouter(prefix="/v1/backends/{backend}", tags=["verbs"], route_class=ExactRoute)
    for action in ACTIONS.values():
        method, path = action.route
        made.add_api_route(
            path,
            _endpoint(action),
            methods=[method],
            summary=action.summary,
            description=f"Submits a `{action.name}` job. {action.summary}",
            operation_id=action.name.replace(".", "_"),
            status_code=202,
            response_model=Job,
            responses=SUBMITTED,
        )
    made.add_api_route(
        "/volumes/{volume}",
        change_volume,
        methods=["PATCH"],
        summary="Change a volume.",
        status_code=202,
        response_model=Job,
        responses=SUBMITTED,
    )
    return made


def _body_model(action: Action, in_path: set[str], *, in_query: bool = False) -> type[BaseModel]:
    """Targets that the path does not name, the parameters, and the options of any job."""
    fields: dict[str, Any] = {}
    for name, kind in _IN_BODY.items():
        need = action.needs[name]
        if name in in_path or (need is Need.NO and name != "host"):
            continue
        # The thing a collection is asked to make may also be given as plain "name".
        makes = action.creates and name == action.kind
        alias = AliasChoices(name, "name") if makes else None
        if need is Need.REQUIRED:
            fields[name] = (kind, Field(validation_alias=alias))
        else:
            fields[name] = (kind | None, Field(default=None, validation_alias=alias))
    if in_query:
        # A model of all query parameters refuses those it does not have.
        fields["plan"] = (PlanOnly, False)
    title = "".join(part.capitalize() for part in re.split(r"[._]", action.name))
    model: type[BaseModel] = create_model(
        f"{title}{'Query' if in_query else 'Body'}",
        __base__=(action.params, JobOptions, *([Written] if in_query else [])),
        __doc__=action.params.__doc__,
        **fields,
    )
    model.model_config["frozen"] = False
    return model


def _endpoint(action: Action) -> Callable[..., Any]:
    """A route function whose signature FastAPI reads like one written by hand."""
    method, path = action.route
    in_path = {"backend", *_PLACES.findall(path)}
    body = _body_model(action, in_path)
    optional = not any(field.is_required() for field in body.model_fields.values())
    # A DELETE has its parameters in the query, or in a body, which not every client can send.
    in_query = method == "DELETE"
    body_kind: Any = body | None if optional else body

    async def endpoint(**given: Any) -> Response:
        fields = _given_once(given.get("query"), given["body"])
        options = {name: fields.pop(name) for name in JobOptions.model_fields if name in fields}
        targets = {name: fields.pop(name) for name in _IN_BODY if name in fields}
        targets |= {name: given[name] for name in in_path}
        planned = fields.pop("plan", given.get("plan", False))
        request = parse_request({"action": action.name, **targets, **options, "params": fields})
        submission = single(request, given["actor"], reason=given["reason"], key=given["key"])
        return await answer(given["service"], submission, wait=given["wait"], plan=planned)

    kinds: dict[str, Any] = {name: _IN_PATH[name] for name in sorted(in_path)}
    # Who may do what is checked with the submission, from the action's declaration.
    kinds |= {"service": ServiceHere, "actor": Reader, "wait": PreferredWait}
    kinds |= {"key": IdempotencyKey, "reason": ReasonHeader}
    if in_query:
        kinds["query"] = Annotated[_body_model(action, in_path, in_query=True), Query()]
    else:
        kinds["plan"] = PlanOnly
    kinds["body"] = Annotated[body_kind, Body()]
    defaults: dict[str, Any] = {"key": None, "reason": None, "plan": False}
    if optional:
        defaults["body"] = None
    endpoint.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                annotation=kind,
                default=defaults.get(name, Parameter.empty),
            )
            for name, kind in kinds.items()
        ]
    )
    endpoint.__name__ = action.name.replace(".", "_")
    return endpoint


def _given_once(*given: BaseModel | None) -> dict[str, Any]:
    """The fields of these. Raises `InvalidInput` for one that is in several."""
    fields: dict[str, Any] = {}
    for model in given:
        written = model.model_dump(exclude_unset=True) if model is not None else {}
        if twice := sorted(fields.keys() & written.keys()):
            raise InvalidInput(
                f"{twice[0]} is in the query and in the body: give it once", field=twice[0]
            )
        fields |= written
    return fields


class VolumeChange(JobOptions):
    """What to change in a volume: one of its size, its metadata, its settings, or its name."""

    size_bytes: Size | None = Field(
        default=None,
        validation_alias=AliasChoices("size_bytes", "size"),
        description="The new size; above the present one.",
    )
    metadata: Metadata | None = Field(default=None, description="Entries to set.")
    settings: VolumeSettings | None = Field(default=None, description="Settings to change.")
    name: VolumeName | None = Field(default=None, description="The new name.")


#: What each changeable field asks for: the action, and the parameter it becomes.
_CHANGES = {
    "size_bytes": (GROW, "size_bytes"),
    "metadata": (UPDATE, "metadata"),
    "settings": (UPDATE, "settings"),
    "name": (RENAME, "new_name"),
}


async def change_volume(
    service: ServiceHere,
    actor: Reader,
    backend: BackendInPath,
    volume: VolumeInPath,
    body: VolumeChange,
    wait: PreferredWait,
    key: IdempotencyKey = None,
    reason: ReasonHeader = None,
    plan: PlanOnly = False,
) -> Response:
    """Change one thing of a volume; submits `volume.grow`, `volume.update` or `volume.rename`."""
    fields = body.model_dump(exclude_unset=True, exclude_none=True)
    asked = [name for name in _CHANGES if name in fields]
    if len(asked) != 1:
        raise InvalidInput(
            f"give exactly one of {', '.join(_CHANGES)}: each is a job of its own",
            field=asked[1] if asked else "size_bytes",
        )
    action, parameter = _CHANGES[asked[0]]
    options = {name: fields[name] for name in JobOptions.model_fields if name in fields}
    request: JobRequest = parse_request(
        {
            "action": action.name,
            "backend": backend,
            "volume": volume,
            "params": {parameter: fields[asked[0]]},
            **options,
        }
    )
    submission = single(request, actor, reason=reason, key=key)
    return await answer(service, submission, wait=wait, plan=plan)
