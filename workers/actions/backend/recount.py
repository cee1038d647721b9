"""Count what a backend has promised."""

from __future__ import annotations

from sqlalchemy import select

from orchestrator.actions.backend.recount import RECOUNT
from orchestrator.inventory import promises
from orchestrator.resources.changes import Recounted
from orchestrator.store.tables import promises as promised
from workers.execution.handler import Handler
from workers.execution.work import Done, Work


def recount(work: Work) -> Done:
    """Recount what a backend has promised."""
    backend_id = work.claim.backend_id
    with work.database.read() as transaction:
        kept = transaction.execute(
            select(promised.c.promised_bytes).where(promised.c.backend_id == backend_id)
        ).scalar()
        counted = promises.counted(transaction, backend_id)
    return Done(
        result={"promised_bytes": counted},
        changes=[Recounted(backend_id)],
        before={"promised_bytes": kept},
        after={"promised_bytes": counted},
    )


HANDLERS = (Handler(RECOUNT, recount),)
