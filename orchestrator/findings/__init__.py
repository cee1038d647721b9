"""Findings: what differs between backends and their record, what repairs it, and reports."""
