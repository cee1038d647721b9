"""The documents agree with the code and with one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.settings import Settings
from tests.docs import client
from tests.docs.reference import DOCS, PAGES, page

ROOT = DOCS.parent
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    ROOT / "tests" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text())


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (re.sub(r"[`*]", "", found) for found in _HEADING.findall(_prose(path)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken(path: Path) -> Iterator[str]:
    for target in _LINK.findall(_prose(path)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        if not other.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in _anchors(other):
            yield f"{target}: there is no such heading"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(_broken(path)) == []


def test_the_index_names_every_page() -> None:
    linked = set(_LINK.findall((DOCS / "index.md").read_text()))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages - linked == set()


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_declares(name: str) -> None:
    assert (DOCS / name).read_text() == page(name), "run: make docs"


def test_the_client_has_the_actions_that_are_declared() -> None:
    assert client.MODULE.read_text() == client.module(), "run: make docs"


@pytest.mark.parametrize("path", sorted((DOCS / "design").glob("*.md")), ids=lambda path: path.stem)
def test_a_design_record_says_when_it_was_made_and_what_became_of_it(path: Path) -> None:
    head = path.read_text().split("\n\n")[:2]
    assert re.match(r"# \d{4} ", head[0])
    assert re.fullmatch(r"Created: \d{4}-\d\d-\d\d · Status: \w+( \w+)* · Version: [\d.]+", head[1])


def test_the_map_of_the_tests_names_every_directory() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "tests" / "README.md").read_text(), re.M))
    there = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert named == there


def test_every_command_for_contributors_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert named - targets == set()
    paths = re.findall(
        r"`((?:orchestrator|workers|migrations|tests|docs|benchmarks)/[\w./]*)`",
        (ROOT / "CONTRIBUTING.md").read_text(),
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


def _default(written: str) -> object:
    """A default as the table of settings has it, if that is a number or a truth value."""
    plain = written.replace(",", "").replace(" MiB", "")
    if plain in ("true", "false"):
        return plain == "true"
    try:
        return float(plain) * (2**20 if written.endswith(" MiB") else 1)
    except ValueError:
        return None


def test_the_table_of_settings_has_the_defaults() -> None:
    table = (DOCS / "configuration.md").read_text()
    checked = 0
    for names, written in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", table, re.M):
        defaults = written.split(", ") if names.count("`") > 2 else [written]
        for name, default in zip(re.findall(r"`([\w.]+)`", names), defaults, strict=False):
            section, _, setting = name.partition(".")
            if _default(default) is None or setting.startswith("NAME"):
                continue
            field = Settings.model_fields[section].annotation.model_fields[setting]  # type: ignore[union-attr]
            assert float(field.get_default(call_default_factory=True)) == _default(default), name
            checked += 1
    assert checked > 20


def test_pages_that_the_product_refers_to_exist() -> None:
    referring = [
        path.read_text()
        for directory in ("orchestrator", "workers", "migrations", "benchmarks", "deploy")
        for path in (ROOT / directory).rglob("*")
        if path.suffix in (".py", ".service")
    ]
    for text in referring:
        for name, heading in re.findall(r"docs/([\w/-]+\.md)(?:, \"([^\"]+)\")?", text):
            assert (DOCS / name).exists(), name
            assert not heading or heading in _HEADING.findall(_prose(DOCS / name)), heading


def test_metrics_to_alert_on_are_exported() -> None:
    named = re.findall(r"`(orchestrator_\w+)", (DOCS / "operations.md").read_text())
    exported = page("metrics.md")
    assert named
    assert [name for name in named if f"`{name}`" not in exported] == []
