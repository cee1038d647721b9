"""The report: a table on the terminal, the results as JSON, and the page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import FIGURES, Measured, Reading, Results
from benchmarks.queues.guarantees import GUARANTEES
from benchmarks.sizes import Sizes

_SECTIONS = {
    "batch": "One long batch",
    "single": "One job at a time",
    "durable": "One job at a time, beside durable queues",
    "debian": "Debian's PostgreSQL",
    "fresh": "A fresh database",
    "auditor": "Under an auditor",
    "clients": "64 clients at once",
    "files": "File volumes",
    "waiters": "Waiters",
    "provider": "Ganeti's attach",
    "scale": "Much at once",
    "scaling": "More workers",
    "queues": "Other queues",
    "history": "With a history",
    "pages": "Pages of lists",
    "sql": "The record, in SQL",
    "chain": "The chain of events",
    "million": "A million volumes",
    "million pages": "Pages of lists with a million volumes",
}


def show(console: Console, results: Results) -> None:
    """Print what was measured: what is behind the figures, then the figures."""
    for section, title in _SECTIONS.items():
        readings = results.section(section)
        if readings:
            table = Table("", "median", "rounds", title=title, title_justify="left", box=None)
            for reading in readings:
                unit = f" {reading.unit}"
                table.add_row(reading.name, number(reading.value) + unit, _spread(reading.rounds))
            console.print(table, "")
    if not results.figures:
        return
    table = Table("figure", "measured", "rounds", "target", "met", title="Figures")
    for measured in _in_order(results):
        table.add_row(
            measured.figure.key,
            number(measured.value) + measured.figure.unit,
            _spread(measured.rounds),
            measured.figure.target,
            "yes" if measured.met else "[bold red]no",
        )
    console.print(table)


def write_json(path: Path, results: Results, machine: dict[str, str], sizes: Sizes) -> None:
    """Write the figures under their keys; what is behind them under ``readings``."""
    told: dict[str, Any] = {key: measured.value for key, measured in results.figures.items()}
    told["met"] = {key: measured.met for key, measured in results.figures.items()}
    told["rounds"] = {key: list(measured.rounds) for key, measured in results.figures.items()}
    told["readings"] = {
        section: {
            reading.name: {
                "median": reading.value,
                "unit": reading.unit,
                "rounds": list(reading.rounds),
            }
            for reading in results.section(section)
        }
        for section in _SECTIONS
        if results.section(section)
    }
    told["left_out"] = results.left_out
    told["sizes"] = vars(sizes)
    told["machine"] = machine
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n")


def write_page(path: Path, results: Results, machine: dict[str, str], sizes: Sizes) -> None:
    """Write the page of the documentation that tells a complete run."""
    parts = [
        _HEAD.format(sizes=sizes),
        _table(
            ("figure", "measured", "rounds", "target", "met"),
            [
                (
                    f"`{measured.figure.key}`: {measured.figure.title}",
                    f"**{number(measured.value)}{measured.figure.unit}**",
                    _spread(measured.rounds),
                    measured.figure.target,
                    "yes" if measured.met else "**no**",
                )
                for measured in _in_order(results)
            ],
        ),
        "\n".join(f"- `{name}` was left out: {why}." for name, why in results.left_out.items()),
        "## What each figure means",
        "\n".join(f"- `{figure.key}`: {figure.meaning}" for figure in FIGURES.values()),
        "## The machine",
        _table(("", ""), list(machine.items())),
    ]
    for section, title in _SECTIONS.items():
        if not results.section(section):
            continue
        parts += [f"## {title}", _NOTES[section].format(sizes=sizes)]
        if section == "queues":
            parts += _compared(results.section(section))
        else:
            rows = [
                (reading.name, f"{number(reading.value)} {reading.unit}", _spread(reading.rounds))
                for reading in results.section(section)
            ]
            parts.append(_table(("", "median", "rounds"), rows))
    parts.append(_FINDINGS)
    path.write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(rounds: tuple[float, ...]) -> str:
    if len(rounds) == 1:
        return ""
    return f"{number(min(rounds))} to {number(max(rounds))}"


def _in_order(results: Results) -> list[Measured]:
    return [results.figures[key] for key in FIGURES if key in results.figures]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _compared(readings: list[Reading]) -> list[str]:
    rates = [
        (
            GUARANTEES[reading.name].name,
            f"{number(reading.value)}",
            _spread(reading.rounds),
            GUARANTEES[reading.name].run,
        )
        for reading in readings
    ]
    given = [
        (each.name, each.broker_lost, each.worker_dies, each.twice, each.order, each.resubmit)
        for each in (GUARANTEES[reading.name] for reading in readings)
    ]
    return [
        _table(("queue", "jobs/s", "rounds", "how it was run"), rates),
        "What each of them gives for it:",
        _table(
            (
                "queue",
                "lost with the broker",
                "when a worker dies",
                "a job that runs twice",
                "order",
                "may be submitted twice",
            ),
            given,
        ),
    ]


_HEAD = """\
# Performance

Written by `make bench`, which measures everything below in one run on one machine and takes about
an hour. Compared systems alternate, {sizes.rounds} rounds each; every number is the median of its
rounds. Trust the ratios: they carry over to other machines, jobs per second do not.

The product runs as `orchestrator up --workers 2` with its default settings, from the environment
that `make install` creates; the clients share the machine with it. Nothing that makes a job
durable is turned off, unless a row says so.

`build/bench.json` has the same figures under the same keys, with every round.
"""

_FINDINGS = """\
## Where the time goes

Found with py-spy, PostgreSQL's log of statement times, and the processor time of each process; on
two cores, so that everything below shares them.

- **A batch of 10,000** keeps both cores busy: three quarters of the processor time of the run are
  spent by the workers (claim, execute and write outcomes, about 0.22 ms a job) and PostgreSQL
  (0.16 ms), the rest by the API, which needs 0.05 ms a job to check and store it. In a worker a
  third goes into the storage, here SQLite in RAM.
- **A single job** takes some 11 ms of processor time, all of it one step after the other: the API
  3.5, the worker 4, PostgreSQL 3. It waits for about eleven round trips to the database, three of
  them commits that reach the disk (0.4 ms each), two messages through the broker, and a dozen times
  until a process or thread has been woken, which costs 0.05 to 0.1 ms each on a virtual machine.
- **64 clients**: what comes together is accepted, claimed and finished together, so a job needs
  only 0.5 ms of the API, 0.5 of the workers and 0.4 of PostgreSQL. Celery's own handling of a
  message is the largest single part of what is left in a worker.

What made the largest differences, in order: statements that stay prepared (a rollback makes
psycopg forget them, so reads end with a commit); plans that do not depend on how large a table was
when they were made; several statements in one round trip; transactions shared by submissions that
arrive together; fewer and cheaper wake-ups; a shortcut past the web framework for one well-formed
job; collecting garbage less often; arrays written in one piece.

Plans do not hang on what PostgreSQL knows of its tables: each thing is looked up by itself, and
states are written out so that a plan which is kept can use the index of the rows in one. On a
stock PostgreSQL 15, in a database that was never analyzed, a statement of a single job reads as
many pages after 1,700 jobs as after 200. Before, submissions walked over all jobs (19 pages, then
115), look-ups of volumes over all volumes (9, then 55), and each tick of the scheduler over all
jobs.

While a transaction stays open that may see old rows (a long report, `pg_dump`, a replication slot
that lags), rows of jobs that have left the queue cannot be removed, and whoever looks for the first
of it walks over them. Workers look for thousands of jobs at once, claim them by their ids, and are
told the ids of jobs that come alone; and the row with what a backend has promised is found by its
version, not behind all the versions before it. Under such a transaction a single job reads 55 rows
after 50 others, and after 700; when each claim looked, 81 and 743.

What was tried and made no difference beyond the noise of 3%: rows made without a look at the
cursor's description; properties of jobs computed once; JSON read without finding out its encoding
first; a file that says whether the `memory` driver has faults; updates of volumes in place (with
room in each page, and an index less that they touch).
"""

_NOTES = {
    "batch": """\
{sizes.batch:,} `memory` creates in one request, until the answer says that all have succeeded; and
{sizes.batch:,} empty Celery tasks. Both have two worker processes and a broker of their own of the
same kind. *Until accepted* is the time to the answer 202.

With synchronous_commit off, PostgreSQL answers before a commit is on disk: what was accepted or
done in the last fraction of a second before a crash of the database server may be forgotten. The
product keeps it on.
""",
    "single": """\
{sizes.singles} jobs a round, one after the other, on an idle system.
""",
    "durable": """\
{sizes.singles} jobs a round, one after the other, on an idle system: each queue has two workers
that wait for work, all on the same PostgreSQL server. A job of the product makes a volume, records
it, and leaves four events; the others' jobs are empty.
""",
    "debian": """\
{sizes.creates} creates a round, one after the other, and a batch of {sizes.batch:,}, on each of two
servers that do nothing else.
""",
    "fresh": """\
Batches of {sizes.batch:,} one after the other on Debian's PostgreSQL 15 (C locale), each round on a
new server. The first one is the first work of all processes. Between two batches, events get their
numbers.
""",
    "auditor": """\
Before the first of {sizes.fine_rounds} rounds, the transaction has been open for {sizes.auditor}
seconds. The two servers share the machine, so that what autovacuum does in vain costs both. Dead
rows are the server's own estimate at the end.
""",
    "clients": """\
{sizes.clients} clients, {sizes.jobs_of_client} jobs of each a round. All clients are threads of
one process.
""",
    "files": """\
{sizes.files:,} sparse images on the same file system. A volume is stamped with its id, published
durably in one step, and recorded in the database; a truncated file is none of these.
""",
    "waiters": """\
{sizes.waiters:,} requests wait for one job, each on a connection of its own, with one API process.
""",
    "provider": """\
One script after the other, as Ganeti's node daemon runs them before nearly everything it does, on a
volume that is attached as a loop device.
""",
    "scale": """\
One run after the other on one product with PostgreSQL. Memory is resident memory, of workers the
larger one, after {sizes.batches_before_memory} batches of {sizes.batch:,} jobs and after
{sizes.batches_for_memory} more. Jobs on one volume are `volume.verify`, each of which waits for the
one before it.
""",
    "scaling": """\
The product with one, two and four worker processes, on {sizes.rounds} batches of {sizes.batch:,}
`memory` creates each: workers share the machine's cores with everything else, so that more of them
than it has do no more. What waits for whom is seen by looking at the server's sessions during a
batch, every 20 ms. *At rest* is {sizes.rest} seconds without a job; what a worker costs then is the
difference between four and one, divided by three. [Scaling](scaling.md) says what that means for
many hosts.
""",
    "queues": """\
{sizes.queued:,} empty jobs from the first submission until the last has ended, each queue with two
worker processes and submitting in bulk where it can, on the same PostgreSQL server and the same
kind of broker. A job of the product is not empty: it makes a volume, records it, and leaves four
events.
""",
    "history": """\
Two products side by side, one on an empty database and one with {sizes.history:,} finished jobs and
five events for each, {sizes.fine_rounds} rounds.
""",
    "sql": """\
The examples of [SQL](sql.md) as an auditor runs them, in a session with default settings, with
{sizes.history:,} jobs, five events for each, and every version of their volumes, besides volumes
that lived for months with their locks and snapshots. Above 50 ms are reports, which must read
everything they are about.
""",
    "chain": """\
Links for the first million events, written as the scheduler writes them, 5,000 a transaction; and
`orchestrator audit verify` over them, on PostgreSQL. Then one byte of one event was changed, and
the command named that event.
""",
    "million": """\
An installation with {sizes.fleet:,} volumes, five snapshots and ten events for each, all of them
chained, on a `memory` backend that has them too, beside an empty one. Half of the volumes grow by
themselves. SQL are the examples of [SQL](sql.md).
""",
    "million pages": """\
Pages of 100 there, {sizes.pages} times each, over HTTP: every list with every filter.
""",
    "pages": """\
Pages of 100 on the database with the history, {sizes.pages} times each, over HTTP; the time holds
the answer's way as JSON, too.
""",
}
