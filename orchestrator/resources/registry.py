"""The resources that there are."""

from __future__ import annotations

from orchestrator.resources.policy import Policy
from orchestrator.resources.resource import Resource
from orchestrator.resources.snapshot import Snapshot
from orchestrator.resources.volume import Volume

#: Every kind by its name; what others refer to comes before them.
RESOURCES: dict[str, Resource] = {
    resource.kind: resource for resource in (Volume(), Snapshot(), Policy())
}
