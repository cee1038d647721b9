"""Jobs and batches as JSON, outside of what FastAPI renders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.contract.answers import Answer
from orchestrator.contract.jobs import Batch, Job

_MODELS: dict[str, type[Answer]] = {"job": Job, "batch": Batch}


def render(kind: str, view: Mapping[str, Any]) -> bytes:
    """The JSON of the view of a ``job`` or a ``batch``."""
    return _MODELS[kind].model_validate(view).model_dump_json().encode()
