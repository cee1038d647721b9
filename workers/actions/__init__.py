"""What is done for each action, in modules named as those in `orchestrator.actions`."""
