"""The Python client: the service's calls as methods, blocking or awaited.

    from orchestrator.client import Client

    with Client() as client:
        job = client.volume.create("fast", "vm1", size="10G", wait=60)
        job.raise_for_state()

Answers are the types of `orchestrator.contract`; refusals are raised as the classes of
`orchestrator.domain.errors`.
"""

from orchestrator.client.listings import AsyncListing, Listing
from orchestrator.client.local import LocalEndpoint
from orchestrator.client.runners import AsyncClient, Client, DocumentClient

__all__ = ["AsyncClient", "AsyncListing", "Client", "DocumentClient", "Listing", "LocalEndpoint"]
