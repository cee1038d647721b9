"""What forms do is what the routes of the API do: the same jobs, the same history."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from orchestrator.domain.states import Role
from tests.console.conftest import HOSTILE, Browser, Filled, until

pytestmark = pytest.mark.either_database

LATER = "2999-01-01T00:00:00Z"


@pytest.fixture
def name() -> str:
    """A name that no other test uses: the product is shared."""
    return f"v{uuid.uuid4().hex[:12]}"


def _later(filled: Filled, name: str, **more: Any) -> int:
    params = {"size_bytes": "1M"}
    job = filled.submit("volume.create", wait=0, volume=name, params=params, run_at=LATER, **more)
    return int(job["id"])


def _job(filled: Filled, job_id: int) -> Any:
    return filled.http.get(f"/v1/jobs/{job_id}").json()


def _refused(filled: Filled) -> list[str]:
    """The paths at which somebody was refused of late."""
    refused = filled.http.get("/v1/events", params={"kind": "access.refused", "last": 20})
    return [one["data"]["path"] for one in refused.json()["items"]]


def _history(filled: Filled, job_id: int) -> list[tuple[Any, ...]]:
    """Who did what to a job, but for the job itself."""
    items = filled.http.get(f"/v1/jobs/{job_id}/events").json()["items"]
    return [(one["kind"], one["actor"], one["reason"], str(one["data"])) for one in items]


def test_canceling_is_the_same_as_by_http(filled: Filled, name: str) -> None:
    by_form, by_http = _later(filled, f"{name}a"), _later(filled, f"{name}b")
    browser = filled.browser(Role.OPERATOR)
    page = browser.follow(browser.send(browser.page(f"/jobs/{by_form}").form("/cancel")))
    assert page.all("main")[0].attributes["data-state"] == f"Job {by_form}: canceled"
    assert not page.has_form("/cancel") and page.has_form("/retry")
    token = {"Authorization": f"Bearer {filled.tokens[Role.OPERATOR]}"}
    filled.http.post(f"/v1/jobs/{by_http}/cancel", headers=token)
    assert _job(filled, by_form)["state"] == "canceled"
    assert _history(filled, by_form) == _history(filled, by_http)


def test_a_retry_is_one_new_job_however_often_it_is_sent(filled: Filled, name: str) -> None:
    job = _later(filled, name)
    filled.http.post(f"/v1/jobs/{job}/cancel")
    browser = filled.browser(Role.OPERATOR)
    form = browser.page(f"/jobs/{job}").form("/retry")
    first, second = (browser.send(form, reason=HOSTILE) for _ in range(2))
    assert first.headers["location"] == second.headers["location"]
    new = int(first.headers["location"].rpartition("/")[2])
    made = _job(filled, new)
    assert (made["retry_of"], made["reason"]) == (job, HOSTILE)
    assert made["submitted_by"] == "the-operator"
    assert HOSTILE in browser.follow(first).text
    filled.http.post(f"/v1/jobs/{new}/cancel")


def test_a_job_is_approved(filled: Filled, name: str) -> None:
    params = {"size_bytes": "1M"}
    job = filled.submit("volume.create", wait=0, volume=name, params=params, approval=True)["id"]
    assert not filled.browser(Role.OPERATOR).page(f"/jobs/{job}").has_form("/approve")
    browser = filled.browser(Role.ADMIN)
    browser.follow(browser.send(browser.page(f"/jobs/{job}").form("/approve"), reason="fine"))
    assert filled.http.get(f"/v1/jobs/{job}/wait").json()["state"] == "succeeded"
    assert ("job.approved", "the-admin", "fine", "None") in _history(filled, job)


def test_a_batch_is_canceled(filled: Filled, name: str) -> None:
    create = {"action": "volume.create", "backend": "ram", "params": {"size_bytes": "1M"}}
    jobs = [{**create, "volume": f"{name}{one}", "run_at": LATER} for one in "abc"]
    batch = filled.http.post("/v1/batches", json={"jobs": jobs}).json()["id"]
    browser = filled.browser(Role.OPERATOR)
    page = browser.page(f"/batches/{batch}")
    assert "3 now" in page.text
    browser.follow(browser.send(page.form("/cancel")))
    told = filled.http.get(f"/v1/batches/{batch}").json()
    assert (told["canceled"], told["unfinished"]) == (3, 0)


def test_a_batch_tells_what_failed_by_cause(filled: Filled) -> None:
    page = filled.browser(Role.READER).page(f"/batches/{filled.ids['batch']}")
    [cause] = [one for one in page.all("tr") if "no_space" in one.text and "job " in one.text]
    failed = filled.http.get(
        "/v1/jobs", params={"batch_id": filled.ids["batch"], "state": "failed"}
    ).json()["items"]
    assert cause.text.split()[:2] == ["no_space", str(len(failed))]
    assert f"job {failed[-1]['id']}" in cause.text


def test_a_finding_is_repaired(filled: Filled, name: str) -> None:
    (filled.product.volumes / "volumes" / f"{name}.raw").write_bytes(b"x" * 4096)
    assert filled.submit("backend.audit", "fast")["state"] == "succeeded"
    found = filled.http.get("/v1/findings", params={"state": "open"}).json()["items"]
    [finding] = [one["id"] for one in found if one["volume"] == f"{name}.raw"]
    # Only an administrator may adopt.
    assert not filled.browser(Role.OPERATOR).page(f"/findings/{finding}").has_form("/repair")
    browser = filled.browser(Role.ADMIN)
    form = browser.page(f"/findings/{finding}").form("/repair")
    assert form.fields["repair"] == "adopt"
    answer = browser.send(form, reason="ours")
    assert answer.headers["location"] == browser.send(form, reason="ours").headers["location"]
    job = int(answer.headers["location"].rpartition("/")[2])
    ended = filled.http.get(f"/v1/jobs/{job}/wait").json()
    assert (ended["action"], ended["state"], ended["reason"]) == (
        "volume.adopt",
        "succeeded",
        "ours",
    )
    assert f"job {job}" in browser.page(f"/findings/{finding}").text


def test_a_form_of_another_session_does_nothing(filled: Filled, name: str) -> None:
    job = _later(filled, name)
    form = filled.browser(Role.OPERATOR).page(f"/jobs/{job}").form("/cancel")
    other = filled.browser(Role.OPERATOR)
    for fields in ({}, {"form_token": ""}, {"form_token": "guessed"}):
        form.fields.update(fields)
        answer = other.send(form)
        assert answer.status_code == 403
        assert "not of a page of this session" in answer.text
    assert _job(filled, job)["state"] == "waiting"
    assert other.http.post(f"/jobs/{job}/cancel").status_code == 403
    assert _job(filled, job)["state"] == "waiting"
    filled.http.post(f"/v1/jobs/{job}/cancel")


@pytest.mark.parametrize(
    "field", [{"reason": "a\0b"}, {"reason": "x" * 501}, {"key": "a\0b"}, {"else": "x"}]
)
def test_a_form_that_is_not_as_its_page_made_it_does_nothing(
    filled: Filled, name: str, field: dict[str, str]
) -> None:
    job = _later(filled, name)
    filled.http.post(f"/v1/jobs/{job}/cancel")
    browser = filled.browser(Role.OPERATOR)
    answer = browser.send(browser.page(f"/jobs/{job}").form("/retry"), **field)
    assert answer.status_code == 422, answer.text
    assert filled.http.get("/v1/jobs", params={"volume": name}).json()["items"][0]["id"] == job


def test_a_form_of_nobody_leads_to_signing_in(filled: Filled, name: str) -> None:
    job = _later(filled, name)
    form = filled.browser(Role.OPERATOR).page(f"/jobs/{job}").form("/cancel")
    answer = Browser(filled.product.url).send(form)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/sign-in?next=%2Fjobs%2F{job}",
    )
    assert _job(filled, job)["state"] == "waiting"
    filled.http.post(f"/v1/jobs/{job}/cancel")


def test_who_may_only_read_changes_nothing(filled: Filled, name: str) -> None:
    job = _later(filled, name)
    browser = filled.browser(Role.READER)
    form_token = browser.page("/").form("/sign-out").fields["form_token"]
    for verb in ("cancel", "retry", "approve"):
        answer = browser.http.post(f"/jobs/{job}/{verb}", data={"form_token": form_token})
        assert answer.status_code == 403, verb
        assert "needs the role" in answer.text
    assert _job(filled, job)["state"] == "waiting"
    until(lambda: f"/jobs/{job}/cancel" in _refused(filled))
    filled.http.post(f"/v1/jobs/{job}/cancel")


def test_what_cannot_be_done_is_a_page_that_says_why(filled: Filled, name: str) -> None:
    job = _later(filled, name)
    browser = filled.browser(Role.OPERATOR)
    form = browser.page(f"/jobs/{job}").form("/cancel")
    browser.follow(browser.send(form))
    answer = browser.send(form)
    assert answer.status_code == 409
    assert f'href="/jobs/{job}"' in answer.text
