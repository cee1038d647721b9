"""The stream of a page reports when there is something new to read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from orchestrator.domain.states import Role
from tests.console.conftest import Browser, Filled

pytestmark = pytest.mark.either_database

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def name() -> str:
    """A name that no other test uses: the product is shared."""
    return f"v{uuid.uuid4().hex[:12]}"


@contextmanager
def _stream(browser: Browser, path: str) -> Iterator[Iterator[str]]:
    """The names of the messages of a page's stream, as they come; comments are left out."""
    stream = browser.page(path).all("body")[0].attributes["data-stream"]
    with browser.http.stream("GET", stream, headers=STREAM) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield (line.removeprefix("event: ") for line in answer.iter_lines() if "event: " in line)


def test_a_list_is_told_of_what_happens(filled: Filled, name: str) -> None:
    with _stream(filled.browser(Role.READER), "/jobs") as messages:
        job = filled.submit("volume.create", volume=name, params={"size_bytes": "1M"})
        assert next(messages) == "changed"
    assert f'/jobs/{job["id"]}"' in filled.browser(Role.READER).page("/jobs").html


def test_nothing_is_missed_between_the_page_and_its_stream(filled: Filled, name: str) -> None:
    browser = filled.browser(Role.READER)
    stream = browser.page("/events").all("body")[0].attributes["data-stream"]
    filled.submit("volume.create", volume=name, params={"size_bytes": "1M"})
    with browser.http.stream("GET", stream, headers=STREAM) as answer:
        assert "event: changed" in answer.iter_lines()


def test_a_job_is_told_of_until_it_has_ended(filled: Filled, name: str) -> None:
    job = filled.submit(
        "volume.create",
        wait=0,
        volume=name,
        params={"size_bytes": "1M"},
        run_at="2999-01-01T00:00:00Z",
    )["id"]
    browser = filled.browser(Role.OPERATOR)
    with _stream(browser, f"/jobs/{job}") as messages:
        assert next(messages) == "changed"  # it was looked at for the first time
        browser.send(browser.page(f"/jobs/{job}").form("/cancel"))
        assert next(messages) == "changed"
    assert "canceled" in browser.page(f"/jobs/{job}").text


def test_a_stream_ends_with_the_session(filled: Filled) -> None:
    browser = filled.browser(Role.READER)
    with _stream(browser, "/backends") as messages:
        other = Browser(filled.product.url)
        other.http.cookies.update(browser.http.cookies)
        other.send(other.page("/jobs").form("/sign-out"))
        assert set(messages) <= {"changed"}  # and it comes to an end


def test_a_stream_is_for_who_has_signed_in(filled: Filled) -> None:
    url = f"{filled.product.url}/changes"
    assert httpx.get(url, params={"after": 0}, headers=STREAM).status_code == 401
    browser = filled.browser(Role.READER)
    assert browser.get("/changes?after=0").status_code == 422
    assert browser.get("/changes?after=x", **STREAM).status_code == 422
    assert browser.http.head("/changes?after=0", headers=STREAM).status_code == 422
