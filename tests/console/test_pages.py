"""Every page: for every role, with data and without, well formed, and with links that lead on."""

from __future__ import annotations

import socket
from urllib.parse import urljoin, urlsplit

import pytest

from orchestrator.domain.states import Role
from orchestrator.resources.resource import Listed
from tests.console.conftest import HOSTILE, Browser, Filled
from tests.console.pages import Page
from tests.http.conftest import Api, whole_answer

pytestmark = pytest.mark.either_database

LISTS = (
    "/", "/jobs", "/batches", "/backends", "/volumes", "/policies", "/findings", "/events",
)  # fmt: skip


def _paths(ids: dict[str, int]) -> list[str]:
    """A page of each kind."""
    one = ("/backends/ram", "/backends/ram/volumes/vm1", "/backends/ram/volumes/a%2Fb%3Ac%2Bd")
    jobs = [f"/jobs/{ids[name]}" for name in ("named", "failed", "later", "approval", "canceled")]
    others = (f"/batches/{ids['batch']}", f"/findings/{ids['finding']}")
    return [*LISTS, *one, "/backends/ram/policies/web", *jobs, *others]


def _crawl(browser: Browser) -> dict[str, Page]:
    """Every page that links lead to, by its address."""
    found: dict[str, Page] = {}
    left = ["/"]
    while left:
        address = left.pop()
        if address in found or address == "/docs":
            continue
        found[address] = page = browser.page(address)
        for link in page.links:
            there = urlsplit(urljoin(f"http://here{address}", link))
            assert there.netloc == "here", (address, link)
            left.append(there.path + (f"?{there.query}" if there.query else ""))
    return found


def test_every_link_leads_to_a_page_that_is_as_it_should_be(filled: Filled) -> None:
    found = _crawl(filled.browser())
    assert set(_paths(filled.ids)) <= set(found)
    # What was removed has a page, too, which jobs and events lead to.
    assert "not there" in found["/backends/ram/volumes/b3"].text


@pytest.mark.parametrize("role", list(Role))
def test_every_role_sees_every_page(filled: Filled, role: Role) -> None:
    browser = filled.browser(role)
    for path in _paths(filled.ids):
        page = browser.page(path)
        # What one may not do is not offered.
        forms = {one.attributes["action"] for one in page.all("form", method="post")}
        assert ("/sign-out" in forms) and (role is not Role.READER or len(forms) == 1), path
        assert any(one.endswith("/approve") for one in forms) == (
            role is Role.ADMIN and path == f"/jobs/{filled.ids['approval']}"
        )


def test_pages_of_an_empty_service(bare: Api) -> None:
    browser = Browser(f"{bare.url}/storage")
    assert browser.sign_in(bare.tokens[Role.READER]).status_code == 303
    for path in (*LISTS, "/backends/ram"):
        browser.page(path)
    assert "No jobs yet." in browser.page("/jobs").text
    assert "No worker runs" in browser.page("/").text
    assert "not looked at yet" in browser.page("/backends").text


def test_below_a_prefix_links_and_cookies_stay_below_it(bare: Api) -> None:
    browser = Browser(bare.url)
    sent = browser.get("/storage/jobs")
    assert sent.headers["location"] == "/storage/sign-in?next=%2Fjobs"
    answer = browser.sign_in(bare.tokens[Role.READER], sent.headers["location"])
    assert answer.headers["location"] == "/storage/jobs"
    assert "Path=/storage;" in answer.headers["set-cookie"] + ";"
    page = browser.page("/storage/jobs")
    assert all(link.startswith(("/storage/", "#")) for link in page.links)
    [current] = [one for one in page.all("a") if "aria-current" in one.attributes]
    assert current.text == "Jobs"
    for one in page.all("link"):
        assert browser.get(one.attributes["href"]).status_code == 200


def test_what_people_write_is_shown_as_they_wrote_it(filled: Filled) -> None:
    browser = filled.browser()
    for path in (
        f"/jobs/{filled.ids['named']}",
        f"/batches/{filled.ids['batch']}",
        "/batches",
        "/backends/ram/volumes/vm1",
        "/events?backend=ram&volume=vm1",
    ):
        page = browser.page(path)
        assert HOSTILE in page.text, path
        assert not any("alert" in str(one.attributes) for one in page.elements), path
        assert "49" not in page.text.split("{{ 7 * 7 }}")[1][:5]


def test_a_hostile_address_is_shown_as_it_was_sent(filled: Filled) -> None:
    browser = filled.browser()
    for path in ("/jobs?state=%3Cscript%3E", "/jobs?%3Cscript%3E=1", "/events?kind=%3Cimg%3E"):
        page = browser.page(path, 422)
        assert page.all("img") == []
    found = browser.page("/volumes?prefix=b&backend=ram")
    assert [one.attributes["value"] for one in found.all("input", name_="prefix")] == ["b"]


def test_no_page_may_run_load_or_be_framed_by_what_is_not_ours(filled: Filled) -> None:
    browser = filled.browser()
    for path in (*_paths(filled.ids), "/sign-in", "/jobs/99999", "/backends/nothing"):
        head = browser.get(path).headers
        policy = head["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "data:" not in policy
        assert head["x-frame-options"] == "DENY"
        assert head["x-content-type-options"] == "nosniff"
        assert head["referrer-policy"] == "no-referrer"
        assert head["cache-control"] == "no-store"


def test_assets_are_kept_and_need_no_session(filled: Filled) -> None:
    browser = Browser(filled.product.url)
    page = filled.browser().page("/")
    files = [one.attributes["href"] for one in page.all("link")]
    files += [one.attributes["src"] for one in page.all("script")]
    assert len(files) == 3
    for file in files:
        answer = browser.get(file)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert "immutable" not in browser.get("/assets/old/console.css").headers["cache-control"]
    assert browser.get("/assets/old/nothing.css").status_code == 404


def test_lists_are_filtered_and_paged_by_their_address(filled: Filled) -> None:
    browser = filled.browser()
    answer = browser.get("/jobs?state=failed&action=&backend=ram&volume=")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/jobs?state=failed&backend=ram",
    )
    page = browser.page(answer.headers["location"])
    rows = {one.text for one in page.all("th", scope="row")}
    wanted = filled.http.get("/v1/jobs", params={"state": "failed", "backend": "ram"}).json()
    assert rows == {str(job["id"]) for job in wanted["items"]}
    chosen = [one.attributes["value"] for one in page.all("option", selected="")]
    assert chosen == ["failed", "ram"]


def test_a_list_goes_on_where_its_page_ended(filled: Filled) -> None:
    create = {"action": "volume.create", "backend": "ram", "params": {"size_bytes": "1M"}}
    jobs = [{**create, "volume": f"page{number:03}"} for number in range(60)]
    wait = {"Prefer": "wait=60"}
    batch = filled.http.post("/v1/batches", json={"jobs": jobs}, headers=wait).json()
    browser = filled.browser()
    for path, expected in (
        ("/volumes?prefix=page", [f"page{number:03}" for number in range(60)]),
        (f"/batches/{batch['id']}", [str(one) for one in batch["job_ids"]]),
        (f"/jobs?batch_id={batch['id']}", [str(one) for one in batch["job_ids"][::-1]]),
    ):
        first = browser.page(path)
        [following] = first.all("a", rel="next")
        second = browser.page(following.attributes["href"])
        shown = [one.text for page in (first, second) for one in page.all("th", scope="row")]
        assert shown == expected, path
        assert second.all("a", rel="next") == []
    events = browser.page("/events?backend=ram")
    older = browser.page(events.all("a", rel="next")[0].attributes["href"])
    assert events.text != older.text


@pytest.mark.parametrize("path", ["//evil.example?x=", "//evil.example/", "/%2Fevil.example/?x="])
def test_no_address_leads_elsewhere(filled: Filled, path: str) -> None:
    with socket.create_connection((filled.browser().http.base_url.host, _port(filled))) as raw:
        cookie = filled.browser().http.cookies["orchestrator_session"]
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Cookie: orchestrator_session={cookie}\r\n\r\n".encode()
        )
        head = whole_answer(raw).partition(b"\r\n\r\n")[0].lower()
    assert b"location: //" not in head and b"location: http" not in head
    assert head.startswith((b"http/1.1 401", b"http/1.1 404"))


def _port(filled: Filled) -> int:
    return int(filled.product.url.rpartition(":")[2])


def test_a_slash_at_the_end_is_left_out(filled: Filled) -> None:
    answer = filled.browser().get("/jobs/?state=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?state=failed")


def test_what_is_not_there_is_a_page_that_says_so(filled: Filled) -> None:
    browser = filled.browser()
    for path, code in (
        ("/jobs/99999", "unknown_job"),
        ("/batches/99999", "unknown_job"),
        ("/backends/nothing", "unknown_backend"),
        ("/backends/ram/volumes/nothing", "unknown_volume"),
        ("/backends/ram/policies/nothing", "unknown_policy"),
        ("/findings/99999", "not_found"),
        ("/jobs/1/nothing", "not_found"),
    ):
        page = browser.page(path, 404)
        assert code in page.text, path
    browser.page("/events?backend=nothing", 404)
    assert browser.http.post("/jobs").status_code == 405


def test_who_has_a_project_sees_what_the_api_shows(filled: Filled) -> None:
    """Projects count for quotas and hide nothing, here as there."""
    _, token = filled.token("of-a-project", Role.READER, project="other")
    browser = Browser(filled.product.url)
    browser.sign_in(token)
    page = browser.page("/volumes?backend=ram&prefix=vm")
    listed = filled.http.get(
        "/v1/backends/ram/volumes",
        params={"prefix": "vm"},
        headers={"Authorization": f"Bearer {token}"},
    ).json()["items"]
    assert [one.text for one in page.all("th", scope="row")] == [one["name"] for one in listed]


def test_a_listed_resource_has_its_pages_by_its_declaration(filled: Filled) -> None:
    from orchestrator.console.pages.collections import listed

    browser = filled.browser()
    for kind, resource in listed():
        assert isinstance(resource, Listed)
        page = browser.page("/")
        [link] = [one for one in page.all("a") if one.text == kind.titles.capitalize()]
        browser.page(link.attributes["href"])
    policy = browser.page("/backends/ram/policies/web").text
    assert "10.0.0.0/8" in policy and "192.0.2.7" in policy


def test_the_paths_of_the_api_are_as_they_were(filled: Filled) -> None:
    for path in ("/v1/nothing", "/nothing", "/v3/nothing"):
        answer = filled.http.get(path)
        assert answer.status_code == 404
        assert "json" in answer.headers["content-type"]
    assert filled.http.get("/readyz").status_code == 200
    assert filled.http.get("/docs").status_code == 200
