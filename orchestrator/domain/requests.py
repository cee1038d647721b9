"""What a submitter sends: one model for each action, derived from its declaration."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from orchestrator.domain.actions import ACTIONS, Action, Lane, Need, written_names
from orchestrator.domain.errors import (
    InvalidInput,
    InvalidName,
    InvalidSize,
    MissingField,
    Problem,
    UnknownAction,
    UnknownField,
    UnknownParameter,
)
from orchestrator.domain.names import (
    BackendName,
    HostName,
    PolicyName,
    SnapshotName,
    VolumeName,
)
from orchestrator.domain.nearest import did_you_mean

#: The most jobs one batch may hold.
MAX_BATCH = 100_000
#: The largest job id a request may name: what a 64-bit column holds.
MAX_ID = 2**63 - 1

JobId = Annotated[int, Field(ge=1, le=MAX_ID)]
Ref = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Reason = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f]*$")]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("invalid_input", "this time cannot be told in UTC") from None


def _no_dependency(named: list[Any]) -> list[Any]:
    if named:
        raise PydanticCustomError(
            "invalid_input",
            "this action waits for no job: one that waits for the backend to take work again "
            "would keep it from doing so; wait for that job, then submit this",
        )
    return named


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Priority = Annotated[int, Field(ge=-20, le=19)]


class JobOptions(BaseModel):
    """What may be said of any job, whatever its action."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority = Field(default=0, description="-20 is first, 19 last.")
    run_at: Moment | None = Field(
        default=None, description="Not before this time (RFC 3339, with its zone)."
    )
    depends_on: list[JobId | Ref] = Field(
        default_factory=list,
        max_length=1000,
        description="Ids of jobs, or refs of the same batch, that must succeed first.",
    )
    approval: bool | None = Field(
        default=None,
        description="It begins only once an administrator has approved it. Some actions always "
        "need that.",
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="Attempts before an error that may pass ends the job."
    )
    reason: Reason | None = Field(default=None, description="Why; kept in the history.")
    after: Literal["success", "end"] = Field(
        default="success",
        description="Whether a destructive job runs only if the unfinished jobs before it on "
        "the volume succeed, or in any case once they have ended.",
    )


class JobRequest(JobOptions):
    """A job to be submitted. The derived models narrow ``action`` and ``params``."""

    action: str
    backend: BackendName = Field(description="Name of the backend.")
    volume: VolumeName | None = None
    snapshot: SnapshotName | None = None
    policy: PolicyName | None = None
    host: HostName | None = None
    params: Any = None
    ref: Ref | None = Field(
        default=None, description="A name for this job inside its batch, for depends_on."
    )

    @model_validator(mode="before")
    @classmethod
    def _params_may_be_absent(cls, written: Any) -> Any:
        # Then what is said to be missing is the parameter itself.
        if isinstance(written, dict) and "params" not in written:
            return {**written, "params": {}}
        return written

    @property
    def declaration(self) -> Action:
        """The declaration of the action."""
        return ACTIONS[self.action]

    @property
    def needs_approval(self) -> bool:
        """Whether a person has to approve it before it begins."""
        return bool(self.approval) or self.declaration.approval

    def stored_params(self) -> dict[str, Any]:
        """The parameters as a job keeps them: sizes in bytes, absent ones left out."""
        stored: dict[str, Any] = self.params.model_dump(mode="json", exclude_none=False)
        if stored.get("settings"):
            settings = stored["settings"].items()
            stored["settings"] = {name: value for name, value in settings if value is not None}
        return {name: value for name, value in stored.items() if value is not None}


_TARGETS: dict[str, tuple[Any, str]] = {
    "volume": (VolumeName, "Name of the volume."),
    "snapshot": (SnapshotName, "Name of the snapshot."),
    "policy": (PolicyName, "Name of the export policy."),
    "host": (HostName, "The host on which, or on whose behalf, it is done."),
}


def _model_of(action: Action) -> type[JobRequest]:
    fields: dict[str, Any] = {
        "action": (Literal[action.name], Field(description=action.summary)),
        "params": (
            action.params,
            Field(description=(action.params.__doc__ or "").strip())
            if _required(action.params)
            else Field(default_factory=action.params, description=(action.params.__doc__ or "")),
        ),
    }
    for name, (kind, described) in _TARGETS.items():
        need = getattr(action, name)
        if need is Need.REQUIRED:
            fields[name] = (kind, Field(description=described))
        elif need is Need.OPTIONAL or name == "host":
            # A host may always be named: a lock that it holds does not stand in its own way.
            fields[name] = (kind | None, Field(default=None, description=described))
        else:
            fields[name] = (None, Field(default=None, description="Not used by this action."))
    if Lane.BACKEND in action.lanes:
        fields["depends_on"] = (
            Annotated[list[JobId | Ref], AfterValidator(_no_dependency)],
            Field(default_factory=list, description="Not used by this action."),
        )
    title = "".join(part.capitalize() for part in action.name.replace("_", ".").split("."))
    model: type[JobRequest] = create_model(
        f"{title}Job", __base__=JobRequest, __doc__=action.summary, **fields
    )
    return model


def _required(params: type[BaseModel]) -> bool:
    return any(field.is_required() for field in params.model_fields.values())


#: The request model of each action.
REQUESTS: dict[str, type[JobRequest]] = {name: _model_of(a) for name, a in ACTIONS.items()}

if TYPE_CHECKING:
    AnyJobRequest = JobRequest
else:
    #: Any job request, told apart by ``action``.
    AnyJobRequest = Annotated[reduce(or_, REQUESTS.values()), Field(discriminator="action")]

_one: TypeAdapter[JobRequest] = TypeAdapter(AnyJobRequest)


def parse_request(written: Any) -> JobRequest:
    """Read one job request. Raises the `Problem` that names the field at fault."""
    request: JobRequest = validated(_one.validate_python, written)
    return request


def validated(validate: Any, written: Any) -> Any:
    """Call a pydantic validator; its first error as one of our own."""
    try:
        return validate(written)
    except ValidationError as error:
        raise problem_from(error.errors(include_url=False)) from None


#: Which of our errors a pydantic error is.
_KINDS: dict[str, type[Problem]] = {
    "union_tag_invalid": UnknownAction,
    "union_tag_not_found": MissingField,
    "missing": MissingField,
    "invalid_name": InvalidName,
    "invalid_size": InvalidSize,
}


def problem_from(errors: list[ErrorDetails] | list[dict[str, Any]]) -> Problem:
    """The `Problem` for a list of pydantic errors: the first one, and all under ``errors``."""
    # What is missing may stand there under a mistyped name: that is told first.
    missing_last = sorted(errors, key=lambda error: error["type"] == "missing")
    found = [_describe(error) for error in missing_last[:20]]
    kind, field, detail = found[0]
    facts: dict[str, Any] = {}
    if len(found) > 1:
        facts["errors"] = [{"field": f, "detail": d, "code": k.code} for k, f, d in found]
    return kind(detail, field=field, **facts)


def _describe(error: Mapping[str, Any]) -> tuple[type[Problem], str, str]:
    # The tag of the union (the action's name) is in the path; people do not write it. What comes
    # last is what is wrong itself, whatever it is called.
    *above, last = error["loc"] or ("body",)
    path = [str(part) for part in above if part not in ACTIONS and part != "body"]
    path += [] if last == "body" and not above else [str(last)]
    field = ".".join(path)
    kind = _KINDS.get(error["type"], InvalidInput)
    detail = str(error["msg"])
    if error["type"] == "extra_forbidden":
        kind = UnknownParameter if "params" in path else UnknownField
        known = JobRequest.model_fields if above and above[-1] in ACTIONS else ()
        detail = f"{path[-1]!r} is not known here" + did_you_mean(path[-1], known)
        if kind is UnknownParameter:
            detail = _unknown_parameter(error["loc"], path[-1])
    elif kind is MissingField:
        missing = "action" if error["type"] == "union_tag_not_found" else path[-1]
        field = field if path and path[-1] == missing else ".".join([*path, missing])
        detail = f"{missing!r} is missing"
    elif kind is UnknownAction:
        field = ".".join([*path, "action"])
        detail = no_such_action(_action_in(error))
    elif field:
        detail = f"{field}: {detail}"
    return kind, field, detail


def no_such_action(written: str) -> str:
    """A sentence about an action that there is not, with the one that may have been meant."""
    return f"there is no action {written[:64]!r}" + did_you_mean(
        written, ACTIONS, "; 'orchestrator action list' and GET /v1/actions list those there are"
    )


def _action_in(error: Mapping[str, Any]) -> str:
    written = error.get("input")
    return str(written.get("action", "")) if isinstance(written, Mapping) else ""


def _unknown_parameter(location: tuple[int | str, ...], name: str) -> str:
    action = next((str(part) for part in location if part in ACTIONS), None)
    fields = ACTIONS[action].params.model_fields if action else {}
    names = [written_names(own, info) for own, info in fields.items()]
    for same in names:
        if name in same:
            return f"{' and '.join(same)} are two names of one parameter: give one of them"
    taken = [same[0] for same in names]
    return f"the action takes no parameter {name!r}" + did_you_mean(
        name, taken, f"; it takes {', '.join(taken) or 'none'}"
    )
