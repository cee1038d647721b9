"""The side that does the work: the Celery app, the execution of jobs, and the drivers."""
