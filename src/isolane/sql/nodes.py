"""The table of the nodes that serve a database, as every engine writes it."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import Connection

from isolane.contracts import NodeInfo, NodeRole, NodeStatus
from isolane.errors import KeyDiffers
from isolane.sql.driver import execute, load_value

_ALL: Final = """
SELECT node_id, coalesce(name, node_id), role, agents, version, is_draining, beat_at,
    coalesce(counted.runs, 0)
FROM nodes LEFT JOIN (
    SELECT node_id, count(*) AS runs FROM runs INDEXED BY runs_in_turn
    WHERE state IN ('ready', 'running') GROUP BY node_id
) AS counted USING (node_id)
ORDER BY name, node_id
"""
_TAKE_NAME: Final = "DELETE FROM nodes WHERE name = ? OR node_id = ?"
_STRANGER: Final = (
    "SELECT coalesce(name, node_id) FROM nodes WHERE key_proof NOT IN ('', ?) LIMIT 1"
)
_ADD: Final = """
INSERT INTO nodes (node_id, name, role, agents, version, key_proof, beat_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_LEAVE: Final = "DELETE FROM nodes WHERE node_id = ?"
_FREE_SLOTS: Final = "DELETE FROM slots WHERE node_id NOT IN (SELECT node_id FROM nodes)"


def add_node(connection: Connection, node_id: str, info: NodeInfo, *, now: int) -> None:
    """Add a node, which takes the place of one that has its name.

    Raises:
        KeyDiffers: A node that lives signs with another key. Nothing was changed.
    """
    execute(connection, _TAKE_NAME, (info.name, node_id))
    stranger = load_value(connection, _STRANGER, (info.key_proof,))
    if stranger is not None:
        raise KeyDiffers(
            f"{stranger} serves the database with another ISOLANE_SECRET_KEY: give all the same, "
            "because each verifies what another has signed"
        )
    agents = msgspec.json.encode(info.agents).decode()
    row = (node_id, info.name, info.role.value, agents, info.version, info.key_proof, now)
    execute(connection, _ADD, row)
    execute(connection, _FREE_SLOTS)


def remove_node(connection: Connection, node_id: str) -> None:
    """Remove a node, and what it held; nothing happens when it is gone."""
    execute(connection, _LEAVE, (node_id,))
    execute(connection, _FREE_SLOTS)


def load_nodes(connection: Connection, *, now: int) -> list[NodeStatus]:
    """Return the nodes by name; `now` is of the clock that dates beats, in ms since 1970."""
    return [
        NodeStatus(
            node_id,
            NodeInfo(name, NodeRole(role), to_agents(agents), version),
            is_draining=bool(is_draining),
            beat_age_ms=max(0, now - beat_at),
            runs=runs,
        )
        for node_id, name, role, agents, version, is_draining, beat_at, runs in execute(
            connection, _ALL
        )
    ]


def to_agents(written: str) -> tuple[str, ...]:
    """Return the names of agents that a row has."""
    return msgspec.json.decode(written, type=tuple[str, ...])
