"""The other way round: the orchestrator as a provider of Ganeti's External Storage interface."""
