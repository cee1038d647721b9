"""The resources that there are."""

from __future__ import annotations

from orchestrator.resources.policy.resource import Policy
from orchestrator.resources.resource import Resource
from orchestrator.resources.snapshot.resource import Snapshot
from orchestrator.resources.volume.resource import Volume

#: Every kind by its name; what others refer to comes before them.
RESOURCES: dict[str, Resource] = {
    resource.kind: resource for resource in (Volume(), Snapshot(), Policy())
}
