"""What each action needs and what it leaves behind: a table of checks and effects.

A check raises the `Problem` that names the field at fault and the remedy; it runs at
submission against the outlook, and again at execution against what is there. An effect
plays a successful job forward on the outlook.
"""

from orchestrator.jobs.rules.changing import newer_snapshots
from orchestrator.jobs.rules.exports import rules_wanted
from orchestrator.jobs.rules.making import own_metadata, own_parameters
from orchestrator.jobs.rules.table import RULES, Rule, check, check_room, notes, play

__all__ = [
    "RULES",
    "Rule",
    "check",
    "check_room",
    "newer_snapshots",
    "notes",
    "own_metadata",
    "own_parameters",
    "play",
    "rules_wanted",
]
