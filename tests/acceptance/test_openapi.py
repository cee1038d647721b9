"""The OpenAPI document is true: what it describes is what the service does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.acceptance.conftest import Product

#: Requests made up for each operation, each time and with the slow tests.
FEW, MANY = 1, 12
#: The stream of events has no end, so it cannot be asked for like the others.
ENDLESS = "/v1/events"

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of its own: made-up requests may drain a backend."""
    made = Product(tmp_path_factory.mktemp("fuzzed"))
    made.start()
    yield made
    made.stop()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_answers_are_as_documented(
    fuzzed: Product, subtests: pytest.Subtests, examples: int
) -> None:
    headers = {"Authorization": f"Bearer {fuzzed.token}"}
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path == ENDLESS:
            continue
        tried += 1
        for mode in schemathesis.GenerationMode:
            with subtests.test(operation.label, mode=mode.value):
                _try(operation, mode, headers, examples)
    assert tried > 40


def _try(
    operation: schemathesis.schemas.APIOperation,
    mode: schemathesis.GenerationMode,
    headers: dict[str, str],
    examples: int,
) -> None:
    """Requests that the document allows, and such that it does not."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        # A made-up wish to wait for an hour would be granted.
        for name in list(case.headers or {}):
            if name.lower() == "prefer":
                del case.headers[name]
        if "timeout" in (case.query or {}):
            case.query["timeout"] = 0
        case.call_and_validate(headers=headers, checks=CHECKS)

    # An operation without anything to get wrong has no wrong requests.
    nothing_to_get_wrong = mode is schemathesis.GenerationMode.NEGATIVE
    with suppress(Unsatisfiable) if nothing_to_get_wrong else nullcontext():
        check()
