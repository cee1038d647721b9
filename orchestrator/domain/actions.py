"""Every action, declared once.

An action's declaration says what it needs, who may ask for it, which lanes it holds and
what a lock forbids. The HTTP routes, the command line, the checks at submission, the
documentation and the audit text are derived from here, so a new action begins with one
entry in `ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from orchestrator.domain.exact import Exact
from orchestrator.domain.exports import RuleText, RuleTexts
from orchestrator.domain.names import BackendName, HostName, JunctionPath, VolumeName
from orchestrator.domain.places import ImageLocation, ImagePath, Sha256
from orchestrator.domain.sizes import AnySize, Offset, Size
from orchestrator.domain.states import Role

#: How much metadata a volume may carry, as JSON.
MAX_METADATA = 64


class Need(StrEnum):
    """Whether an action names a thing of this kind."""

    NO = "no"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Params(Exact):
    """The parameters of an action; one that is not declared is refused."""

    model_config = ConfigDict(frozen=True)


def _limited(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(metadata) > MAX_METADATA:
        raise PydanticCustomError(
            "invalid_input", "metadata has more than {most} entries", {"most": MAX_METADATA}
        )
    return metadata


MetadataKey = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]+$")]
MetadataText = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*$")]
Metadata = Annotated[
    dict[MetadataKey, MetadataText],
    AfterValidator(_limited),
    Field(description="Texts by key, kept with the volume.", examples=[{"owner": "billing"}]),
]

#: The same of a volume that is made of another.
CopiedMetadata = Annotated[
    Metadata | None, Field(description="Texts by key; the source's if absent, none with {}.")
]

ParameterName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
_own = "The volume's own values for parameters of the backend ('backend show' lists them)"

#: The same of a volume that takes none over.
OwnParameters = Annotated[dict[ParameterName, MetadataText] | None, Field(description=f"{_own}.")]

_size = AliasChoices("size_bytes", "size")


def written_names(own_name: str, info: FieldInfo) -> tuple[str, ...]:
    """The names under which a parameter may be written, shortest first."""
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = {own_name, *(choice for choice in choices if isinstance(choice, str))}
    return tuple(sorted(names, key=len))


class NoParams(Params):
    """This action takes no parameters."""


class VolumeSettings(Params):
    """How a volume behaves, and where it is found; what is absent stays as it is.

    ``autosize_…`` and ``junction_path`` every backend has; the others are the driver's
    (`orchestrator.domain.drivers.DriverSpec.settings`).
    """

    autosize_enabled: bool | None = Field(
        default=None, description="Whether the volume grows by itself as it fills."
    )
    autosize_max_bytes: AnySize | None = Field(
        default=None, description="How large it may grow so; without it, it does not."
    )
    snapshot_reserve_percent: Annotated[int, Field(ge=0, le=90)] | None = Field(
        default=None, description="How much of the volume is kept for its snapshots."
    )
    compression: bool | None = Field(default=None, description="Compress what was written.")
    inline_compression: bool | None = Field(
        default=None, description="Compress what is being written."
    )
    caching_policy: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, description="How the storage caches it, in its own words."
    )
    junction_path: JunctionPath | None = Field(
        default=None, description="Where it is mounted in the backend's name space."
    )


class NewVolumeSettings(VolumeSettings):
    """The same of a volume to be made."""

    aggregate: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        default=None, description="The aggregate that it shall be on; the emptiest if absent."
    )


class CreateParams(Params):
    """What a new volume shall be."""

    size_bytes: Size = Field(
        validation_alias=_size, description="Size of the volume; rounded up to the backend's grain."
    )
    metadata: Metadata = Field(default_factory=dict)
    parameters: OwnParameters = None
    settings: NewVolumeSettings | None = Field(default=None, description="What is not usual.")


class CloneParams(Params):
    """What to clone; the job's ``volume`` is the new one, ``snapshot`` one of the source's."""

    source: VolumeName = Field(description="The volume to clone.", examples=["golden"])
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=_size,
        description="Size of the clone, at least the source's; the source's if absent.",
    )
    metadata: CopiedMetadata = None
    parameters: dict[ParameterName, MetadataText] | None = Field(
        default=None, description=f"{_own}; the source's if absent."
    )


class CopyParams(Params):
    """What to copy from another backend; ``snapshot`` is one of the source's."""

    source: VolumeName = Field(description="The volume to copy.", examples=["golden"])
    source_backend: BackendName = Field(description="The backend that has it.")
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=_size,
        description="Size of the copy, at least the source's; the source's if absent.",
    )
    metadata: CopiedMetadata = None
    parameters: OwnParameters = None


class ImportParams(Params):
    """The image that a new volume shall hold."""

    image: ImageLocation = Field(
        description="Path of a file on the worker's host, or a URL (http, https); below what "
        "'transfer' in the configuration allows.",
        examples=["/srv/images/debian.raw"],
    )
    size_bytes: Size | None = Field(
        default=None,
        validation_alias=_size,
        description="Size of the volume, at least the image's, behind which there are zeroes; the "
        "image's if absent.",
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="What the image's SHA-256 must be; the volume is not made otherwise. Taken as "
        "checksum files have it, too: in capitals, behind 'sha256:', before the file's name.",
    )
    format: Literal["raw"] | None = Field(
        default=None,
        description="'raw': take the bytes as they are, even if they are an image in a format of "
        "its own (qcow2, VMDK …), compressed, an archive, text or nothing, which is refused "
        "otherwise.",
    )
    metadata: Metadata = Field(default_factory=dict)
    parameters: OwnParameters = None


class ExportParams(Params):
    """Where a volume's contents shall be written."""

    target: ImagePath = Field(
        description="Path of the file to be made on the worker's host, below what 'transfer' in "
        "the configuration allows. Nothing is overwritten.",
        examples=["/srv/exports/vm1.raw"],
    )


class GrowParams(Params):
    """The size a volume shall have."""

    size_bytes: Size = Field(
        validation_alias=_size, description="The new size, never a difference; above the present."
    )


class UpdateParams(Params):
    """What to change in a volume's metadata and settings: one of them at least."""

    metadata: dict[MetadataKey, MetadataText | None] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_METADATA,
        description="Entries to set; null removes an entry.",
        examples=[{"owner": "billing", "stage": None}],
    )
    settings: VolumeSettings | None = Field(
        default=None, description="Settings to change.", examples=[{"autosize_enabled": True}]
    )

    @model_validator(mode="after")
    def _something(self) -> UpdateParams:
        if self.metadata is None and not (self.settings and self.settings.model_fields_set):
            raise PydanticCustomError(
                "invalid_input", "give metadata or settings to change, or both of them"
            )
        return self


class SetInfoParams(Params):
    """The text that another system keeps with a volume."""

    info: MetadataText = Field(
        description="Kept in the volume's metadata under 'info' (Ganeti: VOL_METADATA).",
        examples=["originstname+web1"],
    )


class AdoptParams(Params):
    """Whether to adopt also what was ours before."""

    take_over: bool = Field(
        default=False,
        description="Also if it bears a stamp of ours that belongs to no volume of the inventory "
        "any more: it was forgotten, or the inventory was lost.",
    )


class RenameParams(Params):
    """What a volume shall be called."""

    new_name: VolumeName = Field(description="The name to take, which must be free.")


class RollbackParams(Params):
    """How to treat what is newer than the snapshot."""

    discard_newer: bool = Field(
        default=False, description="Also delete snapshots newer than the one rolled back to."
    )


class WipeParams(Params):
    """What part of a volume to wipe."""

    offset_bytes: Offset = Field(
        default=0,
        validation_alias=AliasChoices("offset_bytes", "offset"),
        description="Where to begin.",
    )
    length_bytes: Size | None = Field(
        default=None,
        validation_alias=AliasChoices("length_bytes", "length"),
        description="How much to overwrite; all up to the end if absent.",
    )


class RemoveParams(Params):
    """How to remove."""

    wipe: bool = Field(default=False, description="Overwrite the data with zeroes first.")


class ForgetParams(Params):
    """What must be so for it."""

    lost: bool = Field(
        default=False,
        description="Only if the storage was seen to have none; refused if it is there, or if "
        "this kind of storage cannot tell.",
    )
    force: bool = Field(
        default=False,
        description="Also while it is attached: the device stays, and nobody knows of it.",
    )


class BreakLockParams(Params):
    """Whose lock is meant."""

    owner: HostName | None = Field(
        default=None, description="The host that has it; whoever has it, if absent."
    )
    taken_at: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="When it was taken, as 'lock show' tells it."
    )


class ReconcileParams(Params):
    """What of a volume's record is taken from the storage."""

    what: Annotated[
        list[Literal["size", "metadata", "settings", "policy", "snapshots"]], Field(min_length=1)
    ] = Field(
        description="'size', 'metadata', 'settings', 'policy' (which it has), 'snapshots' (those "
        "that are gone are struck, those that bear a stamp of ours are recorded)."
    )


class RemoveOrphanParams(Params):
    """Which finding tells of it."""

    finding: Annotated[int, Field(ge=1)] = Field(
        description="The number of an open finding of the kind 'orphan', about a volume that the "
        "inventory had removed; older than the grace time.",
    )


class AttachParams(Params):
    """How to attach."""

    read_only: bool = Field(default=False, description="Refuse writes through this attachment.")


class DetachParams(Params):
    """How to detach."""

    force: bool = Field(
        default=False,
        description="Forget the attachment of a host that is dead; needs a reason and 'fenced'.",
    )
    fenced: bool = Field(
        default=False, description="Confirms that the dead host can no longer write."
    )


class OpenParams(Params):
    """How the host will use the volume."""

    exclusive: bool = Field(
        default=False, description="No other host may have it open at the same time."
    )


class PolicyParams(Params):
    """Who may mount the volumes that have the policy."""

    rules: RuleTexts = Field(default_factory=list)


class RulesParams(Params):
    """Who may mount the volumes that have the policy, instead of all that were named before."""

    rules: RuleTexts


class RuleParams(Params):
    """One rule; it is the same rule however it is written."""

    rule: RuleText


class VerifyBackendParams(Params):
    """What to do about the identity marker."""

    accept_identity: bool = Field(
        default=False,
        description="Take the marker that is found as this backend's own, or write one where "
        "there is none. Only after you have made sure that it is the right storage.",
    )


class Lane(StrEnum):
    """Which names an action must have to itself while it runs."""

    VOLUME = "volume"
    SOURCE = "source"  # params.source, on params.source_backend if there is that
    NEW_NAME = "new_name"  # params.new_name
    JUNCTION = "junction"  # params.settings.junction_path, if there is one
    POLICY = "policy"
    BACKEND = "backend"  # the backend's own state
    AUDIT = "audit"  # what audits of the backend write


def source_of(backend: str, params: Mapping[str, Any]) -> tuple[str, str] | None:
    """The backend and the name of the volume that is cloned or copied, if one is."""
    name = params.get("source")
    return None if name is None else (params.get("source_backend", backend), name)


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that can be done to storage."""

    name: str
    #: One line for the command line's help and the API's pages.
    summary: str
    #: What history says of it once done; formatted with the job's fields.
    audit: str
    params: type[Params] = NoParams
    role: Role = Role.OPERATOR
    volume: Need = Need.REQUIRED
    snapshot: Need = Need.NO
    policy: Need = Need.NO
    host: Need = Need.NO
    #: The names held while the job is unfinished; an action without lanes only reads.
    lanes: tuple[Lane, ...] = (Lane.VOLUME,)
    #: What the driver must be able to do; None: the inventory alone is concerned.
    capability: str | None = None
    #: Refused while another host holds the volume's lock.
    respects_lock: bool = False
    #: Runs only if the unfinished jobs before it in its lane succeed.
    destructive: bool = False
    #: Makes something new, which is taken away again if the job fails or is canceled.
    creates: bool = False
    #: Takes into the inventory what is on the storage; that stays, whatever becomes of the job.
    adopts: bool = False
    #: Can be stopped anywhere: what was done until then stays, and is told.
    stoppable: bool = False
    #: Must run on the job's host.
    on_host: bool = False
    #: A person has to approve each job before it begins.
    approval: bool = False
    #: Leaves files on the host, whatever the backend: it is done on one host from the beginning.
    leaves_files: bool = False
    #: Reads a volume that may be in use (of a clone its source): where another host may write to
    #: it meanwhile, only that one can read it whole.
    reads_in_use: bool = False
    #: May take long even on a quick backend: claimed alone, not in a group.
    slow: bool = False
    #: Seconds that one attempt may take.
    time_limit: float = 3600.0
    #: Runs whatever the backend's state, on the queue that every worker serves.
    administrative: bool = False
    #: A schedule may have it done, with any parameters except those that only a person may give.
    schedulable: bool = False
    by_hand: tuple[str, ...] = ()
    #: Method and path below ``/v1/backends/{backend}``.
    route: tuple[str, str]

    @property
    def kind(self) -> str:
        """``volume``, ``snapshot``, ``policy`` or ``backend``."""
        return self.name.partition(".")[0]

    @property
    def cancelable(self) -> bool:
        """Whether it may be canceled at any safe point, also once storage was touched."""
        return self.creates or self.stoppable

    @property
    def verb(self) -> str:
        """The part after the dot."""
        return self.name.partition(".")[2]


_DECLARED = (
    Action(
        name="volume.create",
        summary="Make a new, empty volume.",
        audit="created volume {volume}",
        params=CreateParams,
        policy=Need.OPTIONAL,
        lanes=(Lane.VOLUME, Lane.JUNCTION),
        capability="create",
        creates=True,
        route=("POST", "/volumes"),
    ),
    Action(
        name="volume.clone",
        summary="Make a new volume with the contents of another, or of a snapshot of it.",
        audit="cloned volume {volume}",
        params=CloneParams,
        snapshot=Need.OPTIONAL,
        lanes=(Lane.VOLUME, Lane.SOURCE),
        capability="clone",
        reads_in_use=True,
        creates=True,
        slow=True,
        route=("POST", "/volumes/{volume}/clone"),
    ),
    Action(
        name="volume.copy",
        summary="Make a new volume with the contents of one on another backend.",
        audit="copied volume {volume}",
        params=CopyParams,
        snapshot=Need.OPTIONAL,
        lanes=(Lane.VOLUME, Lane.SOURCE),
        capability="import",
        creates=True,
        slow=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/copy"),
    ),
    Action(
        name="volume.import",
        summary="Make a new volume with the contents of an image in a file or at a URL.",
        audit="imported volume {volume}",
        params=ImportParams,
        host=Need.OPTIONAL,
        on_host=True,
        capability="import",
        creates=True,
        slow=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/import"),
    ),
    Action(
        name="volume.export",
        summary="Write the contents of a volume, or of a snapshot of it, into a new file.",
        audit="exported volume {volume}",
        params=ExportParams,
        snapshot=Need.OPTIONAL,
        host=Need.OPTIONAL,
        on_host=True,
        leaves_files=True,
        capability="export",
        stoppable=True,
        slow=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/export"),
    ),
    Action(
        name="volume.grow",
        summary="Make a volume larger.",
        audit="grew volume {volume}",
        params=GrowParams,
        capability="grow",
        route=("POST", "/volumes/{volume}/grow"),
    ),
    Action(
        name="volume.update",
        summary="Change a volume's metadata or settings.",
        audit="changed volume {volume}",
        params=UpdateParams,
        lanes=(Lane.VOLUME, Lane.JUNCTION),
        capability="metadata",
        route=("POST", "/volumes/{volume}/update"),
    ),
    Action(
        name="volume.set_info",
        summary="Keep a text with a volume on behalf of another system.",
        audit="set the info text of volume {volume}",
        params=SetInfoParams,
        capability="metadata",
        route=("POST", "/volumes/{volume}/set_info"),
    ),
    Action(
        name="volume.rename",
        summary="Give a volume another name.",
        audit="renamed volume {volume}",
        params=RenameParams,
        lanes=(Lane.VOLUME, Lane.NEW_NAME),
        capability="rename",
        respects_lock=True,
        route=("POST", "/volumes/{volume}/rename"),
    ),
    Action(
        name="volume.rollback",
        summary="Put a volume back to what a snapshot holds.",
        audit="rolled volume {volume} back to snapshot {snapshot}",
        params=RollbackParams,
        snapshot=Need.REQUIRED,
        capability="rollback",
        respects_lock=True,
        destructive=True,
        slow=True,
        route=("POST", "/volumes/{volume}/rollback"),
    ),
    Action(
        name="volume.wipe",
        summary="Overwrite a volume, or a part of it, with zeroes.",
        audit="wiped volume {volume}",
        params=WipeParams,
        stoppable=True,
        capability="wipe",
        respects_lock=True,
        destructive=True,
        slow=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/wipe"),
    ),
    Action(
        name="volume.restrict",
        summary="Hide a volume and keep its data.",
        audit="restricted volume {volume}",
        respects_lock=True,
        destructive=True,
        route=("POST", "/volumes/{volume}/restrict"),
    ),
    Action(
        name="volume.unrestrict",
        summary="Bring a hidden volume back.",
        audit="brought volume {volume} back",
        role=Role.ADMIN,
        route=("POST", "/volumes/{volume}/unrestrict"),
    ),
    Action(
        name="volume.remove",
        summary="Remove a volume and its data.",
        audit="removed volume {volume}",
        params=RemoveParams,
        capability="remove",
        respects_lock=True,
        destructive=True,
        time_limit=24 * 3600.0,
        route=("DELETE", "/volumes/{volume}"),
    ),
    Action(
        name="volume.purge",
        summary="Remove a restricted volume and its data.",
        audit="purged volume {volume}",
        params=RemoveParams,
        role=Role.ADMIN,
        capability="remove",
        respects_lock=True,
        destructive=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/purge"),
    ),
    Action(
        name="volume.forget",
        summary="Strike a volume from the inventory without touching the storage.",
        audit="forgot volume {volume}",
        params=ForgetParams,
        role=Role.ADMIN,
        respects_lock=True,
        destructive=True,
        route=("POST", "/volumes/{volume}/forget"),
    ),
    Action(
        name="volume.adopt",
        summary="Take a volume that is on the storage and not ours into the inventory.",
        audit="adopted volume {volume}",
        params=AdoptParams,
        role=Role.ADMIN,
        capability="adopt",
        adopts=True,
        route=("POST", "/volumes/{volume}/adopt"),
    ),
    Action(
        name="volume.reconcile",
        summary="Make a volume's record say what the storage has.",
        audit="made the record of volume {volume} what the storage has",
        params=ReconcileParams,
        role=Role.ADMIN,
        capability="inspect",
        route=("POST", "/volumes/{volume}/reconcile"),
    ),
    Action(
        name="volume.recreate",
        summary="Make a volume anew, empty, whose storage is lost; its snapshots are struck.",
        audit="made volume {volume} anew, empty",
        role=Role.ADMIN,
        capability="absence",
        respects_lock=True,
        destructive=True,
        approval=True,
        route=("POST", "/volumes/{volume}/recreate"),
    ),
    Action(
        name="volume.remove_orphan",
        summary="Remove storage that was left of a volume which the inventory has removed.",
        audit="removed what was left of volume {volume}",
        params=RemoveOrphanParams,
        role=Role.ADMIN,
        capability="remove",
        destructive=True,
        time_limit=24 * 3600.0,
        route=("POST", "/volumes/{volume}/remove_orphan"),
    ),
    Action(
        name="volume.break_lock",
        summary="Break the lock on a volume, whoever holds it.",
        audit="broke the lock on volume {volume}",
        params=BreakLockParams,
        role=Role.ADMIN,
        lanes=(),
        route=("POST", "/volumes/{volume}/break_lock"),
    ),
    Action(
        name="volume.verify",
        summary="Compare a volume's record with the storage; one in error may be available again.",
        audit="verified volume {volume}",
        host=Need.OPTIONAL,
        on_host=True,
        capability="inspect",
        schedulable=True,
        route=("POST", "/volumes/{volume}/verify"),
    ),
    Action(
        name="volume.attach",
        summary="Make a volume usable on a host.",
        audit="attached volume {volume} to {host}",
        params=AttachParams,
        host=Need.REQUIRED,
        capability="attach",
        on_host=True,
        route=("PUT", "/volumes/{volume}/attachments/{host}"),
    ),
    Action(
        name="volume.detach",
        summary="Take a volume away from a host.",
        audit="detached volume {volume} from {host}",
        params=DetachParams,
        host=Need.REQUIRED,
        capability="attach",
        respects_lock=True,
        on_host=True,
        route=("DELETE", "/volumes/{volume}/attachments/{host}"),
    ),
    Action(
        name="volume.open",
        summary="Let a host use an attached volume.",
        audit="opened volume {volume} on {host}",
        params=OpenParams,
        host=Need.REQUIRED,
        capability="open",
        on_host=True,
        route=("POST", "/volumes/{volume}/attachments/{host}/open"),
    ),
    Action(
        name="volume.close",
        summary="End a host's use of an attached volume.",
        audit="closed volume {volume} on {host}",
        host=Need.REQUIRED,
        capability="open",
        on_host=True,
        route=("POST", "/volumes/{volume}/attachments/{host}/close"),
    ),
    Action(
        name="snapshot.create",
        summary="Keep the present contents of a volume under a name.",
        audit="made snapshot {snapshot} of volume {volume}",
        snapshot=Need.REQUIRED,
        capability="snapshot",
        reads_in_use=True,
        creates=True,
        slow=True,
        schedulable=True,
        route=("POST", "/volumes/{volume}/snapshots"),
    ),
    Action(
        name="snapshot.delete",
        summary="Delete a snapshot.",
        audit="deleted snapshot {snapshot} of volume {volume}",
        snapshot=Need.REQUIRED,
        capability="snapshot",
        respects_lock=True,
        route=("DELETE", "/volumes/{volume}/snapshots/{snapshot}"),
    ),
    Action(
        name="policy.create",
        summary="Make an export policy.",
        audit="made export policy {policy}",
        params=PolicyParams,
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        creates=True,
        route=("POST", "/policies"),
    ),
    Action(
        name="policy.remove",
        summary="Remove an export policy that no volume has.",
        audit="removed export policy {policy}",
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        destructive=True,
        route=("DELETE", "/policies/{policy}"),
    ),
    Action(
        name="policy.add_rule",
        summary="Add a rule at the end of an export policy, unless it is there.",
        audit="added a rule to export policy {policy}",
        params=RuleParams,
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        route=("POST", "/policies/{policy}/add_rule"),
    ),
    Action(
        name="policy.remove_rule",
        summary="Take a rule out of an export policy, if it is there.",
        audit="took a rule out of export policy {policy}",
        params=RuleParams,
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        route=("POST", "/policies/{policy}/remove_rule"),
    ),
    Action(
        name="policy.set_rules",
        summary="Replace the rules of an export policy.",
        audit="replaced the rules of export policy {policy}",
        params=RulesParams,
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        route=("PUT", "/policies/{policy}/rules"),
    ),
    Action(
        name="policy.assign",
        summary="Give a volume an export policy, or take its own away if none is named.",
        audit="gave volume {volume} the export policy {policy}",
        policy=Need.OPTIONAL,
        capability="policy",
        respects_lock=True,
        route=("PUT", "/volumes/{volume}/policy"),
    ),
    Action(
        name="policy.reapply",
        summary="Make the storage's rules of an export policy what is recorded.",
        audit="applied export policy {policy} anew",
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        route=("POST", "/policies/{policy}/reapply"),
    ),
    Action(
        name="policy.verify",
        summary="Compare an export policy with the storage; one in error becomes what it is.",
        audit="verified export policy {policy}",
        volume=Need.NO,
        policy=Need.REQUIRED,
        lanes=(Lane.POLICY,),
        capability="policy",
        route=("POST", "/policies/{policy}/verify"),
    ),
    Action(
        name="volume.client_locks",
        summary="Ask the storage which clients hold locks on what is in a volume.",
        audit="read the client locks of volume {volume}",
        lanes=(),
        capability="client_locks",
        route=("POST", "/volumes/{volume}/client_locks"),
    ),
    Action(
        name="backend.refresh",
        summary="Read a backend's capacity and the use of its volumes anew.",
        audit="refreshed backend {backend}",
        volume=Need.NO,
        lanes=(),
        schedulable=True,
        route=("POST", "/refresh"),
    ),
    Action(
        name="backend.verify",
        summary="Check that a backend is reachable and bears its identity marker.",
        audit="verified backend {backend}",
        params=VerifyBackendParams,
        role=Role.ADMIN,
        volume=Need.NO,
        lanes=(),
        schedulable=True,
        by_hand=("accept_identity",),
        route=("POST", "/verify"),
    ),
    Action(
        name="backend.audit",
        summary="Compare what a backend really has with the inventory; write findings.",
        audit="audited backend {backend}",
        schedulable=True,
        volume=Need.NO,
        host=Need.OPTIONAL,
        on_host=True,
        lanes=(Lane.AUDIT,),
        stoppable=True,
        slow=True,
        time_limit=24 * 3600.0,
        route=("POST", "/audit"),
    ),
    Action(
        name="backend.recount",
        summary="Count anew what a backend has promised.",
        audit="counted anew what backend {backend} has promised",
        role=Role.ADMIN,
        volume=Need.NO,
        lanes=(Lane.AUDIT,),
        route=("POST", "/recount"),
    ),
    Action(
        name="backend.diagnose",
        summary="Tell of everything that could serve a backend whether it can, and why not.",
        audit="diagnosed backend {backend}",
        volume=Need.NO,
        host=Need.OPTIONAL,
        lanes=(),
        capability="diagnose",
        on_host=True,
        route=("POST", "/diagnose"),
    ),
    Action(
        name="backend.drain",
        summary="Let a backend finish what was begun and start nothing more.",
        audit="set backend {backend} to draining",
        role=Role.ADMIN,
        volume=Need.NO,
        lanes=(Lane.BACKEND,),
        administrative=True,
        route=("POST", "/drain"),
    ),
    Action(
        name="backend.resume",
        summary="Let a draining backend take work again.",
        audit="resumed backend {backend}",
        role=Role.ADMIN,
        volume=Need.NO,
        lanes=(Lane.BACKEND,),
        administrative=True,
        route=("POST", "/resume"),
    ),
)

#: Every action by name.
ACTIONS: dict[str, Action] = {action.name: action for action in _DECLARED}
