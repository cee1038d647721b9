"""Exports of events: all of them, once, in files that are whole."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.contract.events import Event
from orchestrator.history.events import read_after
from orchestrator.ledger import chain, event_files
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.files import NameTakenError, write_lines
from orchestrator.store.tables import schedules
from tests.engine.conftest import Engine, create
from tests.engine.test_chain import chained, count
from tests.engine.test_schedules import at, by_hand, put, show, tick

pytestmark = pytest.mark.either_database


@pytest.fixture
def exporting(engine: Engine) -> Engine:
    """Some history, and a schedule that exports it."""
    put(engine, cron="0 0 * * *", action="events.export", backend=None, volumes=None)
    engine.submit(*(create(f"vm{n}") for n in range(5)), reason="für dich")
    engine.work()
    chained(engine)
    return engine


def read(directory: Path) -> tuple[list[Any], list[Any]]:
    """The events of all files in their order, and the heads that the files end with."""
    events: list[Any] = []
    heads: list[Any] = []
    for path in sorted(directory.iterdir(), key=lambda path: int(path.name.split("-")[1])):
        assert path.stat().st_mode & 0o777 == 0o600
        with gzip.open(path, "rt") as file:
            *lines, head = map(json.loads, file)
        first, last = path.name.removesuffix(".jsonl.gz").split("-")[1:3]
        assert [lines[0]["number"], lines[-1]["number"]] == [int(first), int(last)]
        events += lines
        heads.append(head["head"])
    return events, heads


def feed(engine: Engine) -> list[Any]:
    """All events as readers of the feed are told them."""
    with engine.database.read() as connection:
        rows = read_after(connection, 0, 10_000)
    return [json.loads(Event.model_validate(dict(row._mapping)).model_dump_json()) for row in rows]


def test_an_export_is_what_the_feed_tells_and_goes_on_where_it_ended(exporting: Engine) -> None:
    directory = exporting.settings.exports
    tick(exporting, at(0.1))
    told, heads = read(directory)
    assert told == feed(exporting)
    assert len(told) == count(exporting)
    head = exporting.database.look(chain.head)
    assert [(one["number"], one["link"]) for one in heads] == [head]
    result = show(exporting)["last_result"]
    assert (result["events"], result["last"], result["link"]) == (len(told), *(head or ()))
    file = directory / result["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == result["sha256"]
    exporting.submit(create("later"))
    exporting.work()
    chained(exporting)
    tick(exporting, at(5))
    assert read(directory)[0] == told, "not before its time"
    tick(exporting, at(24.1))
    assert read(directory)[0] == feed(exporting)
    tick(exporting, at(48.1))
    assert len(list(directory.iterdir())) == 2, "nothing new, no file"
    assert show(exporting)["last_result"]["events"] == 0
    assert show(exporting)["last_result"]["last"] == count(exporting)


def test_two_schedulers_export_every_event_once(
    exporting: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "AT_ONCE", 4)
    monkeypatch.setattr(event_files, "_PAGE", 3)

    both = threading.Barrier(2, timeout=60)
    hosts = [settings.data / "exports-1", settings.data / "exports-2"]

    def scheduler(directory: Path) -> None:
        database = Database(settings.database_url, pool_size=2)
        both.wait()
        tick(exporting, at(0.1), database, exports=directory)
        database.close()

    threads = [threading.Thread(target=scheduler, args=[host]) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [read(host) for host in hosts if host.exists()]
    told = sorted((one for events, _ in found for one in events), key=lambda one: one["number"])
    assert told == feed(exporting)
    assert sum(len(heads) for _, heads in found) > 2
    assert show(exporting)["last_result"]["events"] == len(told)
    assert show(exporting)["next_at"] == at(24)


def test_a_crash_before_the_commit_loses_and_overwrites_nothing(exporting: Engine) -> None:
    tick(exporting, at(0.1))
    [file] = exporting.settings.exports.iterdir()
    written = file.read_bytes()
    with exporting.database.write() as connection:
        connection.execute(update(schedules).values(next_at=at(0), last_due_at=None))
        connection.execute(update(schedules).values(last_result=None))
    tick(exporting, at(0.2))
    assert [one.read_bytes() for one in exporting.settings.exports.iterdir()] == [written]
    assert show(exporting)["last_result"]["events"] == count(exporting)


def test_an_export_that_cannot_be_written_is_told_and_comes_later(exporting: Engine) -> None:
    exporting.settings.exports.write_text("in the way")
    tick(exporting, at(0.1))
    found = show(exporting)
    assert found["last_result"]["error"]
    assert found["next_at"] == at(24)
    exporting.settings.exports.unlink()
    tick(exporting, at(24.1))
    assert read(exporting.settings.exports)[0] == feed(exporting)
    assert "error" not in show(exporting)["last_result"]


def test_an_export_by_hand_is_left_to_the_scheduler(exporting: Engine) -> None:
    tick(exporting, at(0.1))
    exporting.submit(create("later"))
    exporting.work()
    chained(exporting)
    assert by_hand(exporting)["job_ids"] == []
    assert show(exporting)["next_at"] < at(0)
    tick(exporting, at(0.2))
    assert len(read(exporting.settings.exports)[1]) == 2
    assert show(exporting)["next_at"] == at(24)


def test_a_file_is_whole_or_not_there_and_never_overwritten(tmp_path: Path) -> None:
    def broken() -> Any:
        yield {"a": 1}
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_lines(tmp_path / "new", "x.jsonl.gz", broken())
    assert list((tmp_path / "new").iterdir()) == []
    first = write_lines(tmp_path, "x.jsonl.gz", [{"a": 1}])
    assert write_lines(tmp_path, "x.jsonl.gz", [{"a": 1}]) == first
    with pytest.raises(NameTakenError):
        write_lines(tmp_path, "x.jsonl.gz", [{"a": 2}])
    with gzip.open(tmp_path / "x.jsonl.gz", "rt") as file:
        assert file.read() == '{"a":1}\n'
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.jsonl.gz"]
