"""The client's methods for quotas: the most that accounts may have, and what they have."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.client.binding import listing, operation
from orchestrator.client.kinds import ACCOUNT, QUOTA
from orchestrator.client.listings import Query
from orchestrator.client.methods import Methods
from orchestrator.client.steps import Request, Steps, given, path_to

if TYPE_CHECKING:
    from orchestrator.contract.quotas import Account, Quota


class QuotaMethods(Methods):
    """An account is a project of tokens, or the name of a token without one."""

    @listing
    def quotas(self, *, account: str | None = None, backend: str | None = None) -> Query[Quota]:
        """The quotas by account, with what is used of them."""
        return Query(QUOTA, "/v1/quotas", given(account=account, backend=backend))

    @operation
    def account(
        self,
        account: str,
        *,
        backend: str | None = None,
        at: datetime | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Steps[Account]:
        """What an account may have, has and has been promised, with a page of the rows.

        ``at``: what it held at that time.
        """
        when = at.isoformat() if isinstance(at, datetime) else at
        params = given(backend=backend, at=when, limit=limit, cursor=cursor)
        answer = yield Request(
            method="GET", path=path_to("quotas", account), params=params, repeatable=True
        )
        return self._read(ACCOUNT, answer.body)

    @operation
    def set_quota(
        self,
        account: str,
        backend: str,
        *,
        max_bytes: int | str | None = None,
        max_volumes: int | None = None,
        max_snapshots: int | None = None,
        reason: str | None = None,
    ) -> Steps[Quota]:
        """Set what an account may have on a backend, in place of any quota before.

        Needs the role admin.
        """
        wanted = {
            "max_bytes": max_bytes,
            "max_volumes": max_volumes,
            "max_snapshots": max_snapshots,
        }
        answer = yield Request(
            method="PUT",
            path=path_to("quotas", account, backend),
            json={name: value for name, value in wanted.items() if value is not None},
            headers=given(Reason=reason),
            repeatable=True,
        )
        return self._read(QUOTA, answer.body)

    @operation
    def remove_quota(self, account: str, backend: str, *, reason: str | None = None) -> Steps[None]:
        """Remove an account's quota on a backend. Needs the role admin.

        Raises `NotFound` if it has no quota there.
        """
        yield Request(
            method="DELETE", path=path_to("quotas", account, backend), headers=given(Reason=reason)
        )
