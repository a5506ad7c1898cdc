"""An assertion that an agent's memory keeps users apart."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from ag_ui.core import RunAgentInput

from isolane import UserExecutionContext

if TYPE_CHECKING:
    from isolane.runs import AgentService

TELL: Final = "Remember this word for me, and say it once: {mark}"
ASK: Final = "Say every word that you were asked to remember."
THREAD: Final = "isolane-memory"
"""The thread id that both users choose."""
_MARK: Final = "{mark}"


async def assert_keeps_users_apart(
    agent: object,
    *,
    tell: str = TELL,
    ask: str = ASK,
    must_remember: bool = True,
    timeout_s: float = 60.0,
) -> None:
    """Fail when words of one user to an agent come up in another user's answer.

    `agent` is anything that `isolane serve --agent` accepts. A gateway in memory runs it for two
    users who choose the same ids for their thread and their runs. Each user tells the agent a word,
    then asks for it. `tell` is the sentence that tells the word, with `{mark}` in its place; `ask`
    is the question. Every event of a run is searched, not only its text.

    With `must_remember` each user must get their own word in the end, because an agent that never
    repeats a word would pass without proof. `timeout_s` is the most seconds that a run may take. A
    cancelled call ends the runs and the gateway.

    Raises:
        AssertionError: A word reached the other user, its own user didn't get it, or a run failed.
        AgentRefused: `agent` is no agent.
        ValueError: `tell` has no `{mark}`.
    """
    __tracebackhide__ = True
    if _MARK not in tell:
        raise ValueError(f"tell has no {_MARK}, where the word of a user is to stand: {tell!r}")
    from isolane.agents.loading import adapt  # noqa: PLC0415 - the other tools need no gateway
    from isolane.app import open_gateway  # noqa: PLC0415 - the other tools need no gateway
    from isolane.settings import Settings  # noqa: PLC0415 - the other tools need no gateway

    settings = Settings(database_url="sqlite://", run_timeout_s=timeout_s)
    async with open_gateway(settings, {"agent": adapt(agent, name="agent")}) as gateway:
        users = [_User(gateway.service, name) for name in ("ada", "bob")]
        for user in users:
            _check_foreign(await user.ask("r-1", tell.replace(_MARK, user.mark)), user, users)
        for user in users:
            answer = await user.ask("r-2", ask)
            _check_foreign(answer, user, users)
            if must_remember and user.mark not in answer:
                raise AssertionError(
                    f"the agent doesn't tell {user.name} the word that {user.name} told it, so "
                    f"nothing shows whether it would tell another's: {_shorten(answer)}"
                )


class _User:
    """One of two users who choose the same ids."""

    def __init__(self, service: AgentService, name: str) -> None:
        self.name = name
        self.mark = f"{name}-{token_hex(4)}"
        self._service = service

    async def ask(self, run_id: str, text: str) -> str:
        """Return the text of all events of a run.

        Raises:
            AssertionError: The run failed.
        """
        context = UserExecutionContext(user_id=self.name).for_thread(THREAD).for_run(run_id)
        question = {"id": f"message-{token_hex(8)}", "role": "user", "content": text}
        fields: dict[str, Any] = {"threadId": THREAD, "runId": run_id, "messages": [question]}
        await self._service.start(context, RunAgentInput.model_validate(fields))
        events = [json.loads(record.payload) async for record in self._service.follow(context)]
        if events[-1]["type"] == "RUN_ERROR":
            raise AssertionError(
                f"the run of {self.name} failed with {events[-1]['code']}; the log says why"
            )
        return _text_of(events[1:])  # the first event repeats the question


def _text_of(events: list[dict[str, Any]]) -> str:
    """Return the text of events, with words joined that come in parts."""
    said = "".join(event["delta"] for event in events if isinstance(event.get("delta"), str))
    return "\n".join([said, *(json.dumps(event, ensure_ascii=False) for event in events)])


def _check_foreign(answer: str, user: _User, users: list[_User]) -> None:
    for other in users:
        if other is not user and other.mark in answer:
            raise AssertionError(
                f"{user.name} was told {other.mark}, which only {other.name} has said: the agent "
                f"mixes the memories of users. {_shorten(answer)}"
            )


def _shorten(answer: str) -> str:
    said = answer.partition("\n")[0] or answer.strip()
    return f"It said: {said[:300]!r}"
