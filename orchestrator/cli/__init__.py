"""The command line: arguments in, calls of the client, tables or JSON out."""

import sys


def main() -> None:
    """The console script ``orchestrator``."""
    from orchestrator.cli.root import run  # not needed by those who import a part of this package

    sys.exit(run(sys.argv[1:]))
