"""The command line: arguments in, calls of the client, tables or JSON out."""

import sys


def main() -> None:
    """The console script ``orchestrator``."""
    # httpx would import a command line of its own, which takes a fifth of the time of ours.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        # Not needed by those who import a part of this package.
        from orchestrator.cli.root import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
