"""The drivers that a worker makes of its configuration."""

from dataclasses import replace

import pytest

from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.installed import DRIVERS
from workers.backends.memory.spec import MemoryOptions
from workers.serving import make_driver


def test_a_driver_that_is_not_as_its_spec_declares_it_is_refused_and_both_are_named() -> None:
    spec = DRIVERS["memory"]
    other = replace(spec, capabilities=spec.capabilities - {"grow"} | {"diagnose"})
    with pytest.raises(InvalidInput) as refused:
        make_driver("fast", other, MemoryOptions(), "0" * 32)
    assert refused.value.detail == (
        "the spec of the driver 'memory' declares diagnose and does not declare grow, unlike its "
        "class workers.backends.memory.driver:MemoryDriver: the two must have the same capabilities"
    )
