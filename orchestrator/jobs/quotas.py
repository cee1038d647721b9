"""The quotas that a submission may touch: locked, and looked at."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.actions.quotas import COUNTED
from orchestrator.actions.requests import JobRequest
from orchestrator.domain.outlook import Outlook, QuotaOutlook
from orchestrator.inventory.usage import limits_of, locked_quotas, usages
from orchestrator.store.transaction import Transaction


def take_quotas(
    transaction: Transaction, outlook: Outlook, asked: Iterable[tuple[JobRequest, str]]
) -> None:
    """Put the quotas into the outlook that these requests (and who asks: an account) may touch.

    Their rows stay locked until the commit: of two who submit for one account, the second sees
    what the first has submitted. Workers need no lock. In the one commit in which a job ends,
    what it had promised becomes what it has made, or nothing: the sum never grows by that. And
    `usages` is one statement, which sees a job either unfinished or with what it has made,
    never in between. What does make a sum grow without being asked here is a fact that the
    storage tells: the size of an adopted volume, a coarser grain. That is counted from then on.
    """
    adding = [(one, account) for one, account in asked if one.declaration.adds]
    if not adding:
        return
    accounts = {account for _, account in adding}
    accounts |= {one.account for one in outlook.volumes.values() if one.account is not None}
    accounts |= {
        intent.account
        for later in outlook.later.values()
        for _, _, intent in later
        if intent.account is not None
    }
    names = {
        backend.id: backend.name
        for backend in outlook.backends.values()
        if backend.name in {one.backend for one, _ in adding}
    }
    [rows] = transaction.ask(locked_quotas(accounts, names))
    if not rows:
        return
    found = usages(transaction, {row["account"] for row in rows})
    for row in rows:
        key = row["account"], row["backend_id"]
        outlook.quotas[row["account"], names[row["backend_id"]]] = QuotaOutlook(
            limits={
                counted: limit for counted, limit in limits_of(row).items() if limit is not None
            },
            used={counted: found[key].used[counted] for counted in COUNTED},
            promised={counted: found[key].promised[counted] for counted in COUNTED},
        )
