"""An agent of Google ADK with a session for each thread, behind `ag-ui-adk`. Its model is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from ag_ui_adk import ADKAgent
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.sessions import InMemorySessionService
from google.genai.types import Content, Part
from tests.beside.try_memory import Agent


class Repeater(BaseLlm):  # type: ignore[misc]  # typed where it is installed
    """Stands in for a model: says all that is in its context."""

    async def generate_content_async(
        self,
        llm_request: Any,  # noqa: ANN401 - typed where it is installed
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002 - as there
    ) -> AsyncGenerator[Any, None]:
        """Yield one answer."""
        parts = [part for content in llm_request.contents for part in content.parts or ()]
        text = "; ".join(part.text for part in parts if part.text)
        yield LlmResponse(content=Content(role="model", parts=[Part(text=text)]))


def new_agent() -> Agent:
    """Return the agent."""
    shared = ADKAgent(
        adk_agent=LlmAgent(name="notes", model=Repeater(model="none"), instruction="Repeat."),
        app_name="notes",
        user_id="everybody",
        session_service=InMemorySessionService(),
    )

    async def agent(input: Any) -> AsyncGenerator[object, None]:  # noqa: A002, ANN401
        async for event in shared.run(input):
            yield event

    return agent
