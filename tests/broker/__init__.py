"""Celery and Redis, tamed: each test shows a trap of theirs, and that the product is not in it."""
