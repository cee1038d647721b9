"""Checks of ours as pydantic's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic_core import PydanticCustomError

from orchestrator.domain.errors import InvalidInput

A = TypeVar("A")
B = TypeVar("B")


def checked(check: Callable[[A], B]) -> Callable[[A], B]:
    """The same check for a validator: what is invalid becomes an error of pydantic's, with the
    problem's code and sentence."""

    def validate(written: A) -> B:
        try:
            return check(written)
        except InvalidInput as problem:
            raise PydanticCustomError(problem.code, "{why}", {"why": problem.detail}) from None

    return validate
