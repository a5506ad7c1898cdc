"""The choice of the guide: offline, or a provider's model that answers from the same pages."""

from __future__ import annotations

from isolane.agents.guide.library import find_docs_folder
from isolane.agents.guide.offline import answer
from isolane.errors import AgentRefused


def create_guide(model: str | None) -> object:
    """Return the guide, an agent.

    `model` is a model's name in pydantic-ai; None answers offline.

    Raises:
        AgentRefused: The model can't be used, or the documentation can't be found.
    """
    try:
        find_docs_folder()
    except FileNotFoundError as error:
        raise AgentRefused(f"the guide has nothing to read: {error}") from error
    if model is None:
        return answer
    try:
        from isolane.agents.guide.model import create_speaker  # noqa: PLC0415 - imported here, because pydantic-ai is optional
    except ImportError as error:
        raise AgentRefused(
            f"ISOLANE_MODEL holds {model!r}, for which pydantic-ai is needed: "
            'pip install "isolane[pydantic-ai]".'
        ) from error
    return create_speaker(model)
