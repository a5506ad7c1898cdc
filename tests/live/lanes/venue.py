"""The one server of a long test, and what it leaves where everybody can look."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Final

import httpx
from tests.live.client import RECV_TIMEOUT_S, run_frame
from tests.live.markers import addresses, find_markers, owners_of_markers
from tests.live.server import Looks, Server
from tests.live.stage import mint, steps

QUIET_WITHIN_S: Final = 5.0
KEEPER: Final = "keeper"
"""The user who opens gates, and has none."""
GATES: Final = "gates"
_ERROR_ID: Final = re.compile(r"err_[0-9a-f-]+")


class Venue:
    """A server, one pool of HTTP connections for all its users, and what is known of them all."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.moved = asyncio.Event()
        """Set whenever something comes on any line."""
        self.steps = 0
        self.restarts: Counter[bool] = Counter()
        """How often the server was killed, and how often it ended in order."""
        self.failure: BaseException | None = None
        """What went wrong first."""
        self.numbers = count(1)
        self.addresses: dict[str, tuple[str, str]] = {}
        """User and thread of each epoch that was seen."""
        self.unknowns: dict[str, str] = {}
        """How each question for what isn't there was answered for the first time."""
        self._http = self._open_http()
        self._gauges: dict[str, float] = {}
        self._lines_read = 0

    def _open_http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.server.url,
            # The server lets go of idle ones after 5 s; one may not be used just then.
            limits=httpx.Limits(keepalive_expiry=1.0),
            timeout=RECV_TIMEOUT_S,
            trust_env=False,
        )

    async def open(self) -> None:
        """Learn what a server is like that has nothing to do."""
        self._gauges = await self.server.gauges()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def request(
        self, user: str, method: str, path: str, body: object = None, *, is_stream: bool = False
    ) -> httpx.Response:
        """Ask for something as a user; all users' requests share their connections."""
        headers = {"Authorization": f"Bearer {mint(user)}"}
        request = self._http.build_request(method, path, json=body, headers=headers)
        if is_stream:  # which may be quiet for as long as it likes
            request.extensions["timeout"]["read"] = None
        return await self._http.send(request, stream=is_stream)

    async def make_round_trip(self) -> None:
        """Let the server answer something, which may be asked any number of times."""
        (await self._http.get("/healthz")).raise_for_status()

    async def open_gate(self, gate: str) -> None:
        """Let the run go on that holds at a gate."""
        frame = run_frame(GATES, f"r-{next(self.numbers)}", steps(["open", gate]))
        answer = await self.request(KEEPER, "POST", "/agui", frame)
        assert "RUN_FINISHED" in answer.text

    async def stop(self, *, is_killed: bool) -> None:
        """End the server's process, in order or at once."""
        self.restarts[is_killed] += 1
        await (self.server.kill() if is_killed else self.server.stop())
        await self._http.aclose()

    async def start(self) -> None:
        """Begin another life of it, on what the one before has left."""
        await self.server.start()
        self._http = self._open_http()

    async def wait(self, is_there: Callable[[], bool], tell: Callable[[], object]) -> None:
        """Return once all is there, looking whenever something has come; else tell what isn't."""
        try:
            async with asyncio.timeout(RECV_TIMEOUT_S):
                self.moved.clear()
                while not is_there():
                    await self.moved.wait()
                    self.moved.clear()
        except TimeoutError:
            raise AssertionError(f"not in {RECV_TIMEOUT_S} s: {tell()}") from None

    async def start_over(self) -> None:
        """Begin anew with nothing: what went wrong before is not to be found again."""
        if self.server.is_running:
            await self.server.kill()
        shutil.rmtree(self.server.data)
        self.addresses.clear()
        await self._http.aclose()
        await self.start()
        self.check_logs()

    def remember(self, error: BaseException) -> None:
        """Keep what went wrong first, and after how many steps that was."""
        if self.failure is None:
            self.failure = error
            error.add_note(f"seen first after {self.steps} steps")

    # --- evidence ------------------------------------------------------------------------------

    def check_address(self, epoch: str, user: str, thread_id: str) -> None:
        """Fail when a numbering that was seen in one log is seen in another."""
        address = self.addresses.setdefault(epoch, (user, thread_id))
        assert address == (user, thread_id), f"{epoch} is of {address}, and of {user}, {thread_id}"

    def check_unknown(self, question: str, answer: str) -> None:
        """Fail when what isn't there is answered in two ways; an error's own id is left out."""
        given = _ERROR_ID.sub("err_…", answer)
        before = self.unknowns.setdefault(question, given)
        assert given == before, f"{question} was answered {before}, and now {given}"

    def check_rows(self, markers: Mapping[str, str], threads: AbstractSet[tuple[str, str]]) -> None:
        """Fail unless all rows with a marker are its user's, and there are rows of these threads.

        `markers` has the user of each that must be there; threads are pairs of user and id.
        """
        database = self.server.data / "isolane.db"
        owners = owners_of_markers(database)
        assert owners == {marker: {user} for marker, user in markers.items()}
        kept = {address for address in addresses(database) if address[0] != KEEPER}
        assert kept == threads, f"rows of {kept ^ threads} are there, or are missing"

    def check_logs(self) -> None:
        """Fail when a word that anybody said stands in the server's log."""
        lines = self.server.lines[self._lines_read :]
        self._lines_read += len(lines)
        assert [line for line in lines if find_markers(line)] == []

    async def until_active(self, count: int) -> None:
        """Return once so many runs are under way; fail when they don't become so many."""
        active = -1.0
        async for _ in Looks(QUIET_WITHIN_S):
            active = (await self.server.gauges())["isolane_runs_active"]
            if active == count:
                return
        raise AssertionError(f"{active} runs under way instead of {count}")

    async def check_quiet(self, users: AbstractSet[str]) -> None:
        """Fail unless all counts fall to where they began, and metrics name nobody."""
        await self.request(KEEPER, "DELETE", f"/api/threads/{GATES}")
        metrics = (await self._http.get("/metrics")).raise_for_status().text
        assert not find_markers(metrics)
        assert not [user for user in users if user in metrics]
        await self.server.wait_for_gauges(self._gauges, within_s=QUIET_WITHIN_S)
