"""Every route is asked for what its description offers, and for what it doesn't, by Schemathesis.

Nobody can make the server fail by asking, and an error is a problem (RFC 9457) that tells nothing
of the inside.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.live.people import COOKIE, new_person
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, mint, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN_CREDENTIALS: Final = SchemathesisConfig.from_dict(
    {"generation": {"with-security-parameters": False}}
)
"""Each caller has one of their own: none is to be made up of what the description says of them."""
EXAMPLES: Final = 5
"""For each route, of each caller: of what fits, and as many of what doesn't."""
PATIENCE_S: Final = 10.0
KNOWN: Final = {
    "thread_id": "known",
    "run_id": "known",
    "agent": "script",
    "model": "script",
    "response_id": "resp_known",
}
"""What a caller has: of what is made up, nothing exists."""
ENDING: Final = ("DELETE /api/threads/{thread_id}", "DELETE /api/session", "DELETE /api/sessions")
"""Asked for last, for these take away what the others need: at the very end, the credential."""
ERROR: Final = {"message", "type", "param", "code"}
"""What an error of OpenAI's API says."""
PROBLEM: Final = {"type", "title", "status", "detail", "code", "errorId", "retryable"}
INSIDE: Final = re.compile(
    r'Traceback|File "|\.py\b|[a-z](Error|Exception)\b|sqlalchemy|pydantic|SELECT |isolane\.'
)
"""What tells how the server is made, or what it raised."""

Operation: TypeAlias = Any
"""A route; Schemathesis' class has four parameters that say nothing here."""
Question: TypeAlias = Case[Any]
Judge: TypeAlias = Callable[[Question, httpx.Response], None]

server = shared_server(SCRIPT)


# --- who asks ------------------------------------------------------------------------------------


@asynccontextmanager
async def caller(kind: str, server: Server) -> AsyncIterator[dict[str, str]]:
    """Give the headers of somebody, who has a thread and a run unless it is nobody."""
    if kind == "nobody":
        yield {}
        return
    person = await new_person(server)
    await person.lane.play(KNOWN["thread_id"], KNOWN["run_id"], steps(["say", "hello"]))
    if kind == "cookie":
        async with person.sign_in() as browser:
            yield {"Cookie": f"{COOKIE}={browser.cookie}", "Origin": server.url}
        return
    scope = "threads:read runs:write admin" if kind == "admin" else None
    yield {"Authorization": f"Bearer {mint(person.name, scope=scope)}"}


# --- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asker:
    """Asks a server; in a thread of its own, for somebody must read what the server logs."""

    http: httpx.Client
    url: str

    def operations(self, *, is_end: bool) -> list[Operation]:
        """Return the routes that the server describes: those that end something, or the others."""
        described_api = self.http.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(described_api, config=OWN_CREDENTIALS)
        described: Iterator[Any] = schema.get_all_operations()
        found = {operation.label: operation for operation in (each.ok() for each in described)}
        if is_end:
            return [found[label] for label in ENDING]
        return [operation for label, operation in found.items() if label not in ENDING]

    def ask_all(self, judge: Judge, *, is_end: bool) -> set[str]:
        """Ask these routes for much, let each answer be judged, and return what was asked."""
        operations = self.operations(is_end=is_end)
        for operation in operations:
            for mode in modes(operation):
                self._ask(operation, mode, judge)
        return {operation.label for operation in operations}

    def _ask(self, operation: Operation, mode: GenerationMode, judge: Judge) -> None:
        cases = operation.as_strategy(generation_mode=mode)

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(case=cases, is_known=st.booleans())
        def ask(case: Question, *, is_known: bool) -> None:
            if is_known:
                given_path = case.path_parameters or {}
                case.path_parameters = {
                    name: KNOWN.get(name, value) for name, value in given_path.items()
                }
            judge(case, self._send(case))

        ask()

    def _send(self, case: Question) -> httpx.Response:
        """Send a request as Schemathesis would; of an event stream only the head is awaited."""
        request = case.as_transport_kwargs(base_url=self.url)
        headers = {
            name: value.encode("latin-1") if isinstance(value, str) else value
            for name, value in request["headers"].items()
        }
        body = {"content": request.get("data"), "json": request.get("json")}
        given_body = {name: value for name, value in body.items() if value is not None}
        with self.http.stream(
            request["method"],
            request["url"],
            params=request.get("params") or None,
            headers=headers,
            **given_body,
        ) as response:
            if not is_event_stream(response):
                response.read()
            return response


def modes(operation: Operation) -> Iterator[GenerationMode]:
    """Say what to send; a path alone fits whatever stands in it."""
    yield GenerationMode.POSITIVE
    if operation.query or operation.body:
        yield GenerationMode.NEGATIVE


async def ask_everything(server: Server, headers: dict[str, str], judge: Judge) -> set[str]:
    """Ask every route as somebody with these headers, and return what was asked."""
    seen = [await server.gauges() async for _ in Looks(1.0)]
    baseline = min(seen, key=lambda gauges: gauges["isolane_tasks"])  # what just ends is not of it

    def ask(*, is_end: bool) -> set[str]:
        with httpx.Client(
            base_url=server.url, headers=headers, timeout=PATIENCE_S, trust_env=False
        ) as http:
            return Asker(http, server.url).ask_all(judge, is_end=is_end)

    asked = await asyncio.to_thread(ask, is_end=False)
    # Before a thread or a credential ends, and with it what was left behind.
    await server.wait_for_gauges(baseline, within_s=5.0)
    asked |= await asyncio.to_thread(ask, is_end=True)
    await server.wait_for_gauges(baseline, within_s=5.0)
    return asked


# --- what is answered ----------------------------------------------------------------------------


def is_event_stream(response: httpx.Response) -> bool:
    """Say whether an answer goes on for as long as its reader."""
    media_type: str = response.headers.get("content-type", "")
    return media_type.startswith("text/event-stream")


def judge_answer(case: Question, response: httpx.Response) -> None:
    """Fail for a failure of the server, an error in another form, and what tells too much."""
    status = response.status_code
    described = case.operation.definition.raw["responses"]
    assert status < 500 or (status == 503 and "503" in described), response.text
    if is_event_stream(response):
        return
    assert not INSIDE.search(response.text), response.text
    if status < 400:
        return
    if case.path.startswith("/v1/"):
        assert response.headers["content-type"] == "application/json"
        assert response.json()["error"].keys() >= ERROR
        return
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() >= PROBLEM
    assert problem["status"] == status


def judge_description(case: Question, response: httpx.Response) -> None:
    """Fail for an answer that the description doesn't know."""
    if is_event_stream(response):
        assert "text/event-stream" in case.operation.definition.raw["responses"]["200"]["content"]
        return
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    case.validate_response(response, checks=checks)


@pytest.mark.parametrize("kind", ["nobody", "owner", "admin", "cookie"])
async def test_nothing_that_is_asked_is_a_failure_of_the_server(server: Server, kind: str) -> None:
    pid = server.pid
    async with caller(kind, server) as headers:
        heard: set[tuple[str, int]] = set()

        def judge(case: Question, response: httpx.Response) -> None:
            heard.add((case.operation.label, response.status_code))
            judge_answer(case, response)

        asked = await ask_everything(server, headers, judge)
    assert {label for label, _ in heard} == asked
    assert server.pid == pid
    assert ("GET /api/threads", 401 if kind == "nobody" else 200) in heard
    assert ("GET /api/threads/{thread_id}/events", 401 if kind == "nobody" else 200) in heard


async def test_what_is_answered_is_described(server: Server) -> None:
    async with caller("owner", server) as headers:
        await ask_everything(server, headers, judge_description)


async def test_what_a_run_takes_is_described(server: Server) -> None:
    async with server.http() as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    for path in ("/agui", "/agui/{agent}"):
        assert "application/json" in paths[path]["post"]["requestBody"]["content"]
