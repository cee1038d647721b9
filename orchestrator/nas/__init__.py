"""The NAS contract: volumes, snapshots, locks and export policies behind plain methods.

    from orchestrator.nas import StorageBackend

    storage = StorageBackend(backend="fast")
    storage.create_volume("vol1", size_total=2**30)

Each call submits the jobs it needs and waits for their end. What is not found is a
`KeyError`, what is invalid or in the way a `ValueError`, with a sentence that says what to do.
"""

from orchestrator.nas.edges.storage import DummyStorage, NetappStorage, StorageBackend
from orchestrator.nas.edges.v3 import NasApp
from orchestrator.nas.returned import (
    ValidationError,
    annotate_exception,
    normalised_with,
    patch_and_diff,
)

__all__ = [
    "DummyStorage",
    "NasApp",
    "NetappStorage",
    "StorageBackend",
    "ValidationError",
    "annotate_exception",
    "normalised_with",
    "patch_and_diff",
]
