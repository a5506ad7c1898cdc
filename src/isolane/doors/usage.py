"""A route that tells operators how much data a user keeps."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from isolane.doors.credentials import Admin
from isolane.doors.dependencies import StorageDep
from isolane.ids import NAME_WRITTEN_MAX, check_user_id

router = APIRouter(tags=["operations"])

# ruff: noqa: N815 - the fields below are the wire's names


class UserUsage(BaseModel):
    """The threads and bytes that a user keeps, counted as for the quotas."""

    userId: str
    storedThreads: int
    storedBytes: int


@router.get("/api/users/{user_id}/usage")
async def get_usage(
    storage: StorageDep,
    _admin: Admin,
    user_id: Annotated[str, Path(max_length=NAME_WRITTEN_MAX)],
) -> UserUsage:
    """Return the user's stored data; zeros for an unknown user."""
    name = check_user_id("userId", user_id)
    kept = await storage.usage.load(name)
    return UserUsage(userId=name, storedThreads=kept.threads, storedBytes=kept.bytes)
