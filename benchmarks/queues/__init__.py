"""Other queues, run beside the product on the same servers.

Those that are not among the product's own dependencies live in an environment of their
own (``.venv-bench``), so that nothing they bring reaches the product that is measured.
"""
