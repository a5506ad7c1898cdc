"""An agent that asks for the end of the process gets the end of its run, and that alone."""

from __future__ import annotations

import pytest
from tests.live.exit_agents import WAYS
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps, text_of, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

own_loop = shared_server(SCRIPT, "leaver=exit_agents:leaver")
threads = shared_server(SCRIPT, "leaver=exit_agents:leaver", env={"ISOLANE_AGENT_THREADS": "1"})


@pytest.mark.parametrize("way", WAYS)
async def test_an_exit_on_the_servers_loop_ends_its_run_alone(own_loop: Server, way: str) -> None:
    await leave(own_loop, way)


@pytest.mark.parametrize("way", WAYS)
async def test_an_exit_on_an_agents_loop_ends_its_run_alone(threads: Server, way: str) -> None:
    await leave(threads, way)


async def leave(server: Server, way: str) -> None:
    lane, neighbour = Lane(server), Lane(server)
    gate = f"{neighbour.user} go"
    async with neighbour.connect() as other:
        await other.run("t", "r", steps(["say", "held "], ["hold", gate], ["say", "on"]))
        await other.until_event("TEXT_MESSAGE_CONTENT")
        events = await lane.play("t", "r-1", way, agent="leaver")
        assert types_of(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
        assert events[-1]["code"] == "agent_error"
        await neighbour.open_gate(gate)
        end = await other.until_end("r")
        assert end["chunk"]["outcome"] == {"type": "success"}
    assert text_of(await lane.play("t", "r-2", "still here")) == "still here "
    async with server.http() as http:
        assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("place", ["own_loop", "threads"])
async def test_an_exit_of_a_thread_that_nobody_knows_ends_nothing(
    place: str, own_loop: Server, threads: Server
) -> None:
    lane = Lane({"own_loop": own_loop, "threads": threads}[place])
    assert text_of(await lane.play("t", "r", "stray thread", agent="leaver")) == "still here"
    assert text_of(await lane.play("t", "r-2", "more")) == "more "
