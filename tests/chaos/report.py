"""The table of the matrix: what all runs have kept, written into the page on reliability."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from orchestrator.failpoints import POINTS
from tests.chaos.cases import CASES
from tests.chaos.faults import DATABASES, DRIVERS, FAULTS, ROLES
from tests.chaos.record import GREEN, Record
from tests.data import section
from tests.rigs.provenance import sentence

_TEMPLATE = Path(__file__).with_name("reliability.template.md")


def write(record: Record, page: Path, seed: int) -> None:
    """Write the page."""
    text = _TEMPLATE.read_text()
    for name, told in (
        ("totals", _totals(record, seed)),
        ("matrix", _matrix(record)),
        ("faults", _faults(record)),
        ("absent", _absent(record)),
        ("whole", _whole(record)),
    ):
        text = text.replace(f"{{{{{name}}}}}", "\n".join(told))
    page.write_text(section.kept(text, page))


def _point(step: str) -> str:
    return step.partition(":")[0]


def _totals(record: Record, seed: int) -> Iterable[str]:
    green = sum(result.outcome == GREEN for result in record.results)
    yield (
        f"{len(record.results):,} cells were tried, {green:,} of them green: {len(CASES)} cases "
        f"of {len({case.action for case in CASES.values()})} actions, {len(POINTS)} steps, drivers "
        f"{' and '.join(DRIVERS)}, databases {' and '.join(DATABASES)}, seed {seed}. "
        + sentence(result.commit for result in record.results)
    )
    for fault, why in sorted(record.untried.items()):
        yield f"Not tried: {fault}, because {why}."


def _matrix(record: Record) -> Iterable[str]:
    tried: Counter[tuple[str, str, str]] = Counter()
    green: Counter[tuple[str, str, str]] = Counter()
    for result in record.results:
        key = (result.role, _point(result.step), result.fault)
        tried[key] += 1
        green[key] += result.outcome == GREEN
    for role in ROLES:
        faults = [fault for fault, made in FAULTS.items() if role in made.roles]
        points = [point for point in POINTS if any(tried[role, point, one] for one in faults)]
        yield f"**A fault while the {'API' if role == 'api' else role} is at a step**\n"
        yield f"| step | {' | '.join(faults)} |"
        yield f"|---|{'---:|' * len(faults)}"
        for point in points:
            told = [_cell(tried[role, point, one], green[role, point, one]) for one in faults]
            yield f"| `{point}` | {' | '.join(told)} |"
        yield ""


def _cell(tried: int, green: int) -> str:
    if not tried:
        return ""
    return f"{tried}" if tried == green else f"**{green} of {tried}**"


def _faults(record: Record) -> Iterable[str]:
    yield "| fault | what happens | where |"
    yield "|---|---|---|"
    for name, fault in FAULTS.items():
        where = []
        if fault.databases != DATABASES:
            where.append(f"{', '.join(fault.databases)} only")
        if fault.drivers != DRIVERS:
            where.append(f"{', '.join(fault.drivers)} only")
        where.append(str(fault.alternating))
        yield f"| {name} | {fault.summary} | {'; '.join(where)} |"


def _absent(record: Record) -> Iterable[str]:
    """Steps with the cases that never pass them, on any driver and database."""
    passed: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in record.results:
        passed[result.role, _point(result.step)].add(result.action)
    absent: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in record.absent:
        absent[one.role, one.point].add(one.action)
    yield "| process | step | actions that do not pass it |"
    yield "|---|---|---|"
    for role in ROLES:
        for point in POINTS:
            never = absent[role, point] - passed[role, point]
            if passed[role, point] and never:
                yield f"| {role} | `{point}` | {', '.join(sorted(never))} |"
    for fault, made in FAULTS.items():
        for what, points in (("only at", made.points), ("not at", made.but_not)):
            if points:
                yield f"\n*{fault}* is tried {what} {', '.join(f'`{p}`' for p in sorted(points))}."
    for needs in sorted({case.needs for case in CASES.values() if case.needs}, key=sorted):
        names = [case.id for case in CASES.values() if case.needs == needs]
        drivers = [one for one in DRIVERS if CASES[names[0]].fits(one)]
        yield (
            f"\nOnly *{', '.join(drivers)}* has what is needed ({', '.join(sorted(needs))}) for "
            f"{', '.join(names)}."
        )


def _whole(record: Record) -> Iterable[str]:
    yield "| test | outcome |"
    yield "|---|---|"
    for name, outcome in sorted(record.whole.items()):
        yield f"| `{name}` | {outcome} |"
