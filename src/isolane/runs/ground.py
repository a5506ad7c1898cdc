"""Engines, settings and tasks that the parts of the service share."""

from __future__ import annotations

from dataclasses import dataclass, field

from isolane.clock import Clock
from isolane.context import RunKey
from isolane.contracts import Members, RunBook, Store
from isolane.health.draining import Draining
from isolane.ids import new_node_id
from isolane.log.feed import Feed
from isolane.runs.locks import KeyedLocks
from isolane.runs.making import RunMaker
from isolane.runs.news import ThreadNews
from isolane.runs.registry import LiveRuns
from isolane.runs.roster import Roster
from isolane.settings import Settings
from isolane.tasks import TaskOwner


@dataclass(slots=True)
class Node:
    """This process in the run book."""

    id: str = field(default_factory=new_node_id)
    """Its name. Each start has another, and so has a process that others declared dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Engines, settings and tasks that each part of the service needs."""

    feed: Feed
    store: Store
    book: RunBook
    members: Members
    settings: Settings
    tasks: TaskOwner
    draining: Draining
    clock: Clock
    """Milliseconds since 1970."""
    timer: Clock
    """Milliseconds of a clock that is never set, for what lasts seconds."""
    news: ThreadNews
    maker: RunMaker
    roster: Roster
    live: LiveRuns = field(default_factory=LiveRuns)
    starting: KeyedLocks[RunKey] = field(default_factory=KeyedLocks)
    """Runs that are being taken on."""
    node: Node = field(default_factory=Node)
