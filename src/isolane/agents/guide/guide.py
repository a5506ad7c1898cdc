"""Which guide answers: the offline one, or a provider's model that is bound to the same pages."""

from __future__ import annotations

from isolane.agents.guide.library import find_docs_folder
from isolane.agents.guide.offline import answer
from isolane.errors import AgentRefused


def create_guide(model: str | None) -> object:
    """Return the guide, an agent; `model` is what pydantic-ai calls a model, None answers offline.

    Raises `AgentRefused` when the model can't be used, or the documentation isn't there.
    """
    try:
        find_docs_folder()
    except FileNotFoundError as error:
        raise AgentRefused(f"the guide has nothing to read: {error}") from error
    if model is None:
        return answer
    try:
        from isolane.agents.guide.model import create_speaker  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise AgentRefused(
            f"ISOLANE_MODEL holds {model!r}, for which pydantic-ai is needed: "
            'pip install "isolane[pydantic-ai]".'
        ) from error
    return create_speaker(model)
