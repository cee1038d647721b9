"""What is known of the `file` driver without importing it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from orchestrator.domain.drivers import DriverOptions, DriverSpec, Reach


class FileOptions(DriverOptions):
    """Options of the ``file`` driver."""

    path: Path = Field(description="The directory that holds the images.")


SPEC = DriverSpec(
    name="file",
    target="workers.backends.file.driver:FileDriver",
    capabilities=frozenset(
        {
            *("create", "import", "export", "clone", "grow", "metadata", "rename", "rollback"),
            *("wipe", "remove", "inspect", "snapshot", "attach", "attach_read_only", "open"),
            *("adopt", "trim", "absence"),
        }
    ),
    options=FileOptions,
    thin=True,
    overcommit=20.0,
    group=25,
    reach=Reach.HOST,
)
