"""The `extstorage` driver: any provider of Ganeti's External Storage interface is a backend."""

from workers.backends.extstorage.driver import ExtStorageDriver

__all__ = ["ExtStorageDriver"]
