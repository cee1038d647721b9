"""``key=value`` words on the command line."""

from typing import Any

import pytest

from orchestrator.cli.key_values import read_words
from orchestrator.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("action", "words", "params"),
    [
        ("volume.create", ["size=10G"], {"size": "10G"}),
        ("volume.create", ["size_bytes=1024"], {"size_bytes": "1024"}),
        ("volume.clone", ["source=golden", "size=1T"], {"source": "golden", "size": "1T"}),
        ("volume.create", ['metadata={"a": "b"}'], {"metadata": {"a": "b"}}),
        ("volume.update", ['metadata={"a": null}'], {"metadata": {"a": None}}),
        (
            "volume.create",
            ["metadata.owner=billing", "metadata.cost.center=7"],
            {"metadata": {"owner": "billing", "cost.center": "7"}},
        ),
        ("volume.create", ["metadata.note=a=b"], {"metadata": {"note": "a=b"}}),
        ("volume.remove", ["wipe=true"], {"wipe": True}),
        ("volume.remove", ["wipe=False"], {"wipe": False}),
        ("volume.set_info", ["info="], {"info": ""}),
        ("volume.set_info", ["info=true"], {"info": "true"}),
        ("volume.rename", ["new_name=42"], {"new_name": "42"}),
        ("backend.drain", [], {}),
    ],
)
def test_a_value_has_the_type_its_parameter_is_declared_with(
    action: str, words: list[str], params: dict[str, Any]
) -> None:
    assert read_words(action, words) == params


@pytest.mark.parametrize("action", ["volume.create", "volume.explode"])
def test_what_is_not_declared_is_left_to_the_service(action: str) -> None:
    assert read_words(action, ["colour=true"]) == {"colour": "true"}


@pytest.mark.parametrize(
    ("action", "words", "part"),
    [
        ("volume.create", ["10G"], "KEY=VALUE"),
        ("volume.create", ["=10G"], "KEY=VALUE"),
        ("volume.create", ["size=1G", "size=2G"], "size is given twice"),
        ("volume.create", ["metadata.a=1", "metadata.a=2"], "metadata.a is given twice"),
        ("volume.create", ["metadata.a=1", "metadata={}"], "metadata is given twice"),
        ("volume.create", ["metadata={}", "metadata.=1"], "either whole or entry by entry"),
        ("volume.create", ["size=1G", "size.a=1"], "either whole or entry by entry"),
        ("volume.create", ["metadata=owner"], "is no JSON"),
        ("volume.create", ["metadata=[1]"], "is no JSON"),
        ("volume.create", ['metadata={"a": "1", "a": "2"}'], "metadata: 'a' is twice"),
        ("volume.remove", ["wipe=perhaps"], "true or false"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(action: str, words: list[str], part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_words(action, words)
    assert part in caught.value.detail
