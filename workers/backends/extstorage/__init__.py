"""The `extstorage` driver: any provider of Ganeti's External Storage interface is a backend."""
