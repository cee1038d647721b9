"""The examples of docs/sql.md, to be run as they stand there on data of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
_EXAMPLE = re.compile(
    r"^### (?P<title>.+?)$(?:(?!^### ).)*?^```sql$\n(?P<sql>.*?)^```$", re.MULTILINE | re.DOTALL
)


def examples(values: Mapping[str, str]) -> dict[str, str]:
    """The statements by their titles; ``values`` stand for what they have between quotes."""
    found = {match["title"]: match["sql"] for match in _EXAMPLE.finditer(_PAGE.read_text())}
    for title, statement in found.items():
        for written, meant in values.items():
            statement = statement.replace(f"'{written}'", f"'{meant}'")
        found[title] = statement
    return found
