"""The base of what the service answers, pages of lists, and error documents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


class _Open:
    """What a newer version of the service may add to: tried as declared, then as any text."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return _or_text(source, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        closed: JsonSchemaValue = handler(schema)["anyOf"][0]
        return closed


@dataclass(frozen=True)
class _OpenText:
    """The same of a field that is a text to whom reads the OpenAPI document."""

    vocabulary: type[Enum]

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        members = list(self.vocabulary)
        closed = core_schema.enum_schema(self.vocabulary, members, sub_type="str")
        return _or_text(self.vocabulary, closed)

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string"}


def _or_text(source: Any, closed: CoreSchema) -> CoreSchema:
    text: CoreSchema = core_schema.str_schema()
    if isinstance(source, type) and issubclass(source, Enum):
        text = core_schema.no_info_after_validator_function(partial(_member, source), text)
    return core_schema.union_schema([closed, text], mode="left_to_right")


def _member(vocabulary: Any, text: str) -> Any:
    member = str.__new__(vocabulary, text)
    member._name_, member._value_ = text.upper(), text
    return member


#: A vocabulary, declared as it is known here. A value that is not known becomes a member that
#: equals its text, so that a client outlives a newer service.
Open = Annotated[T, _Open()]

if TYPE_CHECKING:
    OpenText = Annotated[T, ...]
else:

    class OpenText:
        """The same where the OpenAPI document says only that it is a text."""

        def __class_getitem__(cls, vocabulary: type[Enum]) -> Any:
            """The annotation of a field."""
            return Annotated[str, _OpenText(vocabulary)]


class Answer(BaseModel):
    """Base of all answers; fields that are not known are ignored."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema, in which a field that refers to a vocabulary has no title of its own."""
        written = handler(schema)
        for field in handler.resolve_ref_schema(written).get("properties", {}).values():
            if "$ref" in field:
                field.pop("title", None)
        return written


class Page(Answer, Generic[T]):
    """One page of a list."""

    items: list[T]
    cursor: str | None = Field(
        description="Send as `cursor` to get the next page; null: this is the last."
    )


class ProblemDocument(BaseModel):
    """An error (RFC 9457), with a stable code and a sentence that says what to do."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The size is not allowed."])
    status: int = Field(examples=[422])
    code: str = Field(description="Stable; programs act on this.", examples=["invalid_size"])
    detail: str = Field(description="What happened and what to do.")
    field: str | None = Field(default=None, description="The part of the request at fault.")
