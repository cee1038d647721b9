"""The NAS contract's edges: Python classes, ``/v3`` over HTTP, and engines that they run on."""
