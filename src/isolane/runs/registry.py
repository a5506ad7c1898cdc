"""The runs that this process has taken on, by run and by thread, until each is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isolane.context import RunKey, ThreadKey
from isolane.events.transcript import Message
from isolane.runs.run import Run


class LiveRuns:
    """The unfinished runs of this process: those under way, and those that wait for their turn."""

    def __init__(self) -> None:
        """Begin with none."""
        self._runs: dict[RunKey, Run] = {}
        self._of_thread: dict[ThreadKey, dict[str, Run]] = {}

    def __len__(self) -> int:
        """Return how many there are, those that wait included."""
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        """Go through all of them, also while some end."""
        return iter(tuple(self._runs.values()))

    def __getitem__(self, key: RunKey) -> Run:
        """Return the run of that key.

        Raises:
            KeyError: The run isn't here.
        """
        return self._runs[key]

    def __contains__(self, key: RunKey) -> bool:
        """Say whether the run of that key is here."""
        return key in self._runs

    @property
    def active_count(self) -> int:
        """Number of runs under way, without the queued ones."""
        return sum(run.begun is not None for run in self._runs.values())

    def get(self, key: RunKey) -> Run | None:
        """Return the run of that key; None when it isn't here."""
        return self._runs.get(key)

    def get_of_thread(self, key: ThreadKey) -> Sequence[Run]:
        """Return the runs of a thread, in the order in which they came."""
        return tuple(self._of_thread.get(key, {}).values())

    def hold(self, run: Run) -> None:
        """Keep a run until it is dropped."""
        self._runs[run.context.run_key] = run
        self._of_thread.setdefault(run.context.thread_key, {})[run.run_id] = run

    def drop(self, run: Run) -> None:
        """Keep a run no longer. Idempotent."""
        key = run.context.thread_key
        self._runs.pop(run.context.run_key, None)
        of_thread = self._of_thread.get(key, {})
        of_thread.pop(run.run_id, None)
        if not of_thread:
            self._of_thread.pop(key, None)

    def get_holders(self, key: ThreadKey, message_id: str) -> Iterator[tuple[Run, Message]]:
        """Yield the runs of a thread that ask the message of that id, with the message."""
        for run in self._of_thread.get(key, {}).values():
            asked = run.get_asked(message_id)
            if asked is not None:
                yield run, asked

    def find_run_of(self, key: ThreadKey, message_id: str) -> str | None:
        """Return the run of a thread that adds a message; see `AgentService.find_run_of`."""
        found: Run | None = None
        for run, _ in self.get_holders(key, message_id):
            if found is None or run.goes_on:
                found = run
        return None if found is None else found.run_id
