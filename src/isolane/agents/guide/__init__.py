"""The built-in agent: answers questions about Isolane from Isolane's own documentation.

Served as `--agent isolane.agents.guide:agent`. It needs neither a key nor a network; where
`ISOLANE_MODEL` names a provider's model (`openai:…`, `anthropic:…`, `ollama:…`), that one speaks.
"""

from __future__ import annotations

import os

try:
    from isolane.agents.guide.guide import create_guide
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "pydantic_ai":
        raise
    raise ImportError(
        "the guide is made with pydantic-ai, which is not installed: "
        "pip install isolane[pydantic-ai]"
    ) from error

__all__ = ["agent", "create_guide"]

# What `--agent` names is an object, so nobody could pass the model in.
agent = create_guide(os.environ.get("ISOLANE_MODEL") or None)
