"""The HTTP service, ``/v1``."""
