"""Celery as most people run it: the task is the message. Workers of the tests load this."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from celery import Celery

#: Where the settings of a worker's application come from.
SETTINGS = "PLAIN_SETTINGS"
#: The directory with the journal of what tasks did, and the file that lets holding tasks go.
DIRECTORY = "PLAIN_DIRECTORY"

app = Celery("plain", set_as_current=False)
app.conf.update(json.loads(os.environ.get(SETTINGS, "{}")))
directory = Path(os.environ.get(DIRECTORY, ""))


def _note(line: str) -> None:
    with (directory / "journal").open("a") as journal:
        journal.write(f"{line}\n")


@app.task(name="quick")
def quick(name: str, payload: str = "") -> None:
    """Leave a line."""
    _note(f"{name} done")


@app.task(name="long")
def long(name: str) -> None:
    """Leave a line, work until the test lets go, and leave another."""
    _note(f"{name} started")
    while not (directory / "let-go").exists():
        time.sleep(0.02)
    _note(f"{name} done")
