"""The command line as scripts use it: forms, exit statuses, and one JSON document each."""

import gzip
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.commands import run_command

pytestmark = pytest.mark.either_database

FAR = "2099-01-01T00:00:00Z"


class Shell:
    """Runs commands against the product, as a script would."""

    def __init__(self, product: Any) -> None:
        # The product's own environment finds the service without URL and token, too.
        self.env = {
            **product.env,
            "ORCHESTRATOR_URL": product.url,
            "ORCHESTRATOR_TOKEN": product.token,
        }

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words],
            env={**self.env, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: str, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return run_command(words, {**self.env, **(env or {})}, stdin)

    def ok(self, *words: str) -> str:
        """The output of a command that must be done."""
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str, status: int = 0, stdin: str = "") -> Any:
        """The one document that a command prints with ``--json``."""
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)


@pytest.fixture
def shell(product: Any) -> Shell:
    return Shell(product)


@pytest.fixture
def name() -> str:
    """A volume name of the test's own."""
    return f"t-{uuid.uuid4().hex[:12]}"


def create(shell: Shell, name: str, *further: str, backend: str = "fast") -> Any:
    target = ("--backend", backend, "--volume", name)
    return shell.json("submit", "volume.create", *target, "size=1M", "--wait", *further)


# -- the forms that scripts rely on -------------------------------------------------------


def test_submit_without_waiting_tells_the_accepted_job(shell: Shell, name: str) -> None:
    form = ("submit", "volume.create", "--backend", "fast", "--volume", name, "size=10G")
    job = shell.json(*form)
    assert (job["action"], job["backend"], job["volume"]) == ("volume.create", "fast", name)
    assert job["params"]["size_bytes"] == 10 * 2**30
    assert shell.json("job", "show", str(job["id"]))["id"] == job["id"]


def test_submit_and_wait_tells_the_ended_job(shell: Shell, name: str) -> None:
    job = create(shell, name, "--timeout", "60", "--idempotency-key", uuid.uuid4().hex)
    assert job["state"] == "succeeded"
    job = shell.json(
        "submit", "snapshot.create", "--backend", "fast", "--volume", name, "--snapshot", "s1",
        "--wait",
    )  # fmt: skip
    assert (job["state"], job["snapshot"]) == ("succeeded", "s1")


def test_the_same_key_submits_once(shell: Shell, name: str) -> None:
    key = uuid.uuid4().hex
    first = create(shell, name, "--idempotency-key", key)
    assert create(shell, name, "--idempotency-key", key)["id"] == first["id"]
    problem = shell.json(
        "submit", "volume.create", "--backend", "fast", "--volume", f"{name}-b", "size=1M",
        "--idempotency-key", key, status=4,
    )  # fmt: skip
    assert problem["code"] == "idempotency_mismatch"


FLEET = """\
ref,action,backend,volume,snapshot,depends_on,priority,size,metadata.owner
a,volume.create,fast,{0}-1,,,5,10M,billing
b,volume.grow,fast,{0}-1,,a,,20M,
c,snapshot.create,fast,{0}-1,monday,b,,,
,volume.create,ram,{0}-2,,,,1G,
"""


@pytest.fixture
def fleet(tmp_path: Path, name: str) -> Path:
    file = tmp_path / "fleet.csv"
    file.write_text(FLEET.format(name))
    return file


def test_a_batch_file_sent_twice_with_a_key_is_done_once(
    shell: Shell, name: str, fleet: Path
) -> None:
    form = ("batch", str(fleet), "--wait", "--idempotency-key", uuid.uuid4().hex)
    first = shell.json(*form)
    assert (first["state"], first["total"], first["succeeded"]) == ("succeeded", 4, 4)
    second = shell.json(*form)
    assert (second["id"], second["job_ids"]) == (first["id"], first["job_ids"])
    volume = shell.json("volume", "show", f"{name}-1", "--backend", "fast")
    assert (volume["size_bytes"], volume["metadata"]) == (20 * 2**20, {"owner": "billing"})
    jobs = shell.json("job", "list", "--batch", str(first["id"]))["items"]
    assert sorted(job["id"] for job in jobs) == sorted(first["job_ids"])


def test_a_batch_comes_from_standard_input_too(shell: Shell, name: str) -> None:
    job = {"action": "volume.create", "backend": "ram", "volume": name, "params": {"size": "1M"}}
    batch = shell.json("batch", "-", "--wait", stdin=json.dumps(job) + "\n")
    assert batch["state"] == "succeeded"


def test_a_batch_is_accepted_whole_or_not_at_all(shell: Shell, name: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(
        f"action,backend,volume,size\nvolume.create,fast,{name},1M\nvolume.grow,fast,{name}-x,2M\n"
    )
    problem = shell.json("batch", str(file), status=3)
    assert problem["code"] == "unknown_volume"
    assert problem["detail"].startswith("row 3: ")
    shell.json("volume", "show", name, "--backend", "fast", status=3)


def test_a_batch_file_with_a_fault_names_row_and_column(
    shell: Shell, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(f"action,backend,volume,size\nvolume.create,fast,{name},10Q\n")
    problem = shell.json("batch", str(file), status=2)
    assert (problem["code"], problem["row"], problem["column"]) == ("invalid_size", 2, "size")


def test_lists_are_one_document_with_a_cursor(shell: Shell, name: str) -> None:
    create(shell, f"{name}-1", backend="ram")
    create(shell, f"{name}-2", backend="ram")
    jobs = shell.json("job", "list", "--state", "waiting,queued,running", "--limit", "1000")
    assert {"items", "cursor"} == set(jobs)
    volumes = shell.json("volume", "list", "--backend", "ram")
    assert {f"{name}-1", f"{name}-2"} <= {volume["name"] for volume in volumes["items"]}
    first = shell.json("job", "list", "--limit", "1")
    assert len(first["items"]) == 1
    second = shell.json("job", "list", "--limit", "1", "--cursor", first["cursor"])
    assert second["items"][0]["id"] < first["items"][0]["id"]


# -- exit statuses ------------------------------------------------------------------------


def test_a_job_that_was_canceled_is_status_1(shell: Shell, name: str) -> None:
    job = shell.json(
        "submit", "volume.create", "--backend", "ram", "--volume", name, "size=1M",
        "--run-at", FAR,
    )  # fmt: skip
    canceled = shell.json("job", "cancel", str(job["id"]))
    assert canceled["state"] == "canceled"
    assert shell.json("job", "wait", str(job["id"]), status=1)["state"] == "canceled"


def test_a_job_that_failed_is_status_1_whatever_its_code(
    shell: Shell, product: Any, name: str
) -> None:
    create(shell, name)
    [image] = product.volumes.rglob(f"{name}~*")
    image.unlink()
    done = shell.run("volume", "grow", name, "--backend", "fast", "size=2M", "--wait", "--json")
    job = json.loads(done.stdout)
    assert (done.returncode, job["state"]) == (1, "failed")
    # As a refusal this code would be status 3.
    assert job["error"]["code"] == "unknown_volume"
    assert "unknown_volume" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("submit volume.create --backend fast --volume x size=10Q", "invalid_size"),
        ("submit volume.create --backend fast --volume x size=0", "invalid_size"),
        ("submit volume.create --backend fast --volume x", "missing_field"),
        ("submit volume.create --volume x size=1M", "missing_field"),
        ("submit volume.create --backend fast --volume ../x size=1M", "invalid_name"),
        ("submit volume.create --backend fast --volume x size=1M colour=red", "unknown_parameter"),
        ("submit volume.explode --backend fast --volume x", "unknown_action"),
        ("submit volume.create size", "invalid_input"),
        ("submit", "invalid_input"),
        ("submit volume.create --colour", "invalid_input"),
        ("job wait 1 --timeout -1", "invalid_input"),
        ("job wait", "invalid_input"),
        ("explode", "invalid_input"),
        ("batch does-not-exist.csv", "invalid_input"),
        ("job list --action volume.grwo", "unknown_action"),
        ("event list --kind volume.removed", "invalid_input"),
        ("event follow --kind volume.removed", "invalid_input"),
        ("plan", "invalid_input"),
    ],
)
def test_wrong_usage_and_invalid_input_are_status_2(shell: Shell, words: str, code: str) -> None:
    assert shell.json(*words.split(), status=2)["code"] == code


def test_shrinking_is_refused_with_status_2(shell: Shell, name: str) -> None:
    create(shell, name)
    problem = shell.json(
        "submit", "volume.grow", "--backend", "fast", "--volume", name, "size=4K", status=2
    )
    assert problem["code"] == "shrink_refused"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("submit volume.create --backend nope --volume x size=1M", "unknown_backend"),
        ("submit volume.wipe --backend fast --volume none", "unknown_volume"),
        ("volume show none --backend fast", "unknown_volume"),
        ("backend show nope", "unknown_backend"),
        ("job list --backend nope", "unknown_backend"),
        ("event list --backend nope", "unknown_backend"),
        ("event follow --backend nope", "unknown_backend"),
        ("audit findings --backend nope", "unknown_backend"),
        ("quota list --backend nope", "unknown_backend"),
        ("job show 999999999", "unknown_job"),
        ("job wait 999999999", "unknown_job"),
        ("job wait --batch 999999999", "unknown_job"),
        ("token revoke nope", "not_found"),
    ],
)
def test_what_is_not_there_is_status_3(shell: Shell, words: str, code: str) -> None:
    assert shell.json(*words.split(), status=3)["code"] == code


def test_a_taken_name_and_an_ended_job_are_status_4(shell: Shell, name: str) -> None:
    job = create(shell, name)
    target = ("--backend", "fast", "--volume", name)
    problem = shell.json("submit", "volume.create", *target, "size=1M", status=4)
    assert problem["code"] == "already_exists"
    assert shell.json("job", "cancel", str(job["id"]), status=4)["code"] == "job_ended"


def test_a_wrong_token_and_a_small_role_are_status_5(shell: Shell, name: str) -> None:
    wrong = shell.run("job", "list", "--json", env={"ORCHESTRATOR_TOKEN": "wrong"})
    assert (wrong.returncode, json.loads(wrong.stdout)["code"]) == (5, "not_authenticated")
    token = shell.json("token", "create", name, "--role", "reader")["token"]
    env = {"ORCHESTRATOR_TOKEN": token}
    form = ("submit", "volume.create", "--backend", "fast", "--volume", name, "size=1M", "--json")
    small = shell.run(*form, env=env)
    assert (small.returncode, json.loads(small.stdout)["code"]) == (5, "not_allowed")
    assert shell.run("volume", "list", "--backend", "fast", env=env).returncode == 0


def test_a_job_that_goes_on_is_status_6(shell: Shell, name: str) -> None:
    form = ("submit", "volume.create", "--backend", "ram", "--volume", name, "size=1M")
    done = shell.run(*form, "--run-at", FAR, "--wait", "--timeout", "0.5", "--json")
    job = json.loads(done.stdout)
    assert (done.returncode, job["state"]) == (6, "waiting")
    assert f"orchestrator job wait {job['id']}" in done.stderr
    assert shell.json("job", "wait", str(job["id"]), "--timeout", "0", status=6)["id"] == job["id"]
    shell.ok("job", "cancel", str(job["id"]))


@pytest.mark.parametrize(
    "words",
    [
        ("job", "list"),
        ("job", "wait", "1"),
        ("submit", "volume.create", "--backend", "fast", "--volume", "x", "size=1M", "--wait"),
        ("event", "follow"),
    ],
)
def test_an_unreachable_service_is_status_7(shell: Shell, words: Sequence[str]) -> None:
    env = {"ORCHESTRATOR_URL": "http://127.0.0.1:1"}
    done = shell.run(*words, "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (7, "unavailable")
    assert "http://127.0.0.1:1" in done.stderr
    assert "ORCHESTRATOR_URL" in done.stderr


def test_an_interrupted_wait_leaves_the_job_and_names_it(shell: Shell, name: str) -> None:
    form = ("submit", "volume.create", "--backend", "ram", "--volume", name, "size=1M")
    # The job appears before the command waits for it: an interrupt from then on finds it waiting.
    with shell.start(*form, "--run-at", FAR, "--wait", "--timeout", "inf", "--json") as process:
        found: list[Any] = []
        while not found:
            assert process.poll() is None
            found = shell.json("job", "list", "--volume", name)["items"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    job = str(found[0]["id"])
    if "before the service answered" not in err:
        assert f"job {job} goes on" in err
        assert json.loads(out)["state"] == "waiting"
    assert shell.json("job", "show", job)["state"] == "waiting"
    shell.ok("job", "cancel", job)


# -- the other commands -------------------------------------------------------------------


def test_a_plan_tells_and_changes_nothing(shell: Shell, name: str, fleet: Path) -> None:
    plan = shell.json("plan", "volume.create", "--backend", "fast", "--volume", name, "size=1M")
    assert [job["volume"] for job in plan["jobs"]] == [name]
    plan = shell.json("plan", "--file", str(fleet))
    assert [job["ref"] for job in plan["jobs"]] == ["a", "b", "c", None]
    assert shell.json("job", "list", "--volume", name)["items"] == []
    shell.json("volume", "show", f"{name}-1", "--backend", "fast", status=3)


def test_a_size_whose_unit_was_forgotten_is_doubted(
    shell: Shell, name: str, tmp_path: Path
) -> None:
    form = ("volume.create", "--backend", "ram", "--volume", name, "size=10")
    doubt = "the size is 10 bytes, less than 1 MiB: a number without a unit is bytes"
    assert shell.json("plan", *form)["jobs"][0]["notes"] == [doubt]
    assert f"warning: {doubt}" in shell.run("submit", *form).stderr
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"action,backend,volume,size\nvolume.create,ram,{name}-b,10\n")
    assert f"warning: row 2: {doubt}" in shell.run("batch", str(sheet)).stderr


def test_each_action_on_a_volume_has_its_command(shell: Shell, name: str) -> None:
    target = ("--backend", "fast", "--wait")
    shell.json("volume", "create", name, *target, "size=1M")
    shell.json("volume", "grow", name, *target, "size=2M")
    shell.json("volume", "update", name, *target, 'metadata={"a": "b"}')
    shell.json("volume", "set-info", name, *target, "info=originstname+web1")
    shell.json("snapshot", "create", "s1", "--volume", name, *target)
    shell.json("volume", "clone", f"{name}-c", *target, f"source={name}", "--snapshot", "s1")
    shell.json("volume", "rollback", name, *target, "--snapshot", "s1")
    shell.json("snapshot", "delete", "s1", "--volume", name, *target)
    shell.json("volume", "rename", f"{name}-c", *target, f"new_name={name}-d")
    job = shell.json("volume", "remove", f"{name}-d", *target, "wipe=true", "--reason", "old")
    assert (job["state"], job["params"], job["reason"]) == ("succeeded", {"wipe": True}, "old")


def test_contents_are_exported_imported_on_a_host_and_copied(
    shell: Shell, product: Any, name: str
) -> None:
    image, target = product.exchange / f"{name}.raw", ("--backend", "fast", "--wait")
    create(shell, name)
    shell.json("volume", "export", name, *target, f"target={image}", "--host", product.host)
    assert image.stat().st_size == 2**20
    imported = ("volume", "import", f"{name}-i", *target, f"image={image}", "size=2M")
    job = shell.json(*imported, "--host", product.host)
    assert (job["state"], job["host"]) == ("succeeded", product.host)
    copied = (f"source={name}-i", "source_backend=fast")
    job = shell.json("volume", "copy", f"{name}-c", "--backend", "ram", "--wait", *copied)
    assert job["result"]["size_bytes"] == 2 * 2**20
    refused = shell.json("volume", "export", name, *target, "target=/etc/motd", status=5)
    assert (refused["code"], refused["field"]) == ("forbidden_place", "params.target")


def test_how_the_service_is_fits_on_a_screen(shell: Shell, product: Any) -> None:
    told = shell.json("status")
    assert (told["url"], told["you"]["role"], told["queue"]["accepting"]) == (
        product.url,
        "admin",
        True,
    )
    assert {backend["name"] for backend in told["backends"]} == {"fast", "ram"}
    alive = [worker for worker in told["workers"] if worker["alive"]]
    assert {tuple(worker["backends"]) for worker in alive} == {("fast", "ram")}
    shown = shell.ok("status")
    assert "no worker is alive" not in shown
    assert len(shown.splitlines()) < 40
    mended = {"ORCHESTRATOR_CONFIG": str(product.config), "ORCHESTRATOR_DATA": str(product.data)}
    if product.database_url.startswith("postgresql"):
        mended["ORCHESTRATOR_DATABASE__URL"] = product.database_url
    assert shell.run("doctor", env=mended).returncode == 0


def test_the_queue_is_drained_and_resumed(shell: Shell, name: str) -> None:
    assert shell.json("queue", "drain", "--reason", "maintenance")["accepting"] is False
    try:
        form = ("volume", "create", name, "--backend", "fast", "size=1M")
        assert shell.json(*form, status=4)["code"] == "queue_drained"
        assert "refused" in shell.ok("queue", "show")
    finally:
        assert shell.json("queue", "resume")["accepting"] is True
    shell.json(*form, "--wait")


def test_ended_jobs_are_archived(shell: Shell, product: Any, name: str) -> None:
    job = create(shell, name)
    waiting = shell.json("volume", "grow", name, "--backend", "fast", "size=2M", "--run-at", FAR)
    refused = shell.json("job", "archive", str(job["id"]), str(waiting["id"]), status=4)
    assert refused["code"] == "wrong_state"
    assert shell.json("job", "archive", str(job["id"])) == {"jobs": 1}
    _until(lambda: shell.run("job", "show", str(job["id"]), "--json").returncode == 3)
    gone = shell.json("job", "show", str(job["id"]), status=3)
    assert gone["code"] == "gone"
    told: list[Any] = []
    for path in (product.data / "archive").glob("jobs-*.jsonl.gz"):
        with gzip.open(path, "rt") as file:
            told += [json.loads(line) for line in file]
    assert [one["volume"] for one in told if one["id"] == job["id"]] == [name]
    shell.ok("job", "cancel", str(waiting["id"]))
    assert shell.json("job", "archive", "--ended-before", "9999d") == {"jobs": 0}


def _until(condition: Any) -> None:
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until, "it never happened"


def test_locks_are_taken_renewed_released_and_broken(shell: Shell, name: str) -> None:
    create(shell, name)
    target = (name, "--backend", "fast")
    assert shell.json("lock", "show", *target, status=3)["code"] == "not_found"
    assert shell.json("lock", "renew", *target, "--owner", "n1", status=3)["code"] == "not_found"
    lock = shell.json("lock", "take", *target, "--owner", "n1", "--seconds", "60")
    assert lock["owner"] == "n1"
    assert shell.json("lock", "take", *target, "--owner", "n2", status=4)["code"] == "locked"
    assert shell.json("lock", "renew", *target, "--owner", "n2", status=4)["code"] == "locked"
    renewed = shell.json("lock", "renew", *target, "--owner", "n1", "--seconds", "600")
    assert renewed["expires_at"] > lock["expires_at"]
    assert shell.json("lock", "show", *target)["owner"] == "n1"
    listed = shell.json("lock", "list", "--volume", name, "--owner", "n1")["items"]
    assert [(lock["backend"], lock["volume"]) for lock in listed] == [("fast", name)]
    assert "n1" in shell.ok("lock", "list", "--backend", "fast", "--volume", name)
    assert shell.json("lock", "release", *target, "--owner", "n1")["lock"] is None
    shell.json("lock", "take", *target, "--owner", "n1")
    broken = shell.json("lock", "break", *target, "--reason", "n1 is dead")
    assert (broken["lock"], broken["held"]["owner"]) == (None, "n1")
    assert "nothing was done" in shell.ok("lock", "break", *target, "--reason", "again")
    shell.json("lock", "take", *target, "--owner", "n1")
    assert "broke the lock that n1 held" in shell.ok("lock", "break", *target, "--reason", "dead")


def test_jobs_are_reordered_retried_and_watched(shell: Shell, product: Any, name: str) -> None:
    image = product.exchange / f"{name}.raw"
    form = ("submit", "volume.import", "--backend", "fast", "--volume", name)
    job = str(shell.json(*form, f"image={image}", "size=1M", "--run-at", FAR)["id"])
    assert shell.json("job", "priority", job, "-5")["priority"] == -5
    shell.json("job", "cancel", job)
    later = shell.json("job", "retry", job)
    assert (later["retry_of"], later["state"]) == (int(job), "waiting"), "its time is kept"
    shell.json("job", "cancel", str(later["id"]))
    failed = shell.json(*form, f"image={image}", "size=1M", "--wait", status=1)
    image.write_bytes(bytes(range(256)) * 16)
    again = shell.json("job", "retry", str(failed["id"]), "--wait")
    assert (again["retry_of"], again["state"]) == (failed["id"], "succeeded")
    assert shell.json("job", "watch", str(again["id"]))["state"] == "succeeded"


def test_a_batch_is_waited_for_and_canceled(shell: Shell, name: str) -> None:
    table = f"action,backend,volume,size,run_at\nvolume.create,ram,{name},1M,{FAR}\n"
    batch = str(shell.json("batch", "-", stdin=table)["id"])
    assert shell.json("job", "wait", "--batch", batch, "--timeout", "0", status=6)
    assert shell.json("job", "cancel", "--batch", batch)["canceled"] == 1
    assert shell.json("job", "wait", "--batch", batch, status=1)["state"] == "failed"


def test_tokens_are_made_listed_and_revoked(shell: Shell, name: str) -> None:
    made = shell.json("token", "create", name, "--role", "reader", "--days", "1")
    assert made["id"] in {token["id"] for token in shell.json("token", "list")["items"]}
    assert made["token"] not in shell.ok("token", "list")
    assert shell.json("token", "revoke", made["id"])["revoked"] is True
    assert shell.json("token", "revoke", made["id"], status=3)["code"] == "not_found"


def test_quotas_are_set_explained_and_removed(shell: Shell, name: str) -> None:
    project = f"p{name}"
    made = shell.json("token", "create", name, "--project", project)
    tokens = shell.json("token", "list")["items"]
    assert {token["project"] for token in tokens if token["id"] == made["id"]} == {project}
    here = ("--backend", "fast")
    quota = shell.json("quota", "set", project, *here, "--bytes", "3M", "--snapshots", "0")
    assert (quota["max_bytes"], quota["max_volumes"], quota["max_snapshots"]) == (
        3 * 2**20,
        None,
        0,
    )
    theirs = {"ORCHESTRATOR_TOKEN": made["token"]}
    grown = ("submit", "volume.create", *here, "--volume", name, "--json")
    job = json.loads(shell.run(*grown, "size=2M", "--wait", env=theirs).stdout)
    assert (job["state"], job["account"]) == ("succeeded", project)
    with shell.start(*grown[:-2], f"{name}-2", "size=2M", "--json", env=theirs) as refused:
        problem = json.loads(refused.communicate(timeout=90)[0])
    assert (refused.returncode, problem["code"]) == (4, "quota_exceeded")
    assert (problem["used"], problem["asked"]) == (2 * 2**20, 2 * 2**20)
    assert [
        q["used"]["bytes"] for q in shell.json("quota", "list", "--account", project)["items"]
    ] == [2 * 2**20]
    shown = shell.json("quota", "show", project)
    [entry] = shown["entries"]["items"]
    assert (entry["volume"], entry["job"], entry["bytes"]) == (name, job["id"], 2 * 2**20)
    assert shell.json("quota", "show", project, "--at", "2001-01-01T00:00:00Z")["backends"] == []
    assert name in shell.ok("quota", "show", project, *here)
    assert shell.json("quota", "remove", project, *here)["removed"] is True
    assert shell.json("quota", "remove", project, *here, status=3)["code"] == "not_found"


def test_event_numbers_of_another_epoch_are_refused_with_what_to_do(shell: Shell) -> None:
    page = shell.json("event", "list", "--limit", "1")
    epoch = page["epoch"]
    refused = shell.json("event", "list", "--after", "1", "--epoch", str(epoch + 1), status=3)
    assert (refused["code"], refused["epoch"]) == ("epoch_changed", epoch)
    assert shell.json("event", "list", "--after", "1", "--epoch", str(epoch))["epoch"] == epoch


def test_a_name_in_a_filter_that_is_not_known_is_answered_with_the_nearest(shell: Shell) -> None:
    for words, meant in (
        ("job list --backend fasst", "fast"),
        ("backend show fasst", "fast"),
        ("submit volume.create --backend fasst --volume x size=1M", "fast"),
        ("plan volume.create --backend fasst --volume x size=1M", "fast"),
        ("event list --backend rm", "ram"),
        ("event list --kind job.succeded", "job.succeeded"),
        ("job list --action volume.grwo", "volume.grow"),
    ):
        assert f": did you mean '{meant}'?" in shell.run(*words.split()).stderr


def test_the_newest_events_are_listed_and_those_to_come_followed(shell: Shell, name: str) -> None:
    create(shell, name)
    everything: list[Any] = []
    # Events are read once the scheduler has numbered them.
    while "job.succeeded" not in [event["kind"] for event in everything]:
        everything = shell.json("event", "list", "--volume", name, "--after", "0")["items"]
    newest = shell.json("event", "list", "--volume", name, "--limit", "2")
    assert newest["items"] == everything[-2:]
    assert newest["next_after"] == everything[-1]["number"]
    assert "the newest 2;" in shell.run("event", "list", "--limit", "2").stderr
    with shell.start("event", "follow", "--volume", name) as process:
        assert process.stdout is not None
        # A reader that was there before sees what is done after.
        while not select.select([process.stdout], [], [], 0.05)[0]:
            shell.ok("lock", "take", name, "--backend", "fast", "--owner", "h")
        assert "lock." in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_list_that_stops_says_how_many_more_there_are(shell: Shell, name: str) -> None:
    for number in range(3):
        create(shell, f"{name}-{number}", backend="ram")
    done = shell.run("volume", "list", "--backend", "ram", "--limit", "1")
    assert re.search(r"^[0-9]+ more; --limit shows more of them$", done.stderr, re.MULTILINE)
    whole = shell.run("job", "list", "--volume", f"{name}-0", "--limit", "1")
    assert (whole.returncode, whole.stderr) == (0, "")


def test_events_are_listed_and_followed(shell: Shell, name: str) -> None:
    create(shell, name)
    page = shell.json("event", "list", "--volume", name)
    assert {"items", "next_after", "epoch"} == set(page)
    with shell.start("event", "follow", "--volume", name, "--after", "0", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["volume"], first["kind"]) == (name, "job.submitted")
        assert first["epoch"] == page["epoch"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.parametrize(
    "words",
    [
        ("job", "list"),
        ("volume", "list"),
        ("volume", "list", "--backend", "fast"),
        ("backend", "list"),
        ("backend", "show", "fast"),
        ("backend", "refresh", "fast", "--wait"),
        ("event", "list"),
        ("token", "list"),
        ("action", "list"),
    ],
)
def test_people_get_a_table_and_programs_a_document(shell: Shell, words: Sequence[str]) -> None:
    assert isinstance(shell.json(*words), dict)
    table = shell.ok(*words)
    assert table.strip()
    with pytest.raises(ValueError):
        json.loads(table)


def test_the_service_of_this_machine_is_found_without_being_told(product: Any) -> None:
    env = {
        name: value
        for name, value in product.env.items()
        if name not in ("ORCHESTRATOR_URL", "ORCHESTRATOR_TOKEN")
    }
    env["ORCHESTRATOR_DATA"] = str(product.data)
    command = [sys.executable, "-m", "orchestrator", "backend", "list", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    names = {backend["name"] for backend in json.loads(done.stdout)["items"]}
    assert {"fast", "ram"} <= names


def test_an_open_token_file_is_refused_with_a_warning(product: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "endpoint.json").write_text(json.dumps({"url": product.url}))
    (data / "endpoint.json").chmod(0o600)
    (data / "token").write_text(product.token)
    (data / "token").chmod(0o644)
    env = {
        **product.env,
        "ORCHESTRATOR_URL": product.url,
        "ORCHESTRATOR_DATA": str(data),
        "XDG_STATE_HOME": str(tmp_path),
    }
    env.pop("ORCHESTRATOR_TOKEN", None)
    command = [sys.executable, "-m", "orchestrator", "job", "list"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert f"warning: {data / 'token'} is not used" in done.stderr


def test_a_kind_without_commands_of_its_own_is_listed_and_shown(shell: Shell, name: str) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli import root\n"
        "root.DERIVED.append('policy')\n"
        "sys.exit(root.run(sys.argv[1:]))\n"
    )

    def run(*words: str) -> str:
        command = [sys.executable, "-c", code, "policy", *words]
        done = subprocess.run(command, env=shell.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = json.loads(run("create", name, "--backend", "ram", "rules=[]", "--wait", "--json"))
    assert (made["state"], made["policy"]) == ("succeeded", name)
    listed = json.loads(run("list", "--backend", "ram", "--json"))
    assert name in [one["name"] for one in listed["items"]]
    assert json.loads(run("show", name, "--backend", "ram", "--json"))["name"] == name
    heading, *rows = run("list", "--backend", "ram").splitlines()
    assert heading.split()[:4] == ["backend", "name", "state", "rules"]
    assert any(name in row for row in rows)
    assert f"name     {name}" in run("show", name, "--backend", "ram")


def test_jobs_are_listed_by_what_they_name(shell: Shell, name: str) -> None:
    here = ("--backend", "ram", "--wait")
    shell.ok("policy", "create", name, *here)
    shell.ok("policy", "create", f"{name}-2", *here)
    shell.ok("volume", "create", name, "size=1M", *here)
    shell.ok("policy", "assign", "--policy", name, "--volume", name, *here)
    listed = shell.json("job", "list", "--policy", name)
    assert [job["action"] for job in listed["items"]] == ["policy.assign", "policy.create"]
    listed = shell.json("job", "list", "--policy", name, "--volume", name)
    assert [job["action"] for job in listed["items"]] == ["policy.assign"]


HEAVY = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "celery", "redis", "structlog")


@pytest.mark.parametrize("words", [("--help",), ("submit", "volume.create", "size=1M")])
def test_commands_of_the_client_do_without_what_servers_need(words: Sequence[str]) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli.root import run\n"
        f"run({list(words)!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    env = {**os.environ, "ORCHESTRATOR_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_reader_that_has_had_enough_is_no_error(shell: Shell) -> None:
    command = f"{sys.executable} -m orchestrator action list | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=shell.env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("action")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_and_version_need_no_service(shell: Shell) -> None:
    assert "Exit status" in shell.ok("--help")
    assert shell.ok("--version").startswith("orchestrator ")
    assert "size=" in shell.ok("volume", "grow", "--help")
    assert "volume.create" in complete(shell, "orchestrator submit volume.cr")


def complete(shell: Shell, line: str) -> str:
    """What bash would be offered at the end of a line."""
    env = {"_ORCHESTRATOR_COMPLETE": "complete_bash", "COMP_WORDS": line}
    return shell.run(env={**env, "COMP_CWORD": str(len(line.split()) - 1)}).stdout
