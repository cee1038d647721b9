"""The command line: arguments in, calls of the client, tables or JSON out."""

import sys


def main() -> None:
    """The console script ``orchestrator``."""
    try:
        # Not needed by those who import a part of this package.
        from orchestrator.cli.root import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
