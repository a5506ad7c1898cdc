"""The built-in agent, which answers questions about Isolane from Isolane's own documentation.

It is served as `--agent isolane.agents.guide:agent`. It needs no key, no network and no extra. When
`ISOLANE_MODEL` names a provider's model (`openai:…`, `anthropic:…`, `ollama:…`), that model
answers, and pydantic-ai is needed.
"""

from __future__ import annotations

import os

from isolane.agents.guide.guide import create_guide

__all__ = ["agent", "create_guide"]

# `--agent` names an object, so nobody could pass the model as an argument.
agent = create_guide(os.environ.get("ISOLANE_MODEL") or None)
