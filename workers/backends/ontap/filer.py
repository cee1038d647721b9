"""The connection to a filer: requests with a time limit, pages, and the filer's own jobs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import requests
from netapp_ontap.host_connection import HostConnection
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError

from orchestrator.domain.errors import (
    BackendError,
    BackendUnavailable,
    NotFound,
    StillWorking,
)
from workers.backends.base.call import Call
from workers.backends.ontap.failures import refused, unanswered
from workers.backends.ontap.spec import OntapOptions

#: Records asked for at a time: some megabytes at most.
PAGE = 500
#: How many times the time limit an answer may take that comes in small pieces.
_PATIENCE = 5


class Filer:
    """One cluster or SVM, asked over HTTPS.

    The sessions of the vendor's library are used, without its retries: a change that was
    asked for is asked for again only after a look at what became of it.
    """

    def __init__(self, options: OntapOptions) -> None:
        self.options = options
        self.svm = options.vserver
        self.where = options.hostname
        self._threads = threading.local()

    # -- requests ---------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """One record. Raises `NotFound`."""
        return self._ask("GET", path, query)

    def records(self, path: str, fields: str, **query: str) -> Iterator[dict[str, Any]]:
        """The records of a collection, page by page."""
        asked: Mapping[str, str] = query | {
            "fields": fields,
            "max_records": str(PAGE),
            # Else the filer gathers a page for up to 15 seconds before it answers.
            "return_timeout": str(min(120, max(1, int(self.options.timeout) - 1))),
        }
        while True:
            page = self._ask("GET", path, asked)
            yield from self._whole(page)
            following = page.get("_links", {}).get("next", {}).get("href")
            if not following:
                return
            # Only the query is taken, so that no answer sends the password elsewhere.
            asked = dict(parse_qsl(urlsplit(following).query))

    def post(self, path: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        return self._ask("POST", path, query, body)

    def patch(self, path: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        return self._ask("PATCH", path, query, body)

    def delete(self, path: str) -> dict[str, Any]:
        return self._ask("DELETE", path, {})

    # -- the filer's jobs ---------------------------------------------------------------------

    def follow(self, answer: Mapping[str, Any], call: Call, doing: str) -> bool:
        """Wait for the job that an answer names, if it names one; whether it is known to be done.

        Raises what it failed with, or `StillWorking` if it takes too long for a worker.
        """
        job = answer.get("job", {}).get("uuid")
        if job is None:
            return True
        end = time.monotonic() + min(self.options.patience, max(0.0, call.seconds_left()))
        while True:
            try:
                found = self.get(f"/cluster/jobs/{job}", fields="state,code,message,error")
            except NotFound:
                return False  # Forgotten by the filer: what became of it shows at the object.
            state = found.get("state")
            if state == "success":
                return True
            if state == "failure":
                error = found.get("error", {})
                code = str(error.get("code", found.get("code", "")))
                message = str(error.get("message", found.get("message", "")))
                raise refused(self.where, self.options.username, doing, 0, code, message)
            left = end - time.monotonic()
            if left <= 0:
                raise StillWorking(f"the filer {self.where} is still at it: {doing}")
            time.sleep(min(left, self.options.poll))
            call.checkpoint()

    def has_succeeded(self, job: str) -> bool | None:
        """How a job has ended; None: it has not, or the filer has forgotten it."""
        try:
            state = self.get(f"/cluster/jobs/{job}", fields="state").get("state")
        except NotFound:
            return None
        return {"success": True, "failure": False}.get(str(state))

    def is_at_work_on(self, uuid: str) -> bool:
        """Whether a job that changes this object has not ended."""
        found = self.records(
            "/cluster/jobs",
            "state",
            description=f"*/{uuid}*",
            state="queued|running|paused",
        )
        return next(found, None) is not None

    # -- inside -----------------------------------------------------------------------------

    def _whole(self, page: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The records of a page. One that tells only a part is no page: what is missing on it
        would be taken for absent."""
        records = page.get("records")
        told = page.get("num_records")
        if not isinstance(records, list) or "error" in page or told not in (None, len(records)):
            why = page.get("error", {}).get("message") or "records are missing"
            raise BackendUnavailable(f"the filer {self.where} answers in part only: {why}")
        return records

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        status, answer = self._send(method, path, query, body)
        if status < 400:
            return answer
        error = answer.get("error", {})
        code, message = str(error.get("code", "")), str(error.get("message", ""))
        raise refused(self.where, self.options.username, path, status, code, message)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
    ) -> tuple[int, dict[str, Any]]:
        session, origin = self._session()
        # ONTAP wants blanks as %20.
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        end = time.monotonic() + _PATIENCE * self.options.timeout
        try:
            with session.request(
                method,
                f"{origin}/api{path}{asked}",
                json=body,
                timeout=(self.options.timeout, self.options.timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                text = bytearray()
                # As it comes: a larger read would wait for an answer that trickles in.
                while part := response.raw.read1(2**16):
                    text += part
                    if time.monotonic() > end:
                        raise requests.exceptions.ReadTimeout("the answer does not end")
                status = response.status_code
        except (requests.exceptions.RequestException, HTTPError, OSError) as error:
            raise unanswered(self.where, error, method != "GET") from None
        return status, self._read(method, status, bytes(text))

    def _read(self, method: str, status: int, text: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(text) if text.strip() else {}
            if isinstance(answer, dict) and not 300 <= status < 400:
                return answer
        except ValueError:
            if status >= 400:
                return {}
        raise BackendError(
            f"what answers at {self.where} to {method} (HTTP status {status}) is no ONTAP filer: "
            "check the backend's hostname and port"
        )

    def _session(self) -> tuple[requests.Session, str]:
        """This thread's own connection; one that a forked process inherited is left alone."""
        mine: tuple[int, requests.Session, str] | None = getattr(self._threads, "session", None)
        if mine is None or mine[0] != os.getpid():
            options = self.options
            password = options.password.get_secret_value()
            default = 443 if options.scheme == "https" else 80
            connection = HostConnection(
                options.hostname,
                username=options.username,
                password=password,
                verify=options.verify is not False,
                port=options.port or default,
                scheme=options.scheme,
            )
            session, origin = connection.session, connection.origin
            session.verify = (
                options.verify if isinstance(options.verify, bool) else str(options.verify)
            )
            session.mount(origin, HTTPAdapter(max_retries=0, pool_maxsize=1))
            # Neither a proxy nor authorities from the environment come between.
            session.trust_env = False
            session.headers["Accept-Encoding"] = "identity"
            session.auth = HTTPBasicAuth(options.username.encode(), password.encode())
            mine = (os.getpid(), session, origin)
            self._threads.session = mine
        return mine[1], mine[2]
