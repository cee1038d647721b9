"""The Python client: the service's calls as methods, blocking or awaited.

    from orchestrator.client import Client

    with Client() as client:
        job = client.submit("volume.create", "fast", volume="vm1", size="10G", wait=60)

Refusals are raised as the classes of `orchestrator.domain.errors`.
"""

from orchestrator.client.drivers import AsyncClient, Client
from orchestrator.client.listings import AsyncListing, Listing
from orchestrator.client.local import LocalEndpoint
from orchestrator.client.waiting import ended

__all__ = ["AsyncClient", "AsyncListing", "Client", "Listing", "LocalEndpoint", "ended"]
