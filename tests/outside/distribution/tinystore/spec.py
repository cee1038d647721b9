"""What is known of the `tiny` driver without importing it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from orchestrator.domain.drivers import DriverOptions, DriverSpec, Reach


class TinyOptions(DriverOptions):
    """Options of the ``tiny`` driver."""

    path: Path = Field(description="The directory that holds the files.")


SPEC = DriverSpec(
    name="tiny",
    target="tinystore.driver:TinyDriver",
    capabilities=frozenset({"create", "inspect", "remove", "absence", "grow"}),
    options=TinyOptions,
    thin=True,
    overcommit=10.0,
    group=10,
    reach=Reach.BACKEND,
)
