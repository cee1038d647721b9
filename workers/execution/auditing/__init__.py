"""Audits: what a backend really has, compared with what is recorded."""

from workers.execution.auditing.job import audit

__all__ = ["audit"]
