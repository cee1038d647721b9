"""Signing in with a token and out: what the browser keeps, and when a session ends."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.cookies import SimpleCookie

import httpx
import pytest
from sqlalchemy import select, update

from orchestrator.domain.states import Role
from orchestrator.store.database import Database
from orchestrator.store.tables import sessions
from orchestrator.store.transaction import Transaction
from tests.console.conftest import Browser, Filled, until
from tests.console.pages import Page
from tests.http.conftest import Api

pytestmark = pytest.mark.either_database

NAME = "orchestrator_session"


@contextmanager
def _written(filled: Filled) -> Iterator[Transaction]:
    database = Database(filled.product.database_url, pool_size=1)
    with database.write() as transaction:
        yield transaction
    database.close()


def _age(filled: Filled, browser: Browser, **by: float) -> None:
    """Make a session older than it is."""
    mine = sessions.c.id == browser.http.cookies[NAME].partition(".")[0]
    with _written(filled) as transaction:
        row = transaction.execute(select(sessions).where(mine)).one()
        changed = {
            name: row._mapping[name] - timedelta(**by)
            for name in ("created_at", "renewed_at", "expires_at")
        }
        transaction.execute(update(sessions).where(mine).values(**changed))


def _cookie(answer: httpx.Response, name: str = NAME) -> SimpleCookie:
    [found] = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{name}=")]
    return SimpleCookie(found)


def _is_signed_in(browser: Browser) -> bool:
    answer = browser.get("/jobs")
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


def test_one_who_has_not_signed_in_comes_back_to_the_page_after_it(filled: Filled) -> None:
    browser = Browser(filled.product.url)
    sent = browser.get("/jobs?state=failed")
    assert (sent.status_code, sent.headers["location"]) == (
        303,
        "/sign-in?next=%2Fjobs%3Fstate%3Dfailed",
    )
    answer = browser.sign_in(filled.tokens[Role.READER], sent.headers["location"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?state=failed")
    assert browser.get(answer.headers["location"]).status_code == 200


def test_the_cookie_is_for_this_service_and_no_script(filled: Filled) -> None:
    browser = Browser(filled.product.url)
    cookie = _cookie(browser.sign_in(filled.tokens[Role.READER]))[NAME]
    assert cookie["httponly"] and not cookie["secure"]  # it is served in the clear here
    assert (cookie["samesite"], cookie["path"]) == ("strict", "/")
    assert (cookie["max-age"], cookie["expires"]) == ("", "")


def test_over_tls_the_cookie_is_sent_over_tls_only(bare: Api) -> None:
    browser = Browser(bare.url)
    browser.http.headers["X-Forwarded-Proto"] = "https"
    # The browser of this test knows of no TLS: it hands its cookies over itself.
    page = browser.get("/storage/sign-in")
    form = Page(page.text).form("/sign-in")
    names = (NAME, "orchestrator_sign_in")
    handed = {"Cookie": f"{names[1]}={_cookie(page, names[1])[names[1]].value}"}
    data = {**form.fields, "token": bare.tokens[Role.READER]}
    answer = browser.http.post(form.action, data=data, headers=handed)
    assert answer.status_code == 303
    assert _cookie(page, names[1])[names[1]]["secure"]
    assert _cookie(answer)[NAME]["secure"]


@pytest.mark.parametrize(
    "token", ["", "nonsense", "orc_0123456789abcdef_x" + "y" * 40, "orc_\0_", "orc_é_ü", "\ud7ff"]
)
def test_a_wrong_token_is_refused_and_not_repeated(filled: Filled, token: str) -> None:
    browser = Browser(filled.product.url)
    answer = browser.sign_in(token)
    assert answer.status_code == 401
    assert NAME not in browser.http.cookies
    page = Page(answer.text)
    assert page.wrongs() == []
    assert "The token is not valid" in page.text
    assert not token or f'"{token}"' not in answer.text


def test_the_token_is_kept_nowhere(filled: Filled) -> None:
    browser = filled.browser(Role.ADMIN)
    secret = filled.tokens[Role.ADMIN].rpartition("_")[2]
    cookie = browser.http.cookies[NAME]
    assert secret not in browser.get("/").text
    assert cookie.partition(".")[2] not in browser.get("/").text
    log = filled.product.log.read_text()
    assert secret not in log and cookie.partition(".")[2] not in log
    with _written(filled) as transaction:
        rows = str(transaction.execute(select(sessions)).all())
    assert secret not in rows and cookie.partition(".")[2] not in rows


def test_a_sign_in_form_of_another_browser_is_refused(filled: Filled) -> None:
    """Else somebody could be signed in with a token that is not theirs, and not notice."""
    form = Browser(filled.product.url).page("/sign-in").form("/sign-in")
    for other in (Browser(filled.product.url), Browser(filled.product.url)):
        answer = other.send(form, token=filled.tokens[Role.READER])
        assert answer.status_code == 403
        assert NAME not in other.http.cookies
        other.page("/sign-in")  # now it has a form of its own


@pytest.mark.parametrize(
    "address",
    ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:1", "/\t/"],
)
def test_nobody_is_led_elsewhere_after_signing_in(filled: Filled, address: str) -> None:
    browser = Browser(filled.product.url)
    form = browser.page("/sign-in").form("/sign-in")
    answer = browser.send(form, token=filled.tokens[Role.READER], next=address)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_link_on_another_site_leads_to_the_page(filled: Filled) -> None:
    """The cookie is not sent along such a link: the page is asked for once more, from here."""
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = Browser(filled.product.url).get("/jobs?state=failed", **elsewhere)
    assert answer.status_code == 200
    [refresh] = Page(answer.text).all("meta", **{"http-equiv": "refresh"})
    assert refresh.attributes["content"] == "0; url=/jobs?state=failed"


def test_signing_out_ends_the_session_everywhere(filled: Filled) -> None:
    browser = filled.browser()
    other = Browser(filled.product.url)
    other.http.cookies.set(NAME, browser.http.cookies[NAME])
    assert _is_signed_in(other)
    answer = browser.send(browser.page("/jobs").form("/sign-out"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert _cookie(answer)[NAME]["max-age"] == "0"
    assert not _is_signed_in(browser)
    assert not _is_signed_in(other)


def test_signing_in_again_ends_the_session_before(filled: Filled) -> None:
    browser = filled.browser()
    before = browser.http.cookies[NAME]
    browser.sign_in(filled.tokens[Role.READER])
    assert browser.http.cookies[NAME] != before
    other = Browser(filled.product.url)
    other.http.cookies.set(NAME, before)
    assert not _is_signed_in(other)


def test_the_secret_of_a_session_is_replaced(filled: Filled) -> None:
    browser = filled.browser()
    first = browser.http.cookies[NAME]
    assert browser.get("/jobs").headers.get("set-cookie") is None
    _age(filled, browser, minutes=20)
    until(lambda: "set-cookie" in browser.get("/jobs").headers)
    second = browser.http.cookies[NAME]
    assert second != first and second.partition(".")[0] == first.partition(".")[0]
    assert _is_signed_in(browser)
    # A request that was on its way then is answered; later the first secret is worth nothing.
    late = Browser(filled.product.url)
    late.http.cookies.set(NAME, first)
    assert _is_signed_in(late)
    _age(filled, browser, minutes=2)
    until(lambda: not _is_signed_in(late))
    assert _is_signed_in(browser)


def test_a_session_ends_after_a_working_day(filled: Filled) -> None:
    browser = filled.browser()
    assert _is_signed_in(browser)
    _age(filled, browser, hours=12)
    until(lambda: not _is_signed_in(browser))


def test_a_session_ends_with_its_token(filled: Filled) -> None:
    id_, token = filled.token(f"t{uuid.uuid4().hex[:12]}", Role.READER)
    browser = Browser(filled.product.url)
    browser.sign_in(token)
    assert _is_signed_in(browser)
    assert filled.http.delete(f"/v1/tokens/{id_}").status_code == 204
    until(lambda: not _is_signed_in(browser))


@pytest.mark.parametrize("secret", ["", "x", "é", "." * 50, "x" * 43, "None", '"\\000"'])
def test_a_guessed_secret_is_refused(filled: Filled, secret: str) -> None:
    browser = filled.browser()
    for id_ in (browser.http.cookies[NAME].partition(".")[0], "", "0" * 32):
        guess = f"{NAME}={id_}.{secret}" if id_ else f"{NAME}={secret}"
        answer = browser.http.get("/jobs", headers=[(b"cookie", guess.encode())])
        assert answer.status_code == 303, guess


def test_the_cookie_opens_no_other_door(filled: Filled) -> None:
    browser = filled.browser()
    assert browser.get("/v1/jobs").status_code == 401
    assert re.match("Bearer", browser.get("/v1/jobs").headers["www-authenticate"])
