"""``python -m benchmarks.soak``: a steady load for long, and whether anything grows but the record.

Volumes are created, grown, snapshotted and removed at a steady pace, far below what the service
can do, so that the inventory stays the same size and only the history grows. The first third of
the time does not count; the last third is compared with the one in the middle. What the work
explains is:

- rows of history: for every job as many as before, and none in other tables;
- bytes of tables and indexes: for each of these rows no more than before;
- files of the storage: for every job no more bytes than before.

All else stays as it is: latency, memory, open files, threads, connections.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import bulk
from benchmarks.bulk import plain
from benchmarks.figures import percentile
from benchmarks.product import RAM, Product, resident_mib
from benchmarks.report import number
from benchmarks.stand import Stand
from workers.backends.memory.store import place

#: Tables that keep rows of what was done; all others hold what is, which stays the same.
HISTORY = frozenset(
    {
        *("jobs", "job_steps", "job_attempts", "job_dependencies", "job_targets", "batches"),
        *("events", "event_commits", "event_chain", "event_objects", "idempotency_keys"),
        *("volumes", "volume_versions", "snapshots", "capacity_days"),
    }
)
#: By how much more of something there may be than in the middle third: a share, and so many.
_SHARE = 0.10
_SLACK = {"rows": 100, "MiB": 4.0, "ms": 2.0, "": 2}
#: Samples of each third, and clients that share the load.
_SAMPLES, _CLIENTS = 10, 8
#: What is done to each volume, in turn.
_LIFE = ("volume.create", "volume.grow", "snapshot.create", "snapshot.delete", "volume.remove")
_WRITTEN = Path("build/soak.json")


@dataclass(frozen=True)
class Sample:
    """The state of things at one moment."""

    #: Jobs done until then; milliseconds of those since the sample before.
    jobs: int
    latencies: Sequence[float]
    #: By table: rows, and bytes of it and of each of its indexes, by their names.
    rows: Mapping[str, int]
    tables: Mapping[str, Mapping[str, int]]
    #: MiB of files, and of the memory of processes, by what they are.
    files: Mapping[str, float]
    memory: Mapping[str, float]
    #: Open files and threads of processes, connections to the database.
    held: Mapping[str, int]


@dataclass(frozen=True)
class Judged:
    """Something that could have grown: how much of it there was in the last two thirds."""

    what: str
    unit: str
    middle: float
    last: float
    #: How much there may be in the last.
    most: float

    @property
    def grew(self) -> bool:
        """Whether there is more of it than the work explains."""
        return self.last > self.most


def main(words: Sequence[str] | None = None) -> int:
    """Load, sample, and tell; 0 if nothing grew that the work does not explain."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--rate", type=float, default=50, help="jobs a second (default: 50)")
    arguments = parser.parse_args(words)
    console = Console()
    told = f"{arguments.rate:g} jobs/s for {arguments.minutes:g} minutes …"
    with Stand() as stand, stand.product() as product, console.status(told):
        samples = _soak(product, arguments.minutes * 60, arguments.rate)
    judged = judge(samples)
    _show(console, judged, samples)
    _WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    written = {"samples": [*map(asdict, samples)], "judged": [*map(asdict, judged)]}
    _WRITTEN.write_text(json.dumps(written, indent=1) + "\n")
    return 1 if any(one.grew for one in judged) else 0


# -- judging ------------------------------------------------------------------------------


def judge(samples: Sequence[Sample]) -> list[Judged]:
    """Compare the last third of the samples with the one in the middle."""
    third = len(samples) // 3
    begin, turn, end = samples[third], samples[2 * third], samples[-1]
    middle, last = samples[third + 1 : 2 * third + 1], samples[2 * third + 1 :]
    found = []
    for share in (0.5, 0.99):
        some = [
            percentile([ms for one in part for ms in one.latencies], share)
            for part in (middle, last)
        ]
        found.append(_judged(f"latency, {share:.0%} within", "ms", *some))
    for what in sorted(end.memory):
        of = [median(one.memory.get(what, 0.0) for one in part) for part in (middle, last)]
        found.append(_judged(f"memory of {what}", "MiB", *of))
    for what in sorted(end.held):
        most = [max(one.held.get(what, 0) for one in part) for part in (middle, last)]
        found.append(_judged(what, "", *most))
    jobs = turn.jobs - begin.jobs, end.jobs - turn.jobs
    for what in sorted(end.files):
        added = [two.files[what] - one.files[what] for one, two in ((begin, turn), (turn, end))]
        found.append(_judged(f"files of {what}, added", "MiB", *added, scale=jobs[1] / jobs[0]))
    for table in sorted(end.rows):
        found += _of_table(table, begin, turn, end)
    return found


def _of_table(table: str, begin: Sample, turn: Sample, end: Sample) -> Iterator[Judged]:
    rows = [turn.rows[table] - begin.rows[table], end.rows[table] - turn.rows[table]]
    jobs = [turn.jobs - begin.jobs, end.jobs - turn.jobs]
    explained = max(0, rows[0]) * jobs[1] / jobs[0] if table in HISTORY else 0.0
    most = explained * (1 + _SHARE) + _SLACK["rows"]
    yield Judged(f"{table}: rows added", "rows", rows[0], rows[1], most)
    for name, size in end.tables[table].items():
        now, then = size / 2**20, turn.tables[table].get(name, 0) / 2**20
        # As many bytes a row as there were: of those that it had, and of those that it got.
        wanted = then * max(1.0, end.rows[table] / max(1, turn.rows[table]))
        most = wanted * (1 + _SHARE) + _SLACK["MiB"]
        yield Judged(name, "MiB", then, now, most)


def _judged(what: str, unit: str, middle: float, last: float, *, scale: float = 1.0) -> Judged:
    most = max(0.0, middle) * scale * (1 + _SHARE) + _SLACK[unit]
    return Judged(what, unit, middle, last, most)


def _show(console: Console, judged: Sequence[Judged], samples: Sequence[Sample]) -> None:
    table = Table("", "middle third", "last third", "at most", "grew", box=None)
    for one in judged:
        # What is small and stayed so says nothing.
        if one.grew or max(one.middle, one.last) > _SLACK[one.unit]:
            values = (f"{number(value)} {one.unit}" for value in (one.middle, one.last, one.most))
            table.add_row(one.what, *values, "[bold red]yes" if one.grew else "")
    console.print(table)
    grew = [one.what for one in judged if one.grew]
    console.print(f"{samples[-1].jobs:,} jobs.", highlight=False)
    if grew:
        console.print(f"[bold red]Grew without reason:[/] {'; '.join(grew)}")
    else:
        console.print("Nothing grew that the work does not explain.")


# -- load ---------------------------------------------------------------------------------


def _soak(product: Product, seconds: float, rate: float) -> list[Sample]:
    """Samples at even distances, taken while clients work at a steady pace."""
    with psycopg.connect(plain(product.database_url), autocommit=True) as connection:
        row = connection.execute("SELECT uuid FROM installation").fetchone()
        assert row is not None  # noqa: S101 - the product has been there
        probe = _Probe(product, connection, place(RAM, row[0]))
        with _load(product, rate) as load:
            samples, begun = [probe.sample(load)], time.monotonic()
            count = 3 * _SAMPLES
            for place_ in range(1, count + 1):
                load.wait(begun + place_ * seconds / count)
                samples.append(probe.sample(load))
        return samples


class _Load:
    """What the clients have done, and whether they are to stop."""

    def __init__(self) -> None:
        self.jobs = 0
        self._latencies: list[float] = []
        self._guard = threading.Lock()
        self.ended = threading.Event()
        self._failed: BaseException | None = None

    def done(self, ms: float) -> None:
        """Note a job that a client has done."""
        with self._guard:
            self.jobs += 1
            self._latencies.append(ms)

    def failed(self, error: BaseException) -> None:
        """Note that a client cannot go on."""
        self._failed = error
        self.ended.set()

    def take(self) -> tuple[int, list[float]]:
        """The jobs so far, and the latencies since the last call."""
        with self._guard:
            taken, self._latencies = self._latencies, []
            return self.jobs, taken

    def wait(self, until: float) -> None:
        """Wait for this moment. Raises what a client has failed with."""
        self.ended.wait(max(0.0, until - time.monotonic()))
        if self._failed is not None:
            raise RuntimeError("a client of the load has failed") from self._failed


@contextmanager
def _load(product: Product, rate: float) -> Iterator[_Load]:
    """Clients that do ``rate`` jobs a second together, until the block ends."""
    load = _Load()
    with ThreadPoolExecutor(_CLIENTS) as threads:
        for number_ in range(_CLIENTS):
            threads.submit(_client, product, load, number_, _CLIENTS / rate)
        try:
            yield load
        finally:
            load.ended.set()


def _client(product: Product, load: _Load, number_: int, pause: float) -> None:
    client, due = product.client(), time.monotonic()
    try:
        for turn, action in _endless():
            due += pause
            if load.ended.wait(max(0.0, due - time.monotonic())):
                break
            path, body = "/v1/jobs", _request(action, f"soak{number_}/vol{turn:08}")
            begun = time.perf_counter()
            client.finish(path, body)
            load.done((time.perf_counter() - begun) * 1e3)
    except Exception as error:
        load.failed(error)
    finally:
        client.close()


def _endless() -> Iterator[tuple[int, str]]:
    turn = 0
    while True:
        turn += 1
        for action in _LIFE:
            yield turn, action


def _request(action: str, volume: str) -> bytes:
    wanted: dict[str, Any] = {"action": action, "backend": RAM, "volume": volume}
    if action in ("volume.create", "volume.grow"):
        wanted["params"] = {"size_bytes": 2**20 if action == "volume.create" else 2**21}
    elif action.startswith("snapshot."):
        wanted["snapshot"] = "before"
    return json.dumps(wanted).encode()


# -- sampling -----------------------------------------------------------------------------

_SIZES = """
SELECT owner.relname, CASE part.oid WHEN owner.reltoastrelid
        THEN owner.relname || ' (long values)' ELSE part.relname END, pg_table_size(part.oid)
FROM pg_class AS owner
JOIN pg_class AS part ON part.oid IN (owner.oid, owner.reltoastrelid)
    OR part.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = owner.oid)
WHERE owner.relkind = 'r' AND owner.relnamespace = 'public'::regnamespace
ORDER BY owner.relname, part.relkind DESC, part.relname
"""
_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class _Probe:
    """Looks at a running product, its database and its files."""

    def __init__(self, product: Product, connection: psycopg.Connection, storage: Path) -> None:
        self._product = product
        self._connection = connection
        self._storage = storage

    def sample(self, load: _Load) -> Sample:
        """The state of things now."""
        jobs, latencies = load.take()
        tables: dict[str, dict[str, int]] = defaultdict(dict)
        for table, name, size in self._connection.execute(_SIZES):
            tables[table][name] = size
        memory: dict[str, float] = defaultdict(float)
        held: dict[str, int] = defaultdict(int)
        for process, what in self._product.processes().items():
            memory[what] += resident_mib(process)
            for kind, directory in {"open files": "fd", "threads": "task"}.items():
                held[f"{kind} of {what}"] += _entries(Path(f"/proc/{process}/{directory}"))
        held["connections to the database"] = bulk.one(self._connection, _CONNECTIONS)
        return Sample(
            jobs=jobs,
            latencies=latencies,
            rows={
                table: bulk.one(self._connection, f'SELECT count(*) FROM "{table}"')  # noqa: S608
                for table in tables
            },
            tables=tables,
            files={
                "the data directory": _mib(self._product.data.rglob("*")),
                "the log": _mib([self._product.log]),
                "the storage": _mib(self._storage.parent.glob(f"{self._storage.name}*")),
            },
            memory=memory,
            held=held,
        )


def _entries(directory: Path) -> int:
    try:
        return sum(1 for _ in directory.iterdir())
    except OSError:  # the process has ended
        return 0


def _mib(files: Iterable[Path]) -> float:
    total = 0
    for path in files:
        with suppress(OSError):  # it was deleted meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total / 2**20


if __name__ == "__main__":
    sys.exit(main())
