"""The console in a real browser: alive, by keyboard, in light, dark and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.states import Role
from tests.console.conftest import Filled
from tests.rigs.chromium import Chromium, Tab, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt install chromium"),
]

#: What is shown with less contrast than text needs (WCAG 2.1, level AA).
_CONTRASTS = """
(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if ((numbers(c)[3] ?? 1) > 0) return c; }
    return getComputedStyle(document.documentElement).backgroundColor; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
    if (e.closest('.hidden, svg')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) found.push([walker.currentNode.data.trim(), contrast]);
  }
  return found;
})()
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    program = chromium()
    assert program is not None
    made = Chromium(program, tmp_path / "profile")
    yield made
    made.close()


def _signed_in(filled: Filled, browser: Chromium, role: Role, path: str = "/") -> Tab:
    tab = browser.tab()
    tab.open(f"{filled.product.url}{path}")
    assert tab.see("document.activeElement.id") == "token"
    tab.call("Input.insertText", text=filled.tokens[role])
    tab.submit("document.querySelector('form button').click()")
    return tab


def _pages(filled: Filled) -> list[str]:
    ids = filled.ids
    return [
        *("/", "/jobs", "/batches", "/backends", "/volumes", "/policies", "/findings", "/events"),
        *(f"/jobs/{ids['failed']}", f"/jobs/{ids['approval']}", f"/batches/{ids['batch']}"),
        *("/backends/ram", "/backends/ram/volumes/vm1", "/backends/ram/policies/web"),
        *(f"/findings/{ids['finding']}", "/jobs/99999", "/backends/ram/volumes/b3"),
    ]


def test_a_job_is_watched_to_its_end_in_one_tab_and_canceled_in_another(
    filled: Filled, browser: Chromium
) -> None:
    job = filled.submit(
        "volume.create",
        wait=0,
        volume="watched",
        params={"size_bytes": "1M"},
        run_at="2999-01-01T00:00:00Z",
    )["id"]
    watching = _signed_in(filled, browser, Role.OPERATOR, f"/jobs/{job}")
    assert watching.see("location.pathname") == f"/jobs/{job}"
    other = browser.tab()
    other.open(f"{filled.product.url}/jobs/{job}")
    other.see("document.querySelector('#cancel summary').click()")
    other.submit("document.querySelector('#cancel button').click()")
    assert watching.see("document.hidden") is False
    watching.until("document.querySelector('#head .state').textContent === 'canceled'")
    assert watching.see("document.getElementById('news').textContent") == f"Job {job}: canceled"
    assert "canceled" in watching.see("document.getElementById('timeline').textContent")
    assert watching.see("document.querySelector('#cancel')") is None


def test_what_somebody_types_stays_while_the_page_changes(
    filled: Filled, browser: Chromium
) -> None:
    job = filled.submit(
        "volume.create",
        wait=0,
        volume="typed",
        params={"size_bytes": "1M"},
        run_at="2999-01-01T00:00:00Z",
    )["id"]
    filled.http.post(f"/v1/jobs/{job}/cancel")
    tab = _signed_in(filled, browser, Role.OPERATOR, f"/jobs/{job}")
    tab.see("document.querySelector('#retry summary').click()")
    tab.see("document.getElementById('retry-reason').focus()")
    tab.call("Input.insertText", text="because")
    # The part with the form is replaced by what the service says now.
    tab.see("document.getElementById('actions').append('something else')")
    tab.see("read()")
    tab.until("!document.getElementById('actions').textContent.includes('something else')")
    assert tab.see("document.getElementById('retry-reason').value") == "because"
    assert tab.see("document.activeElement.id") == "retry-reason"
    assert tab.see("document.getElementById('retry').open") is True


def test_everything_can_be_reached_by_keyboard(filled: Filled, browser: Chromium) -> None:
    tab = _signed_in(filled, browser, Role.OPERATOR, f"/jobs/{filled.ids['failed']}")
    tab.key("Tab", 9)
    assert tab.see("document.activeElement.textContent") == "Skip to the content"
    assert tab.see("document.activeElement.getBoundingClientRect().left") >= 0
    seen: list[str] = []
    for _ in range(60):
        tab.key("Tab", 9)
        seen.append(tab.see("document.activeElement.textContent.trim()"))
        outline = tab.see("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]
        if seen[-1] == "HTTP interface":
            break
    assert {"Jobs", "Sign out", "Retry job…", "ram"} <= set(seen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_can_be_read(
    filled: Filled, browser: Chromium, width: int, scheme: str, tmp_path: Path
) -> None:
    tab = _signed_in(filled, browser, Role.ADMIN)
    for path in [*_pages(filled), "/sign-in"]:
        tab.open(f"{filled.product.url}{path}")
        tab.shown(width, scheme)
        assert tab.see(_CONTRASTS) == [], path
        # Nothing is wider than the screen, but for what scrolls by itself.
        assert tab.see("document.documentElement.scrollWidth") <= width, path
        name = re.sub(r"\W+", "-", path).strip("-") or "overview"
        tab.picture(tmp_path / f"{name}-{width}-{scheme}.png", width=width, scheme=scheme)


def test_pages_ask_only_this_service_and_break_no_rule_of_their_policy(
    filled: Filled, browser: Chromium
) -> None:
    tab = _signed_in(filled, browser, Role.ADMIN)
    for path in _pages(filled):
        tab.open(f"{filled.product.url}{path}")
    asked = {one["request"]["url"] for one in tab.told("Network.requestWillBeSent")}
    assert {one for one in asked if not one.startswith(filled.product.url)} == set()
    assert tab.told("Runtime.exceptionThrown") == []
    told = [one["entry"] for one in tab.told("Log.entryAdded")]
    wrong = [one["text"] for one in told if one["level"] in ("warning", "error")]
    assert [one for one in wrong if "status of 404" not in one] == []
