"""What a submitter sends: one model for each action, derived from its declaration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.action import Action, Lane, Need, written_names
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
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import (
    MAX_ID,
    BackendName,
    HostName,
    PolicyName,
    SnapshotName,
    VolumeName,
)
from orchestrator.domain.nearest import did_you_mean
from orchestrator.domain.targets import KINDS

#: The most jobs one batch may hold.
MAX_BATCH = 100_000

JobId = Annotated[int, Field(ge=1, le=MAX_ID)]
Ref = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
_REF = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
Reason = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f]*$")]


#: RFC 3339, section 5.6.
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _read_moment(written: Any) -> Any:
    if isinstance(written, datetime):
        return written
    try:
        if isinstance(written, str) and _MOMENT.fullmatch(written):
            return datetime.fromisoformat(written.upper())
    except ValueError:
        pass  # there is no such day
    raise PydanticCustomError(
        "invalid_input", "write a time with its zone, such as 2026-01-31T12:00:00Z"
    )


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


def _dependency(written: Any) -> Any:
    is_id = type(written) is int and 1 <= written <= MAX_ID
    if is_id or (isinstance(written, str) and _REF.fullmatch(written)):
        return written
    raise PydanticCustomError(
        "invalid_input", "it is the id of a job, or the ref of a job of the same batch"
    )


#: What a job waits for.
Dependency = Annotated[JobId | Ref, BeforeValidator(_dependency)]
Moment = Annotated[AwareDatetime, BeforeValidator(_read_moment), AfterValidator(_in_utc)]
Priority = Annotated[int, Field(ge=-20, le=19)]


class JobOptions(Exact):
    """What may be said of any job, whatever its action."""

    priority: Priority = Field(default=0, description="-20 is first, 19 last.")
    run_at: Moment | None = Field(
        default=None, description="Not before this time (RFC 3339, with its zone)."
    )
    depends_on: list[Dependency] = Field(
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
        default=None, description="Attempts before a temporary error ends the job."
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

    def name_of(self, kind: str) -> str | None:
        """The name of what it is about of this kind, if it names one."""
        name: str | None = getattr(self, kind, None)
        return name

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


#: The fields that name what a job is about: the type of each, and what it is.
_TARGETS: dict[str, tuple[Any, str]] = {
    **{kind.name: (kind.names, f"Name of the {kind.title}.") for kind in KINDS.values()},
    "host": (HostName, "The host on which, or on whose behalf, the job runs."),
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
        need = action.needs[name]
        if need is Need.REQUIRED:
            fields[name] = (kind, Field(description=described))
        elif need is Need.OPTIONAL or name == "host":
            # A host may always be named: a lock that it holds does not stand in its own way.
            fields[name] = (kind | None, Field(default=None, description=described))
        else:
            fields[name] = (None, Field(default=None, description="Not used by this action."))
    if Lane.BACKEND in action.lanes:
        fields["depends_on"] = (
            Annotated[list[Dependency], AfterValidator(_no_dependency)],
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


def problem_from(errors: list[ErrorDetails] | list[dict[str, Any]], model: Any = None) -> Problem:
    """The `Problem` for a list of pydantic errors: the first one, and all under ``errors``.

    ``model``: what was read, from which names are suggested for those that are not known.
    """
    # What is missing may stand there under a mistyped name: that is told first.
    missing_last = sorted(errors, key=lambda error: error["type"] == "missing")
    # Of the kinds that a value may have, each says why it is none: one is enough.
    told: dict[str, tuple[type[Problem], str, str]] = {}
    for error in missing_last[:20]:
        described = _describe(error, model)
        told.setdefault(described[1], described)
    found = list(told.values())
    kind, field, detail = found[0]
    facts: dict[str, Any] = {}
    if len(found) > 1:
        facts["errors"] = [{"field": f, "detail": d, "code": k.code} for k, f, d in found]
    return kind(detail, field=field, **facts)


#: How pydantic calls the part of a request that a place begins with, and how it tells members of
#: a union apart. People write neither.
_PARTS = frozenset({"body", "query", "path", "header"})
_TAG = re.compile(r"constrained-\w+|function-.+|\[key\]")

#: What pydantic says of a value, as one of our sentences; formatted with its context and the value.
_SENTENCES = {
    "missing": "it is missing",
    "none_required": "the action takes none: leave it out",
    "int_type": "a whole number is wanted, not {shown}",
    "int_from_float": "a whole number is wanted, not {shown}",
    "int_parsing": "a whole number is wanted, not {shown}",
    "float_type": "a number is wanted, not {shown}",
    "float_parsing": "a number is wanted, not {shown}",
    "bool_type": "true or false is wanted, not {shown}",
    "bool_parsing": "true or false is wanted, not {shown}",
    "string_type": "text is wanted, not {shown}",
    "list_type": "a list is wanted, not {shown}",
    "dict_type": "an object is wanted, not {shown}",
    "model_type": "an object is wanted, not {shown}",
    "model_attributes_type": "an object is wanted, not {shown}",
    "string_too_short": "it has at least {min_length} characters",
    "string_too_long": "it has at most {max_length} characters",
    "too_short": "it has at least {min_length} entries",
    "too_long": "it has at most {max_length} entries",
    "greater_than": "it is above {gt}, not {shown}",
    "greater_than_equal": "it is at least {ge}, not {shown}",
    "less_than": "it is below {lt}, not {shown}",
    "less_than_equal": "it is at most {le}, not {shown}",
    "literal_error": "it is {expected}, not {shown}",
    "enum": "it is {expected}, not {shown}",
}
#: What a pattern asks for, in words.
_WORDS = {
    r"^[\x21-\x7e]+$": "letters, digits and signs of ASCII, without blanks",
    r"^[\x20-\x7e]*$": "letters, digits, signs and blanks of ASCII",
    r"^[\x20-\x7e]+$": "letters, digits, signs and blanks of ASCII",
    r"^[A-Za-z0-9._@-]+$": "letters, digits and the characters . _ @ -",
    r"^[A-Za-z0-9._:-]+$": "letters, digits and the characters . _ : -",
    r"^[A-Za-z0-9_-]+$": "letters, digits, _ and -",
    r"^[A-Za-z0-9_-]{1,64}$": "up to 64 letters, digits, _ and -",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "up to 64 letters, digits and . _ -, not first",
    r"^[A-Za-z0-9._:/+-]*$": "letters, digits and the characters . _ : / + -",
    r"^[A-Za-z0-9._:/+*?\[\]!-]+$": "letters, digits and the characters . _ : / + - * ? [ ] !",
    r"^[a-z_.]+$": "small letters, _ and .",
}


def _describe(error: Mapping[str, Any], model: Any) -> tuple[type[Problem], str, str]:
    place = list(error["loc"])
    if place and place[0] in _PARTS:
        place = place[1:]
    while place and isinstance(place[-1], str) and _TAG.fullmatch(place[-1]):
        place.pop()
    if not place:
        return _whole_body(error)
    # The tag of the union (the action's name) is in the path; people do not write it. What comes
    # last is what is wrong itself, whatever it is called.
    *above, last = place
    path = [str(part) for part in above if part not in ACTIONS]
    if last not in ACTIONS or error["type"] == "extra_forbidden":
        path.append(str(last))
    field = ".".join(path)
    kind = _KINDS.get(error["type"], InvalidInput)
    if error["type"] == "extra_forbidden":
        kind = UnknownParameter if "params" in path else UnknownField
        known = (
            dict.fromkeys((*JobRequest.model_fields, *KINDS))
            if above and above[-1] in ACTIONS
            else _names(model, above)
        )
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
    else:
        detail = f"{field}: {sentence(error)}" if field else sentence(error)
    return kind, field or "body", detail


def _whole_body(error: Mapping[str, Any]) -> tuple[type[Problem], str, str]:
    """What is wrong with a body that has no part which is wrong."""
    if error["type"] == "missing":
        return MissingField, "body", "send a body: JSON, with 'Content-Type: application/json'"
    if error["type"] == "union_tag_not_found":
        return MissingField, "action", "'action' is missing"
    if error["type"] == "union_tag_invalid":
        return UnknownAction, "action", no_such_action(_action_in(error))
    kind = _KINDS.get(error["type"], InvalidInput)
    return kind, "body", f"the body: {sentence(error)}"


def sentence(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, of which a pydantic error tells, in our words."""
    written = error.get("input")
    if isinstance(written, bytes):
        return "it was not read as JSON: send JSON with 'Content-Type: application/json'"
    shown = "null" if written is None else repr(written)
    if isinstance(written, bool):
        shown = "true" if written else "false"
    elif isinstance(written, dict | list):
        shown = "an object" if isinstance(written, dict) else "a list"
    context = {**(error.get("ctx") or {}), "shown": shown if len(shown) < 60 else shown[:60] + "…"}
    if error["type"] == "string_pattern_mismatch":
        words = _WORDS.get(context["pattern"], f"what fits {context['pattern']}")
        return f"it is made of {words}"
    if (ours := _SENTENCES.get(error["type"])) is not None:
        return ours.format(**context)
    return str(error["msg"]).removeprefix("Value error, ")


def _names(model: Any, above: Sequence[Any]) -> list[str]:
    """The fields that a model has at a place in it."""
    for part in above:
        fields = getattr(model, "model_fields", {})
        model = _model_in(fields[part].annotation) if part in fields else model
    return list(getattr(model, "model_fields", ()))


def _model_in(annotation: Any) -> Any:
    """The model that a field holds, perhaps beside others or in a list."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


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
