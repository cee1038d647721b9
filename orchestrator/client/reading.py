"""From documents to answers: the types of the contract."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from orchestrator.contract.answers import Answer
from orchestrator.domain.errors import Unavailable

A = TypeVar("A", bound=Answer)


class Methods:
    """Base of the client's methods."""

    #: Whether the service has answered anything yet.
    _answered: bool

    def _read(self, kind: type[A], document: Any) -> A:
        """The answer that a document holds. Raises `Unavailable` if it is none of the kind."""
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            raise Unavailable(
                f"the service's answer is no {kind.__name__} to this version of the client: {error}"
            ) from None
