"""The figures: what each means, its target, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that the product promises, under its key in the results."""

    key: str
    title: str
    unit: str
    #: One of the two is the target.
    at_least: float | None = None
    at_most: float | None = None
    meaning: str

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches the target."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    @property
    def target(self) -> str:
        """The target as people read it."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}{self.unit}"
        return f"≤ {self.at_most:,g}{self.unit}"


FIGURES = {
    figure.key: figure
    for figure in (
        Figure(
            key="batch_ratio",
            title="Batch against Celery, PostgreSQL",
            unit=" times",
            at_least=8,
            meaning=(
                "Jobs a second from the request to the end of the last job: one batch of "
                "`memory` creates over HTTP with `Prefer: wait`, on PostgreSQL with fsync and "
                "synchronous_commit on; divided by the tasks a second of plain Celery: as many "
                "empty tasks, submitted with `delay` in a loop and collected with `get`."
            ),
        ),
        Figure(
            key="batch_ratio_sqlite",
            title="Batch against Celery, SQLite",
            unit=" times",
            at_least=5,
            meaning="The same on SQLite (write-ahead log, synchronous FULL).",
        ),
        Figure(
            key="single_p50",
            title="One job's latency against Celery, median",
            unit=" times",
            at_most=3.5,
            meaning=(
                "From submitting to the end of a single job on an idle system, over HTTP on a "
                "connection that is kept, with `Prefer: wait`; divided by the same for one "
                "empty Celery task, `delay().get()`. The ratio of the medians."
            ),
        ),
        Figure(
            key="single_p99",
            title="One job's latency against Celery, 99th percentile",
            unit=" times",
            at_most=5,
            meaning="The same; the ratio of the 99th percentiles.",
        ),
        Figure(
            key="single_vs_durable",
            title="One job's latency against durable queues",
            unit=" times",
            at_most=1,
            meaning=(
                "The median of a single job, as above, divided by the better of what "
                "procrastinate and PgQueuer take to run one empty job on the same PostgreSQL "
                "server, from submitting it until the submitter knows that it has ended: both "
                "keep their jobs there, as the product does. Each is as fast as its public "
                "interface allows: PgQueuer with its completion watcher and batches of one; "
                "procrastinate, which notifies nobody of an end, by asking for the job's status "
                "every millisecond. They are called in the process that measures, the product "
                "over HTTP."
            ),
        ),
        Figure(
            key="debian_create",
            title="One create on Debian's PostgreSQL 15",
            unit=" times",
            at_most=1.5,
            meaning=(
                "From submitting to the end of a single create, as above, on Debian's PostgreSQL "
                "15 with the settings that it is installed with (JIT); divided by the same on the "
                "PostgreSQL 18 that the tests bring along. The ratio of the medians."
            ),
        ),
        Figure(
            key="debian_ratio",
            title="Batch on Debian's PostgreSQL 15",
            unit=" times",
            at_least=0.8,
            meaning=(
                "Jobs a second of one batch, on the same two servers: Debian's divided by the one "
                "brought along. Most installations run on a distribution's server, whose planner "
                "is older, and which compiles statements that it thinks expensive (JIT)."
            ),
        ),
        Figure(
            key="fresh_ratio",
            title="First batches on a fresh database",
            unit=" times",
            at_least=0.8,
            meaning=(
                "Batches one after the other on a new database of a new server, Debian's "
                "PostgreSQL 15 with the settings that it is installed with. Nothing is warmed up, "
                "and only autovacuum gathers statistics, when it comes to it: plans that are made "
                "for empty tables must do for full ones. Jobs a second of the slowest of the "
                "first ten batches, divided by the median of the ten that follow."
            ),
        ),
        Figure(
            key="auditor_ratio",
            title="Under an auditor's long transaction",
            unit=" times",
            at_least=0.9,
            meaning=(
                "What a transaction costs that has read, at REPEATABLE READ, and stays open: no "
                "version of a row that it might still see can be removed. Two products on two "
                "servers do the same work by turns for ten minutes; then batch jobs a second and "
                "the median latency of a single job are compared, with the transaction still open "
                "on one of them. The worse of the two ratios, below 1 where the auditor costs "
                "something."
            ),
        ),
        Figure(
            key="clients_ratio",
            title="64 clients against Celery",
            unit=" times",
            at_least=3,
            meaning=(
                "Jobs finished a second by 64 clients that each submit one job and wait for its "
                "end, again and again; divided by the same for 64 clients doing `delay` and "
                "`get`. The clients are threads of one process in both cases, and that process "
                "shares the machine with what it measures."
            ),
        ),
        Figure(
            key="accept_rate",
            title="Jobs accepted in a batch call",
            unit=" /s",
            at_least=15_000,
            meaning=(
                "Jobs of one batch, divided by the time from the request to the answer 202: all "
                "of them are checked and committed by then."
            ),
        ),
        Figure(
            key="file_ratio",
            title="File volumes against truncate",
            unit=" times",
            at_most=2,
            meaning=(
                "Time for a batch of `file` creates to end, divided by the time that a shell "
                "loop of `truncate -s` takes for as many files on the same file system."
            ),
        ),
        Figure(
            key="history_ratio",
            title="With a history against without",
            unit=" times",
            at_most=1.10,
            meaning=(
                "What a history in the database costs: batch jobs a second, the median latency "
                "of a single job, jobs accepted a second, and jobs of 64 clients a second, each "
                "on an empty database against one with finished jobs and events. The worst of "
                "the four ratios."
            ),
        ),
        Figure(
            key="page_ms",
            title="Slowest page of a list with a history",
            unit=" ms",
            at_most=50,
            meaning=(
                "Pages of 100 jobs, volumes and events from the database that has the history, "
                "over HTTP: first pages, pages far in, and filtered as an audit asks. The "
                "slowest of their medians."
            ),
        ),
        Figure(
            key="lane_ratio",
            title="10,000 jobs on one volume against 1,000",
            unit=" times",
            at_most=1.25,
            meaning=(
                "Time a job takes in a batch of 10,000 jobs that all wait for the same volume, "
                "divided by the same in a batch of 1,000. One that is not above 1 means that "
                "the time grows no faster than the number of jobs."
            ),
        ),
        Figure(
            key="volumes_ratio",
            title="100,000 volumes in a batch against 10,000",
            unit=" times",
            at_most=1.25,
            meaning="The same for a batch of creates: 100,000 volumes with one job each.",
        ),
        Figure(
            key="memory_ratio",
            title="Memory after 100,000 jobs more",
            unit=" times",
            at_most=1.1,
            meaning=(
                "Resident memory after ten batches of 10,000 jobs, divided by that before them, "
                "which is taken after five such batches; the worst of API, workers and scheduler."
            ),
        ),
        Figure(
            key="waiters",
            title="Waiters on one job answered",
            unit=" s",
            at_most=1,
            meaning=(
                "From the moment a job ended, by the database's clock, until the last of all "
                "requests that wait for it has its whole answer, with one API process."
            ),
        ),
        Figure(
            key="attach_ms",
            title="Ganeti's attach, above a start of Python",
            unit=" ms",
            at_most=60,
            meaning=(
                "What the provider's `attach` of a `file` volume that is attached takes from start "
                "to end, less what `python3 -c pass` takes: medians of many runs, one after the "
                "other."
            ),
        ),
        Figure(
            key="million_ready",
            title="Ready with a million volumes",
            unit=" s",
            at_most=3,
            meaning=(
                "From the start of `orchestrator up` until it serves requests, with the database "
                "and the storage of a million volumes, which have five million snapshots and ten "
                "million events."
            ),
        ),
        Figure(
            key="million_pages",
            title="Slowest page of a list with a million volumes",
            unit=" ms",
            at_most=50,
            meaning="Pages of 100 of every list there, with every filter. The slowest median.",
        ),
        Figure(
            key="million_plan",
            title="Plan of 100,000 jobs with a million volumes",
            unit=" s",
            at_most=10,
            meaning=(
                "From the request to the answer that tells what a batch would do: creates, and "
                "growths of volumes that are there, in turn."
            ),
        ),
        Figure(
            key="million_drift_s",
            title="Drift audit of a million volumes",
            unit=" s",
            at_most=60,
            meaning="From the request of `backend.audit` to its end; it finds no difference.",
        ),
        Figure(
            key="million_drift_mib",
            title="Memory for that audit",
            unit=" MiB",
            at_most=200,
            meaning="By how much the resident memory of the worker grows meanwhile, at the most.",
        ),
        Figure(
            key="million_batch",
            title="Batch with a million volumes against an empty installation",
            unit=" times",
            at_least=0.9,
            meaning=(
                "Jobs a second of a batch of creates beside the million volumes, divided by the "
                "same on an installation that has none."
            ),
        ),
        Figure(
            key="verify_s",
            title="A million events verified",
            unit=" s",
            at_most=10,
            meaning=(
                "`orchestrator audit verify` of the newest million of ten million chained events, "
                "from its start to its end."
            ),
        ),
    )
}


@dataclass(frozen=True)
class Measured:
    """A figure with what came out."""

    figure: Figure
    value: float
    rounds: tuple[float, ...]

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.figure.met(self.value)


@dataclass(frozen=True)
class Reading:
    """A number behind a figure, in units of its own."""

    section: str
    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)


@dataclass
class Results:
    """Everything a run has measured."""

    figures: dict[str, Measured] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    #: Experiments that could not be made here, and why.
    left_out: dict[str, str] = field(default_factory=dict)

    def figure(self, key: str, rounds: Sequence[float]) -> None:
        """Take down a figure, one value a round; it is their median."""
        self.figures[key] = Measured(FIGURES[key], median(rounds), tuple(rounds))

    def read(self, section: str, name: str, unit: str, rounds: Sequence[float]) -> None:
        """Take down what is behind a figure."""
        self.readings.append(Reading(section, name, unit, tuple(rounds)))

    def section(self, name: str) -> list[Reading]:
        """The readings of a section, in order."""
        return [reading for reading in self.readings if reading.section == name]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours by theirs, round by round: what disturbs a round disturbs both."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
