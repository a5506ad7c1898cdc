"""The built-in agent: answers questions about Isolane from Isolane's own documentation.

Served as `--agent isolane.agents.guide:agent`. It needs no key, no network and no extra; where
`ISOLANE_MODEL` names a provider's model (`openai:…`, `anthropic:…`, `ollama:…`), that one speaks,
and pydantic-ai is needed.
"""

from __future__ import annotations

import os

from isolane.agents.guide.guide import create_guide

__all__ = ["agent", "create_guide"]

# What `--agent` names is an object, so nobody could pass the model in.
agent = create_guide(os.environ.get("ISOLANE_MODEL") or None)
