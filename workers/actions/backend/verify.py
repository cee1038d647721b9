"""Check a backend's marker, and what the storage itself can check; or take the storage over."""

from __future__ import annotations

import uuid

from sqlalchemy import select

from orchestrator.actions.backend.verify import VERIFY
from orchestrator.domain.errors import Conflict, IdentityMismatch
from orchestrator.resources.changes import set_backend
from orchestrator.store.tables import backends
from workers.actions.backend.refresh import refreshed
from workers.execution.handler import Handler
from workers.execution.work import Done, Work


def verify_backend(work: Work) -> Done:
    """Check the marker, and what the storage itself can check; with ``accept_identity``, take
    the storage over."""
    wanted = work.claim.identity
    if "identity" in work.driver.cannot_tell:
        work.driver.read_identity()  # it is there
        found = wanted or uuid.uuid4().hex
    elif work.intent.params.get("accept_identity"):
        found = _accepted(work)
    else:
        found = _verified(work)
    work.driver.check(work)
    looked = refreshed(work)
    marker = set_backend(work.claim.backend_id, identity=found, identity_written=True, error=None)
    return Done(
        result={"identity": found, **looked.result},
        changes=[marker, *looked.changes],
        before={"identity": wanted},
        after={"identity": found},
    )


def _verified(work: Work) -> str:
    """The marker, which is this backend's own."""
    found = work.driver.read_identity()
    if found is None or found != work.claim.identity:
        what = "no identity marker" if found is None else "another marker"
        raise IdentityMismatch(
            f"the storage bears {what}. Make sure that it is the right storage; then "
            f"'orchestrator backend verify {work.intent.backend} accept_identity=true' "
            "takes it as this backend's own"
        )
    work.here.storage.check(work.claim.backend_id, work.claim.leases)
    return found


def _accepted(work: Work) -> str:
    """The marker that the storage bears once it was taken over, a new one if it was not ours.

    Whoever wrote there before finds neither its marker nor its lease any more.
    """
    backend_id, storage = work.claim.backend_id, work.here.storage
    empty = False
    try:
        found = work.driver.read_identity()
    except IdentityMismatch:
        pass  # a copy of another storage
    else:
        empty = found is None
        if found is not None and found == work.claim.identity and storage.is_ours(backend_id):
            storage.check(backend_id, work.claim.leases)
            return found
        _refuse_shared(work, found)
    marker = uuid.uuid4().hex
    if empty:
        # There is no room for a lease before something is set up. Refused if somebody else was
        # quicker.
        work.driver.write_identity(marker)
    storage.take_over(backend_id, "an administrator has accepted it", work.checkpoint)
    if not empty:
        work.driver.write_identity(marker, replace=True)
    return marker


def _refuse_shared(work: Work, marker: str | None) -> None:
    """Refuse storage that is another backend's: each would take the other's volumes for its own."""
    if marker is None:
        return
    query = select(backends.c.name).where(
        backends.c.identity == marker,
        backends.c.id != work.claim.backend_id,
        backends.c.configured,
    )
    other = work.database.look(lambda transaction: transaction.execute(query).scalar())
    if other is not None:
        raise Conflict(
            f"the storage is that of backend {other}: two backends must not share storage. Give "
            f"backend {work.intent.backend} storage of its own, or take {other} out of the "
            "configuration first"
        )


HANDLERS = (Handler(VERIFY, verify_backend),)
