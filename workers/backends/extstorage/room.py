"""The driver's own directory on a host: its logs, who works on what, what is attached."""

from __future__ import annotations

from pathlib import Path

from orchestrator.domain.errors import BackendUnavailable


def made(directory: Path) -> Path:
    """The directory, which is there then. Raises `BackendUnavailable` if it cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendUnavailable(
            f"{directory} cannot be made: {error.strerror}; 'path' of the backend names the "
            "driver's own directory"
        ) from error
    return directory
