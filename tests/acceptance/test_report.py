"""Reports as those who answer for storage get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_command_line import Shell, create

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(product: Any) -> Shell:
    return Shell(product)


def test_a_report_is_a_page_or_tables_or_a_document(shell: Shell, tmp_path: Path) -> None:
    create(shell, "reported", backend="ram")
    told = shell.json("audit", "report", "--backend", "ram")
    assert told["backend"] == "ram"
    assert {"volume.create"} <= {row["action"] for row in told["jobs"]}
    assert shell.json("audit", "report", "--from", "2020-01-01", "--to", "2020-01-02")["jobs"] == []
    path = tmp_path / "report.html"
    assert str(path) in shell.ok("audit", "report", "--output", str(path))
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert shell.ok("audit", "report", "--format", "csv").startswith("section,from,to,")
    refused = shell.json("audit", "report", "--from", "2020-01-02", "--to", "2020-01-01", status=2)
    assert refused["field"] == "from"
    refused = shell.json("audit", "report", "--output", str(tmp_path / "no" / "where"), status=2)
    assert refused["field"] == "output"


def test_a_reader_may_have_a_report(shell: Shell, product: Any) -> None:
    token = shell.json("token", "create", "auditor", "--role", "reader")["token"]
    done = shell.run("audit", "report", "--json", env={"ORCHESTRATOR_TOKEN": token})
    assert done.returncode == 0, done.stderr


def test_granting_on_sqlite_tells_what_to_do_instead(shell: Shell, product: Any) -> None:
    env = {"ORCHESTRATOR_DATABASE__URL": product.database_url}
    done = shell.run("db", "grant-audit", "nobody-there", "--json", env=env)
    assert done.returncode in (2, 3)
    assert "role" in done.stdout
