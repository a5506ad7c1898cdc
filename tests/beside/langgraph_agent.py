"""A graph with a checkpointer, behind `ag-ui-langgraph`. It needs no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from operator import add
from typing import Annotated, Any

from ag_ui_langgraph import LangGraphAgent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from tests.beside.try_memory import Agent


class Notes(MessagesState):  # type: ignore[misc]  # typed where it is installed
    """Messages, and notes that no client ever sends."""

    notes: Annotated[list[str], add]


def take_note(state: Any) -> dict[str, list[Any]]:  # noqa: ANN401 - a graph's state
    """Note the question, and say all notes of the thread."""
    note = str(state["messages"][-1].content)
    return {"notes": [note], "messages": [AIMessage("; ".join([*state.get("notes", []), note]))]}


def new_agent() -> Agent:
    """Return the agent as docs/agents.md has it."""
    graph = StateGraph(Notes)
    graph.add_node("take_note", take_note)
    graph.add_edge(START, "take_note")
    graph.add_edge("take_note", END)
    shared = LangGraphAgent(name="notes", graph=graph.compile(checkpointer=InMemorySaver()))

    async def agent(input: Any) -> AsyncGenerator[object, None]:  # noqa: A002, ANN401
        async for event in shared.clone().run(input):
            yield event

    return agent
