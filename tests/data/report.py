"""The table of the matrix of data, written into the page on reliability."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.data.cases import CASES
from tests.data.choice import Choice, excluded
from tests.data.grounds import GROUNDS
from tests.data.lives import LIVES
from tests.data.moments import MOMENTS
from tests.data.others import OTHERS
from tests.data.record import GREEN, LEFT_OUT, RED, Record
from tests.data.section import placed
from tests.data.states import STATES
from tests.rigs.provenance import sentence

_TEMPLATE = Path(__file__).with_name("reliability.template.md")


def write(record: Record, page: Path, seed: int) -> None:
    """Write the section."""
    text = _TEMPLATE.read_text()
    for name, told in (
        ("totals", _totals(record, seed)),
        ("matrix", _matrix(record)),
        ("states", _states(record)),
        ("others", _others()),
        ("moments", (f"- *{name}*: {what}" for name, what in MOMENTS.items())),
        ("lives", (f"- *{life.name}*: {life.summary}" for life in LIVES.values())),
        ("left_out", _left_out(record)),
        ("excluded", _excluded()),
        ("whole", _whole(record)),
    ):
        text = text.replace(f"{{{{{name}}}}}", "\n".join(told))
    page.write_text(placed(page.read_text(), text))


def _totals(record: Record, seed: int) -> Iterable[str]:
    counts = Counter((result.database, result.outcome) for result in record.results)
    whole = sum(len(Choice(long=True, seed=seed, cell=None).cells(name)) for name in GROUNDS)
    for database, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        green, red, left = (counts[database, one] for one in (GREEN, RED, LEFT_OUT))
        yield (
            f"On {name}, {green + red + left:,} of {whole:,} cells were looked at: {green:,} are "
            f"green, {red:,} are not, and {left:,} do not apply."
        )
    yield (
        f"They are {len(CASES)} cases of {len({case.action for case in CASES.values()})} actions, "
        f"{len(STATES)} states, {len(OTHERS)} things that others do, and {len(GROUNDS)} storages, "
        f"seed {seed}; the tables are of both databases together. "
        + sentence(result.commit for result in record.results)
    )


def _matrix(record: Record) -> Iterable[str]:
    tried: Counter[tuple[str, str]] = Counter()
    green: Counter[tuple[str, str]] = Counter()
    for result in record.results:
        if result.outcome != LEFT_OUT:
            key = (result.cell.case, result.cell.ground)
            tried[key] += 1
            green[key] += result.outcome == GREEN
    yield f"| case | {' | '.join(GROUNDS)} |"
    yield f"|---|{'---:|' * len(GROUNDS)}"
    for case in CASES:
        told = (_cell(tried[case, ground], green[case, ground]) for ground in GROUNDS)
        yield f"| {case} | {' | '.join(told)} |"


def _states(record: Record) -> Iterable[str]:
    tried: Counter[tuple[str, str]] = Counter()
    green: Counter[tuple[str, str]] = Counter()
    for result in record.results:
        if result.outcome != LEFT_OUT:
            key = (result.cell.others, result.cell.state)
            tried[key] += 1
            green[key] += result.outcome == GREEN
    yield f"| others | {' | '.join(STATES)} |"
    yield f"|---|{'---:|' * len(STATES)}"
    for others in OTHERS:
        told = (_cell(tried[others, state], green[others, state]) for state in STATES)
        yield f"| {others} | {' | '.join(told)} |"


def _cell(tried: int, green: int) -> str:
    if not tried:
        return ""
    return f"{tried}" if tried == green else f"**{green} of {tried}**"


def _others() -> Iterable[str]:
    yield "| | what it is |"
    yield "|---|---|"
    for state in STATES.values():
        yield f"| state: {state.name} | {state.summary} |"
    for others in OTHERS.values():
        yield f"| others: {others.name} | {others.summary} |"


def _left_out(record: Record) -> Iterable[str]:
    """Cells that did not come about, by their reason."""
    reasons = Counter(result.why for result in record.results if result.outcome == LEFT_OUT)
    yield "| cells | why |"
    yield "|---:|---|"
    for why, count in reasons.most_common():
        yield f"| {count} | {why} |"


def _excluded() -> Iterable[str]:
    where: dict[str, list[str]] = defaultdict(list)
    for name, ground in GROUNDS.items():
        for why in excluded(ground):
            where[why].append(name)
    yield "| what | not on |"
    yield "|---|---|"
    for why, names in sorted(where.items()):
        yield f"| {why} | {', '.join(names)} |"


def _whole(record: Record) -> Iterable[str]:
    yield "| test | outcome |"
    yield "|---|---|"
    for name, outcome in sorted(record.whole.items()):
        yield f"| `{name}` | {outcome} |"
