# gate: mypy [arg-type]
"""A log's address as a joined string, which two users can spell alike."""

from isolane.contracts import EventLog, LogBounds


async def load(log: EventLog, user_id: str, thread_id: str) -> LogBounds:
    return await log.load_bounds(f"{user_id}:{thread_id}")  # here
