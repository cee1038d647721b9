"""What is sent is taken for what it is: no text for a number, no truth value for either."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Exact(BaseModel):
    """Base of all bodies: unknown fields and values of another type are refused.

    A whole number may be written ``5.0``: what reads the JSON makes an integer of it
    (`orchestrator.api.reading.read_json`).
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Written(BaseModel):
    """The last base of a model whose values all come as text, as in a query."""

    model_config = ConfigDict(strict=False)
