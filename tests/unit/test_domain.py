"""The ground floor: names, sizes, errors, and that declarations agree with one another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.actions.requests import parse_request
from orchestrator.domain.errors import InvalidName, InvalidSize, Problem, problem_for, vocabulary
from orchestrator.domain.names import check_backend_name, check_host_name, check_volume_name
from orchestrator.domain.sizes import MAX_SIZE, format_size, parse_size, round_up
from orchestrator.domain.states import Role

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        ("10G", 10 * 2**30),
        ("512M", 512 * 2**20),
        ("1T", 2**40),
        ("4k", 4096),
        ("2GiB", 2**31),
        ("2gb", 2**31),
        ("7B", 7),
        (4096, 4096),
        (4096.0, 4096),
        ("10Gi", 10 * 2**30),
        ("1.5G", 3 * 2**29),
        ("1.5T", 3 * 2**39),
        ("206 GiB", 206 * 2**30),
        (" 206GiB ", 206 * 2**30),
        ("10,5G", 21 * 2**29),
        ("0.5Ki", 512),
        ("2.0", 2),
        (MAX_SIZE, MAX_SIZE),
    ],
)
def test_sizes_are_read(written: int | float | str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    [
        *["", "G", "10X", "-1", "+1", "1e3", "10  G", "٣", 0, -1, True, 1.5, None, "8E", 2**63],
        *["1.5", "0.1G", ".5G", "1.G", "1.5.5G", "1,500G", "1,024", "10 Q", "0.0G"],
        *[float("inf"), float("nan")],
    ],
)
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(InvalidSize):
        parse_size(written)  # type: ignore[arg-type]


def test_what_a_size_lacks_is_told() -> None:
    with pytest.raises(InvalidSize, match=r"'1.1G' is no whole number of bytes: .* 1181116007$"):
        parse_size("1.1G")
    with pytest.raises(InvalidSize, match="can be read in two ways"):
        parse_size("1,500G")


@given(st.integers(1, 2**62))
def test_a_formatted_size_is_exact_or_says_so(size: int) -> None:
    written = format_size(size)
    assert "." in written or parse_size(written) == size


@given(st.integers(1, 2**50), st.integers(1, 2**20))
def test_rounding_up_reaches_the_next_grain(size: int, grain: int) -> None:
    rounded = round_up(size, grain)
    assert rounded % grain == 0
    assert size <= rounded < size + grain


@pytest.mark.parametrize(
    "name", ["a", "a/b", ":/x", "node:/vol/1", "x" * 255, "...", "a/.../b", "+", ".hidden", "_"]
)
def test_volume_names_that_are_allowed(name: str) -> None:
    assert check_volume_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", ".", "..", "a/..", "../a", "a/./b", "x" * 256, "a b", "a\n", "a\0", "é", "a%2Fb"],
)
def test_volume_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidName):
        check_volume_name(name)


def test_backend_and_host_names() -> None:
    assert check_backend_name("fast-1_a") == "fast-1_a"
    assert check_host_name("node1.example.com") == "node1.example.com"
    for name in ("", "Fast", "-a", "a/b", "a" * 64):
        with pytest.raises(InvalidName):
            check_backend_name(name)
    for name in ("", "-a", "a-", "a_b", "a b", "a" * 254):
        with pytest.raises(InvalidName):
            check_host_name(name)


def test_every_error_has_a_code_of_its_own_and_a_sentence() -> None:
    kinds = [kind for kind in vocabulary() if not kind.__name__.startswith("_")]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.title().endswith((".", "'.", "again.")), kind
        assert 0 <= kind.exit_status <= 7
        assert problem_for(kind.code) is kind
    assert problem_for("from the future") is Problem


def test_roles_include_the_ones_below() -> None:
    assert Role.ADMIN.includes(Role.READER)
    assert not Role.READER.includes(Role.OPERATOR)


def test_every_setting_is_documented() -> None:
    from orchestrator.settings import BackendSettings, Settings

    text = (DOCS / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if name in ("url", "token"):
            continue
        inner = getattr(section, "model_fields", None)
        for setting in [f"{name}.{key}" for key in inner] if inner else [name]:
            assert f"`{setting}" in text, setting
    for key in BackendSettings.model_fields:
        assert f"backends.NAME.{key}" in text, key


CREATE = {"action": "volume.create", "backend": "fast", "volume": "vm1", "params": {"size": "1G"}}


@pytest.mark.parametrize(
    ("written", "code", "detail"),
    [
        (
            {**CREATE, "action": "volume.craete"},
            "unknown_action",
            "there is no action 'volume.craete': did you mean 'volume.create'?",
        ),
        (
            {**CREATE, "action": "volume.move"},
            "unknown_action",
            "there is no action 'volume.move'; 'orchestrator action list' and GET /v1/actions "
            "list those there are",
        ),
        (
            {**CREATE, "params": {"size": "1G", "metadta": {}}},
            "unknown_parameter",
            "the action takes no parameter 'metadta': did you mean 'metadata'?",
        ),
        (
            {**CREATE, "params": {"size": "1G", "colour": "red"}},
            "unknown_parameter",
            "the action takes no parameter 'colour'; it takes size, metadata, parameters, settings",
        ),
        (
            {**CREATE, "params": {"size": "1G", "size_bytes": 1}},
            "unknown_parameter",
            "size and size_bytes are two names of one parameter: give one of them",
        ),
        (
            {"action": "volume.create", "bakend": "fast", "volume": "vm1", "params": {"size": 1}},
            "unknown_field",
            "'bakend' is not known here: did you mean 'backend'?",
        ),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(
    written: object, code: str, detail: str
) -> None:
    with pytest.raises(Problem) as caught:
        parse_request(written)
    assert (caught.value.code, caught.value.detail) == (code, detail)
