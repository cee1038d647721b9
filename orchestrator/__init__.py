"""The storage orchestrator: durable storage jobs over HTTP, the command line and Python."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("storage-orchestrator")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
