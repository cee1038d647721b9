"""The `memory` driver: volumes that are rows in RAM, for tests, demonstrations and measurements."""
