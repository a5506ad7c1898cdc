"""Runs: who may have one, how it lives, how it ends."""

from isolane.service.service import AgentService

__all__ = ["AgentService"]
