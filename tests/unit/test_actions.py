"""Every action has all that belongs to it, and what lacks some of it does not start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from orchestrator.actions.registry import ACTIONS, declared
from orchestrator.actions.requests import REQUESTS
from orchestrator.actions.volume.grow import GROW
from orchestrator.actions.volume.rename import RENAME
from orchestrator.actions.volume.verify import VERIFY
from orchestrator.cli.root import app as command_line
from orchestrator.domain.action import Action, Need
from orchestrator.domain.errors import Unsupported
from orchestrator.domain.installed import DRIVERS, GROUP, Installed
from orchestrator.settings import load_settings
from tests.chaos.cases import CASES as BROKEN_OFF
from tests.chaos.faults import DRIVERS as MATRIX_DRIVERS
from tests.data.cases import CASES as AMONG_OTHERS
from workers.actions.registry import HANDLERS, handlers_in
from workers.backends.base.abilities import Ability
from workers.backends.base.driver import Driver
from workers.execution.handler import Handler
from workers.execution.work import Done

ROOT = Path(__file__).parents[2]

each = pytest.mark.parametrize("action", ACTIONS.values(), ids=lambda action: action.name)


def module(**names: Any) -> ModuleType:
    made = ModuleType("made")
    vars(made).update(names)
    return made


# -- what keeps a process from starting ---------------------------------------------------


def test_actions_are_listed_in_the_order_that_they_declare() -> None:
    assert list(declared([module(a=VERIFY, b=GROW), module(c=GROW)])) == [
        "volume.grow",
        "volume.verify",
    ]


def test_an_action_has_a_rule() -> None:
    with pytest.raises(TypeError, match="'checks'"):
        Action(name="volume.zap", order=1, summary="", audit="", route=("", ""))  # type: ignore[call-arg]


def test_two_actions_have_neither_one_name_nor_one_place() -> None:
    with pytest.raises(TypeError, match=r"volume\.grow is declared twice"):
        declared([module(a=GROW, b=replace(GROW, order=1))])
    with pytest.raises(TypeError, match=r"volume\.grow and volume\.zap have one order"):
        declared([module(a=GROW, b=replace(GROW, name="volume.zap"))])


def test_nothing_starts_with_an_action_that_no_driver_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    load_settings()
    others = [one for one in entry_points(group=GROUP) if one.name != "ontap"]
    monkeypatch.setattr("orchestrator.settings.DRIVERS", Installed(lambda: others))
    with pytest.raises(Unsupported, match=r"volume\.client_locks, which .* client_locks$"):
        load_settings()


def test_nothing_starts_while_no_driver_has_the_method_of_an_action(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    without = {n: replace(s, capabilities=s.capabilities - {"trim"}) for n, s in DRIVERS.items()}
    installed = Installed(list)
    vars(installed)["_found"] = (without, {})
    monkeypatch.setattr("orchestrator.settings.DRIVERS", installed)
    with pytest.raises(Unsupported, match=r"volume\.trim, which .* trim$"):
        load_settings()


def test_a_driver_has_a_capability_if_it_has_its_methods() -> None:
    for spec in DRIVERS.values():
        module_name, _, name = spec.target.partition(":")
        driver = getattr(import_module(module_name), name)
        assert (
            ("trim" in driver.declared())
            is hasattr(driver, "trim")
            is ("trim" in spec.capabilities)
        )
    assert "trim" not in DRIVERS["ontap"].capabilities
    assert "trim" in DRIVERS["file"].capabilities


def test_each_action_has_one_handler_and_each_handler_an_action() -> None:
    grow, rename = HANDLERS["volume.grow"], HANDLERS["volume.rename"]
    both = {"volume.grow": GROW, "volume.rename": RENAME}
    assert handlers_in([module(HANDLERS=(grow,)), module(HANDLERS=(rename,))], both)
    with pytest.raises(TypeError, match=r"no handler of volume\.rename"):
        handlers_in([module(HANDLERS=(grow,)), module()], both)
    with pytest.raises(TypeError, match=r"volume\.grow has two"):
        handlers_in([module(HANDLERS=(grow, grow, rename))], both)
    with pytest.raises(TypeError, match=r"volume\.rename, which is no action"):
        handlers_in([module(HANDLERS=(grow, rename))], {"volume.grow": GROW})


def test_a_handler_tells_what_became_of_a_change_or_takes_back_what_it_left() -> None:
    def run(_: Any) -> Done:
        return Done()

    with pytest.raises(TypeError, match=r"volume\.grow: 'outcome'"):
        Handler(GROW, run)
    with pytest.raises(TypeError, match=r"volume\.verify: 'outcome'"):
        Handler(VERIFY, run, outcome=HANDLERS["volume.grow"].outcome)
    with pytest.raises(TypeError, match=r"volume\.verify: 'undo'"):
        Handler(VERIFY, run, undo=HANDLERS["volume.export"].undo)


# -- what tests and pages have for each action ---------------------------------------------


@each
def test_an_action_has_a_request_and_a_handler(action: Action) -> None:
    assert action.name in REQUESTS
    assert HANDLERS[action.name].action is action


@each
def test_an_action_is_a_command(action: Action) -> None:
    root: Any = typer.main.get_command(command_line)
    assert action.verb.replace("_", "-") in root.commands[action.kind].commands


@each
def test_every_parameter_is_described(action: Action) -> None:
    for name, field in action.params.model_fields.items():
        assert field.description or name == "metadata", name


@each
def test_an_action_is_in_the_pages_that_list_actions(action: Action) -> None:
    assert f"\n## {action.name}\n" in (ROOT / "docs" / "actions.md").read_text(), "make docs"
    if action.needs["volume"] is not Need.NO and not (action.creates and action.kind == "volume"):
        answer = "refused" if action.respects_lock else "allowed"
        row = f"| `{action.name}` | {answer} |"
        assert row in (ROOT / "docs" / "locks.md").read_text().splitlines(), (
            f"docs/locks.md has no row {row}"
        )


@each
def test_an_action_is_broken_off_in_the_crash_matrix(action: Action) -> None:
    """On each of the matrix's drivers that can do it."""
    cases = [case for case in BROKEN_OFF.values() if case.action == action.name]
    for driver in MATRIX_DRIVERS:
        able = action.capability is None or action.capability in DRIVERS[driver].capabilities
        assert not able or any(case.fits(driver) for case in cases), (
            f"tests/chaos/cases.py has no Case(action={action.name!r}, …) for the driver {driver}: "
            "the initial state, the job, and one that follows it in its lane. What the job changes "
            "belongs in Model.play of tests/chaos/model.py"
        )


@each
def test_an_action_that_changes_a_volume_is_tried_while_others_use_it(action: Action) -> None:
    if action.kind in ("volume", "snapshot") and action.journaled:
        assert action.name in {case.action for case in AMONG_OTHERS.values()}, (
            f"tests/data/cases.py has no Case(action={action.name!r}, …); what the job brings "
            "about goes into tests/data/model.py"
        )


@each
def test_what_an_action_asks_of_drivers_is_tried_on_them(action: Action) -> None:
    """By the suite for every driver; by the tests of its own where one driver alone can do it."""
    if action.capability is None:
        return
    able = [name for name, spec in DRIVERS.items() if action.capability in spec.capabilities]
    assert able, f"no driver has {action.capability}"
    suite = ROOT / "tests" / ("conformance" if len(able) > 1 else able[0])
    texts = [path.read_text() for path in suite.glob("test_*.py")]
    for method in methods_of(action.capability):
        called = re.compile(rf"\.{method}\b")
        assert any(called.search(text) for text in texts), (
            f"no test in {suite.relative_to(ROOT)} calls {method}() of a driver"
        )


@each
def test_what_an_action_asks_of_drivers_is_in_their_page(action: Action) -> None:
    if action.capability is None:
        return
    page = (ROOT / "docs" / "drivers.md").read_text()
    heads = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert any(f"`{action.capability}`" in head for head in heads), (
        f"the table of docs/drivers.md has no row for the capability `{action.capability}`"
    )


def methods_of(capability: str) -> Iterator[str]:
    """The methods that a driver has because of a capability."""
    able = [one for one in abilities() if vars(one).get("capability") == capability]
    if not able:
        # The core has it, whose other methods go with it.
        assert capability in Driver.declared()
    for ability in able:
        yield from (name for name, one in vars(ability).items() if callable(one))


def abilities(of: type[Ability] = Ability) -> Iterator[type[Ability]]:
    for one in of.__subclasses__():
        yield one
        yield from abilities(one)
