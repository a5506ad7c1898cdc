"""A long thread is read page by page, and costs nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx
from tests.house import append_to, open_ground
from tests.live.stage import SCRIPT, Lane, own_server

from isolane.context import UserExecutionContext
from isolane.contracts import RunDraft, RunEnd
from isolane.settings import DATABASE_NAME

PAGE_BYTES: Final = 1 << 20
MESSAGE_BYTES: Final = 300_000
MESSAGES: Final = 100
"""Of a thread that has 30 MB."""


async def write_thread(data: Path, user: str, *, runs: int, answers: int, size: int) -> None:
    """Write a thread `t` into a data folder whose server doesn't run: a question and answers."""
    thread = UserExecutionContext(user_id=user).for_thread("t")
    async with open_ground(f"sqlite:///{data / DATABASE_NAME}") as ground:
        for number in range(runs):
            run = thread.for_run(f"r-{number}")
            question = {"id": f"q-{number}", "role": "user", "content": "?"}
            said = [
                {"id": f"a-{number}-{place}", "role": "assistant", "content": "x" * size}
                for place in range(answers)
            ]
            await ground.begin_run(run, RunDraft("script", [question], None, {}))
            end = RunEnd(run.run_key.run_id, "success", None, said, ground.clock())
            key, run_id = run.thread_key, run.run_key.run_id
            await append_to(ground.log, key, run_id, [b'{"type":"RUN_FINISHED"}'], end=end)


async def load_all(http: httpx.AsyncClient, **params: int) -> list[httpx.Response]:
    """Return the answers that hold the pages of thread `t`, the newest first."""
    asked: dict[str, str | int] = {**params}
    answers: list[httpx.Response] = []
    while not answers or "before" in asked:
        answers.append((await http.get("/api/threads/t", params=asked)).raise_for_status())
        place = answers[-1].json()["before"]
        asked = params | ({"before": place} if place else {})
    return answers


def ids_of(answers: list[httpx.Response]) -> list[str]:
    """Return the ids of all messages of some pages, the oldest first."""
    pages: list[list[dict[str, Any]]] = [answer.json()["messages"] for answer in answers]
    return [message["id"] for page in reversed(pages) for message in page]


def said(number: int) -> list[str]:
    """Return the ids of the answers of one run."""
    return [f"a-{number}-{place}" for place in range(9)]


async def test_large_thread_comes_in_pages_of_a_megabyte(tmp_path: Path) -> None:
    await write_thread(tmp_path, "ann", runs=MESSAGES // 4, answers=3, size=MESSAGE_BYTES)
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server, "ann")
        async with server.http(lane.token) as http:
            answers = await load_all(http)
        assert len(answers) >= MESSAGES * 3 // 4 * MESSAGE_BYTES // PAGE_BYTES
        assert max(len(answer.content) for answer in answers) < PAGE_BYTES + 10_000
        assert {answer.json()["head"] for answer in answers} == {answers[0].json()["head"]}
        runs = [[f"q-{number}", *said(number)[:3]] for number in range(MESSAGES // 4)]
        assert ids_of(answers) == [one for run in runs for one in run]


async def test_pages_stay_whole_while_a_thread_is_added_to_and_edited(tmp_path: Path) -> None:
    await write_thread(tmp_path, "ann", runs=21, answers=9, size=10)
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server, "ann")
        async with server.http(lane.token) as http:
            first = (await http.get("/api/threads/t")).json()
            assert [one["id"] for one in first["messages"]][:2] == ["q-1", "a-1-0"]
            assert len(first["messages"]) == 200
            await lane.play("t", "more", "hello")
            await lane.play("t", "edit", "hello", forwardedProps={"rewindTo": "a-0-5"})
            params = {"before": first["before"], "limit": 200}
            second = (await http.get("/api/threads/t", params=params)).json()
            assert [one["id"] for one in second["messages"]] == ["q-0", *said(0)]
            assert (second["head"], second["interrupts"]) == (first["head"], [])
            now = ids_of(await load_all(http, limit=3))
            assert now[:-1] == ["q-0", *said(0)[:5], "edit-question"]
            async with lane.connect() as client:  # what is shown goes on without a gap
                seen = await client.subscribe("t", first["head"])
                await client.until_true(lambda: seen.has_ended("edit"))
        bob = Lane(server, "bob")
        async with server.http(bob.token) as http:
            foreign = await http.get("/api/threads/t", params=params)
            unknown = await http.get("/api/threads/nobodys", params=params)
            assert foreign.status_code == unknown.status_code == 404


async def test_wrong_page_of_a_thread_is_refused(tmp_path: Path) -> None:
    await write_thread(tmp_path, "ann", runs=2, answers=1, size=10)
    async with (
        own_server(tmp_path, SCRIPT) as server,
        server.http(Lane(server, "ann").token) as http,
    ):
        for params, code in (
            ({"limit": "0"}, "invalid_input"),
            ({"limit": "201"}, "invalid_input"),
            ({"before": "nonsense"}, "invalid_cursor"),
            ({"before": ""}, "invalid_cursor"),
        ):
            answer = await http.get("/api/threads/t", params=params)
            assert (answer.status_code, answer.json()["code"]) == (422, code)
        page = (await http.get("/api/threads/t", params={"limit": 1})).json()
        await http.delete("/api/threads/t")
        gone = await http.get("/api/threads/t", params={"before": page["before"]})
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
        await http.post("/api/threads", json={"threadId": "t"})
        another = await http.get("/api/threads/t", params={"before": page["before"]})
        assert (another.status_code, another.json()["code"]) == (410, "resume_expired")
