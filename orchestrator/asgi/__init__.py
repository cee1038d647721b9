"""What every ASGI application of the service does with a request before anything else."""
