"""What a host does from within the process, and what of it reaches real sockets."""

from __future__ import annotations

import json

import pytest
from tests.live.client import is_terminal
from tests.live.crowd import Member, crowd
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(
    SCRIPT,
    "leaver=host_agents:leaver",
    "teller=host_agents:teller",
    env={"ISOLANE_SEND_TIMEOUT_S": "1"},
)

SWEPT = "isolane_managers_swept_total"


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


# --- a manager that nobody joins -----------------------------------------------------------------


async def leave_managers(lane: Lane, *, count: int) -> None:
    """Leave one after the other, and look at the statistics on and on until each is gone."""
    held, before = await lane.server.gauges(), await lane.server.metrics()
    for number in range(count):
        await lane.play("t", f"leaves-{number}", "go", agent="leaver")
        await lane.server.wait_for_gauges(held, within_s=5)
    assert (await lane.server.metrics())[SWEPT] == before[SWEPT] + count


async def test_manager_that_nobody_comes_for_goes_however_often_one_looks(lane: Lane) -> None:
    # The sweeper rests when there is nothing to look at: it begins anew for each.
    await leave_managers(lane, count=3)


async def test_quiet_socket_is_never_swept(lane: Lane) -> None:
    async with lane.connect() as quiet:
        follower = await quiet.subscribe("quiet")
        await leave_managers(lane, count=2)
        await lane.play("quiet", "r-1", "word")
        await quiet.until_end("r-1")
    assert follower.text == "word "


# --- what became of a frame ----------------------------------------------------------------------


async def test_send_tells_what_became_of_it_on_each_connection(lane: Lane) -> None:
    async with lane.connect(agent="teller") as client, crowd() as members:
        assert client.welcome is not None
        members.append(await Member.join(lane, is_deaf=True))
        (welcome,) = (received.frame for received in members[0].received)
        members[0].go_deaf()
        await client.run("t", "r-1", "go")
        frames = await client.until(is_terminal)
    verdicts = json.loads(text_of([frame["chunk"] for frame in frames if "chunk" in frame]))
    told = {client.welcome["connectionId"]: "delivered", welcome["connectionId"]: "failed"}
    # The first is in the deaf one's buffers: its socket has taken it.
    assert verdicts[1:] == [told, told]
    assert len([frame for frame in frames if frame.get("type") == "notice"]) == len(verdicts)
