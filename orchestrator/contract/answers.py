"""The base of what the service answers, pages of lists, and error documents."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore")


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
