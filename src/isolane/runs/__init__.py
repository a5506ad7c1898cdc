"""Runs: who may have one, how it lives, how it ends."""

from isolane.runs.service import AgentService

__all__ = ["AgentService"]
