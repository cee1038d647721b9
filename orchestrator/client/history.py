"""The client's methods for events, tokens, the queue as a whole and the list of actions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.client.binding import listing, operation, stream
from orchestrator.client.kinds import (
    ACTION_DESCRIPTION,
    EVENT,
    EVENT_PAGE,
    FOLLOWED_EVENT,
    NEW_TOKEN,
    QUEUE,
    STATUS,
    TOKEN,
)
from orchestrator.client.listings import PAGE, Query
from orchestrator.client.methods import Methods
from orchestrator.client.resending import back_off
from orchestrator.client.steps import (
    Item,
    NextLine,
    Open,
    Pause,
    Request,
    Steps,
    StreamSteps,
    given,
    path_to,
)
from orchestrator.domain.errors import Gone, Unavailable

if TYPE_CHECKING:
    from orchestrator.contract.events import Event, EventPage, FollowedEvent
    from orchestrator.contract.service import ActionDescription, NewToken, Queue, Status, Token

#: A stream this silent, in seconds, is broken: the service sends a sign of life each 15.
_SILENCE = 45.0


class HistoryMethods(Methods):
    """Events are numbered without gaps: who follows the numbers misses nothing."""

    @operation
    def event_page(
        self,
        after: int | None = None,
        *,
        epoch: int | None = None,
        last: int | None = None,
        limit: int | None = None,
        kind: str | None = None,
        backend: str | None = None,
        volume: str | None = None,
        job: int | None = None,
    ) -> Steps[EventPage]:
        """Up to ``limit`` events (100 if absent, 1000 at most) with numbers above ``after``.

        With ``last``, the newest so many instead, in their order. Without ``after`` it begins
        with the oldest that is left; with one, `Gone` is raised if later events have been
        archived. `EpochChanged` (a `Gone`) is raised if that is a number of another epoch than
        ``epoch``, or than the present one: the database was restored, and the error's facts
        tell the ``epoch`` and ``after`` to go on with.
        """
        filters = given(limit=limit, kind=kind, backend=backend, volume=volume, job_id=job)
        if last is not None:
            filters |= given(last=last)
        try:
            answer = yield _events(after or 0, filters, epoch)
        except Gone as gone:
            if after is not None or "oldest" not in gone.facts:
                raise
            answer = yield _events(gone.facts["oldest"] - 1, filters, epoch)
        return self._read(EVENT_PAGE, answer.body)

    @stream
    def events(
        self,
        after: int | None = None,
        *,
        epoch: int | None = None,
        kind: str | None = None,
        backend: str | None = None,
        volume: str | None = None,
        job: int | None = None,
    ) -> StreamSteps[Event]:
        """All events up to now, from the one after number ``after``; otherwise as `event_page`."""
        filters = given(limit=PAGE, kind=kind, backend=backend, volume=volume, job_id=job)
        while True:
            try:
                answer = yield _events(after or 0, filters, epoch)
            except Gone as gone:
                if after is not None or "oldest" not in gone.facts:
                    raise
                after = int(gone.facts["oldest"]) - 1
                continue
            page = answer.body
            for event in page["items"]:
                yield Item(self._read(EVENT, event))
            if len(page["items"]) < PAGE:
                return
            after, epoch = page["next_after"], page.get("epoch", epoch)

    @stream
    def follow_events(
        self,
        after: int | None = None,
        *,
        epoch: int | None = None,
        kind: str | None = None,
        backend: str | None = None,
        volume: str | None = None,
        job: int | None = None,
    ) -> StreamSteps[FollowedEvent]:
        """Events as they happen, without end, from the one after number ``after``.

        A connection that breaks is taken up again where it was left. Raises `Gone` if
        events after that have been archived, `EpochChanged` as `event_page` does,
        `Unavailable` if the service was never there.
        """
        filters = given(kind=kind, backend=backend, volume=volume, job_id=job)
        failures, opened = 0, False
        while True:
            try:
                yield Open(_stream_call(after, filters, epoch))
                opened = True
                data: list[str] = []
                while (line := (yield NextLine())) is not None:
                    failures = 0
                    if line.startswith("id:") and "-" in line:
                        epoch = int(line[3:].partition("-")[0])
                    elif line.startswith("data:"):
                        data.append(line[5:].removeprefix(" "))
                    elif not line and data:
                        event = json.loads("\n".join(data))
                        after, data = event["number"], []
                        if epoch is not None:
                            event["epoch"] = epoch
                        yield Item(self._read(FOLLOWED_EVENT, event))
            except Gone as gone:
                if after is not None or "oldest" not in gone.facts:
                    raise
                after = int(gone.facts["oldest"]) - 1
                continue
            except Unavailable:
                if not opened:
                    raise
            failures += 1
            yield Pause(back_off(failures))

    @listing
    def tokens(self) -> Query[Token]:
        """The valid tokens, without their secrets. Needs the role admin."""
        return Query(TOKEN, "/v1/tokens", paged=False)

    @operation
    def create_token(
        self,
        name: str,
        role: str = "operator",
        *,
        days: float | None = None,
        project: str | None = None,
    ) -> Steps[NewToken]:
        """Make a token for ``days`` days, or for ever. Only this answer tells it.

        What is made with it counts for the quota of ``project``; without, of its own
        name. Needs the role admin. Raises `AlreadyExists` if a valid token has this name.
        """
        wanted = {"name": name, "role": role, "days": days, "project": project}
        answer = yield Request(
            method="POST",
            path="/v1/tokens",
            json={field: value for field, value in wanted.items() if value is not None},
        )
        return self._read(NEW_TOKEN, answer.body)

    @operation
    def revoke_token(self, token: str) -> Steps[None]:
        """Make the token with this id invalid. Needs the role admin."""
        yield Request(method="DELETE", path=path_to("tokens", token))

    @operation
    def queue(self) -> Steps[Queue]:
        """Whether the service takes new jobs, and how many have not ended."""
        answer = yield Request(method="GET", path="/v1/queue", repeatable=True)
        return self._read(QUEUE, answer.body)

    @operation
    def drain_queue(self, *, reason: str | None = None) -> Steps[Queue]:
        """Have no new jobs taken; those there are go on. Needs the role admin."""
        return self._read(QUEUE, (yield from _queue("drain", reason)))

    @operation
    def resume_queue(self, *, reason: str | None = None) -> Steps[Queue]:
        """Have new jobs taken again. Needs the role admin."""
        return self._read(QUEUE, (yield from _queue("resume", reason)))

    @operation
    def status(self) -> Steps[Status]:
        """How the service is: version, queue, workers, backends, open findings."""
        answer = yield Request(method="GET", path="/v1/status", repeatable=True)
        return self._read(STATUS, answer.body)

    @listing
    def actions(self) -> Query[ActionDescription]:
        """The actions the service knows, with their parameters."""
        return Query(ACTION_DESCRIPTION, "/v1/actions", paged=False)


def _queue(verb: str, reason: str | None) -> Steps[Any]:
    # Done twice, it is the same: it may be repeated where an answer was lost.
    answer = yield Request(
        method="POST", path=f"/v1/queue/{verb}", json={"reason": reason}, repeatable=True
    )
    return answer.body


def _events(after: int, filters: dict[str, str], epoch: int | None) -> Request:
    return Request(
        method="GET",
        path="/v1/events",
        params={**filters, **given(after=after, epoch=epoch)},
        repeatable=True,
    )


def _stream_call(after: int | None, filters: dict[str, str], epoch: int | None) -> Request:
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after) if epoch is None else f"{epoch}-{after}"
    return Request(method="GET", path="/v1/events", params=filters, headers=headers, held=_SILENCE)
