"""Schedules: what is done again and again, by cron, once a period however many schedulers run."""
