"""Audits: what a backend really has, compared with what is recorded."""

from workers.execution.auditing.audit import audit

__all__ = ["audit"]
