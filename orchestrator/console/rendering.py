"""What turns values into HTML: the templates, and how times, sizes, states and fields are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from orchestrator.domain.sizes import format_size
from orchestrator.domain.states import (
    BackendState,
    Ending,
    FindingState,
    JobState,
    StepState,
    VolumeState,
)

_PACKAGE = "orchestrator.console"

#: What a page may load and do: its own style, script and streams, and send forms to this service.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

#: How a state is coloured: it is always written, too.
_GOOD, _BAD, _BUSY, _WARN, _IDLE = "good", "bad", "busy", "warn", "idle"
_TONES: dict[str, str] = {
    JobState.SUCCEEDED: _GOOD,
    JobState.FAILED: _BAD,
    JobState.CANCELED: _IDLE,
    JobState.RUNNING: _BUSY,
    JobState.QUEUED: _BUSY,
    JobState.WAITING: _WARN,
    VolumeState.AVAILABLE: _GOOD,
    VolumeState.ERROR: _BAD,
    VolumeState.RESTRICTED: _WARN,
    VolumeState.PENDING: _BUSY,
    BackendState.ENABLED: _GOOD,
    BackendState.DRAINING: _WARN,
    BackendState.DISABLED: _IDLE,
    FindingState.OPEN: _WARN,
    FindingState.CLOSED: _IDLE,
    StepState.DONE: _GOOD,
    StepState.INTENDED: _BUSY,
    Ending.RETRY: _WARN,
    Ending.LOST: _BAD,
    Ending.OUTAGE: _WARN,
    Ending.LIMITED: _WARN,
    Ending.HANDED_BACK: _IDLE,
    "alive": _GOOD,
    "silent": _BAD,
    "reachable": _GOOD,
    "unreachable": _BAD,
}
#: Seconds of each unit of a relative time, the largest first.
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_NOTHING = Markup('<span class="none">none</span>')


def when(moment: datetime | None, now: datetime) -> Markup:
    """A time as people say it, with the exact one (UTC) as its title: ``3 min ago``."""
    if moment is None:
        return _NOTHING
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S} UTC", _relative(moment, now)
    )


def _relative(moment: datetime, now: datetime) -> str:
    seconds = int((now - moment).total_seconds())
    told = span(abs(seconds))
    if abs(seconds) < 2:
        return "now"
    return f"{told} ago" if seconds > 0 else f"in {told}"


def span(seconds: float) -> str:
    """A length of time in its largest unit: ``90 min`` is ``1 h``."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 1 else "0 s"


def lasted(since: datetime | None, until: datetime | None) -> str:
    """How long something took; nothing while that is not known."""
    if since is None or until is None:
        return ""
    seconds = (until - since).total_seconds()
    return f"{seconds:.1f} s" if 1 <= seconds < 60 else span(seconds)


def size(size_bytes: int | None) -> Markup:
    """``10 GiB``, with the exact number of bytes as its title."""
    if size_bytes is None:
        return _NOTHING
    told = format_size(size_bytes)
    shown = f"{told[:-1]} {told[-1]}iB" if told[-1:].isalpha() else f"{told} B"
    return Markup('<span class="number" title="{} bytes">{}</span>').format(
        f"{size_bytes:,}", shown
    )


def state(word: object) -> Markup:
    """A state: its word, and a colour that says the same."""
    return Markup('<span class="state {}">{}</span>').format(_TONES.get(str(word), _IDLE), word)


def count(number: int) -> str:
    """A number with its thousands divided."""
    return f"{number:,}"


def path(*segments: object) -> str:
    """A path of these segments, each percent-encoded: names may hold slashes."""
    return "".join(f"/{quote(str(segment), safe='')}" for segment in segments)


def query(**given: object) -> str:
    """A query of what is given, or nothing."""
    told = {name: value for name, value in given.items() if value not in (None, "")}
    return f"?{urlencode(told)}" if told else ""


def bar(part: float, whole: float) -> Markup:
    """A bar of how much of the whole this is; beside it stands the same in words."""
    share = 0.0 if whole <= 0 else max(0.0, min(100.0, 100.0 * part / whole))
    return bars([("fill", share)])


def bars(shares: Sequence[tuple[str, float]]) -> Markup:
    """A bar of several parts, each with its class and its share in hundredths."""
    drawn, begin = Markup(), 0.0
    for tone, share in shares:
        drawn += Markup('<rect class="{}" x="{}" width="{}" height="8"/>').format(
            tone, f"{begin:.2f}", f"{share:.2f}"
        )
        begin += share
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" width="100" height="8"/>{}</svg>'
    ).format(drawn)


@pass_context
def _when(context: Context, moment: datetime | None) -> Markup:
    return when(moment, context["now"])


@pass_context
def field(context: Context, value: Any, name: str = "") -> Markup:
    """A field of any answer, by its type and its name."""
    if value is None or value in ("", [], {}, ()):
        return _NOTHING
    if isinstance(value, bool):
        return Markup("yes") if value else Markup("no")
    if isinstance(value, datetime):
        return when(value, context["now"])
    if isinstance(value, int) and name.endswith("_bytes"):
        return size(value)
    if isinstance(value, int | float):
        return Markup('<span class="number">{}</span>').format(
            value if name == "id" or name.endswith("_id") else f"{value:,}"
        )
    if name == "state":
        return state(value)
    if name == "jobs" and isinstance(value, Sequence):
        url = context["url"]
        links = [Markup('<a href="{}">{}</a>').format(url("jobs", job), job) for job in value]
        return Markup(", ").join(links)
    if isinstance(value, Mapping):
        rows = [
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(
                part if name == "metadata" else words(str(part)),
                field(context, one, str(part)),
            )
            for part, one in value.items()
        ]
        return Markup('<dl class="parts">{}</dl>').format(Markup().join(rows))
    if isinstance(value, Sequence) and not isinstance(value, str):
        rows = [Markup("<li>{}</li>").format(field(context, one)) for one in value]
        return Markup('<ul class="parts">{}</ul>').format(Markup().join(rows))
    if name == "backend":
        return Markup('<a href="{}">{}</a>').format(context["url"]("backends", value), value)
    return Markup('<span class="text">{}</span>').format(value)


def words(name: str) -> str:
    """A field's name as a heading: ``created_at`` is ``created``."""
    for ending in ("_at", "_bytes"):
        name = name.removesuffix(ending)
    return name.replace("_", " ")


@cache
def asset(name: str) -> bytes:
    """The file of this name that pages load. Raises `KeyError` if there is none."""
    files = {one.name: one for one in (resources.files(_PACKAGE) / "assets").iterdir()}
    return files[name].read_bytes()


@cache
def version_of(name: str) -> str:
    """What tells this version of an asset from any other."""
    return hashlib.sha256(asset(name)).hexdigest()[:16]


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "when": _when,
        "size": size,
        "state": state,
        "field": field,
        "words": words,
        "count": count,
    }
    made.globals |= {"bar": bar, "bars": bars, "lasted": lasted, "query": query, "zip": zip}
    return made


_templates = _environment()


def render(template: str, **values: Any) -> str:
    """The HTML of a template; ``values`` have ``now``, to which times are relative."""
    return _templates.get_template(template).render(values)
