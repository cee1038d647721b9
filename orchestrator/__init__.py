"""The storage orchestrator: durable storage jobs over HTTP, the command line and Python."""


def __getattr__(name: str) -> str:
    """``__version__``, looked up when it is asked for: commands start faster without."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("storage-orchestrator")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
