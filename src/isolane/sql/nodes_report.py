"""The processes that serve a database, as `isolane nodes` tells them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from isolane.contracts import NodeStatus
from isolane.sql.columns import to_table


def to_nodes_json(nodes: Sequence[NodeStatus]) -> str:
    """Return one JSON object."""
    whole = {
        "nodes": [
            {
                "name": node.info.name,
                "id": node.node_id,
                "role": node.info.role,
                "state": _state_of(node),
                "agents": list(node.info.agents),
                "runs": node.runs,
                "version": node.info.version,
                "beatAgeMs": node.beat_age_ms,
            }
            for node in nodes
        ]
    }
    return json.dumps(whole, ensure_ascii=False)


def to_nodes_table(nodes: Sequence[NodeStatus]) -> str:
    """Return lines for people: a head, and a line for each node."""
    head = ("node", "role", "state", "runs", "last beat", "version", "agents")
    return to_table([head, *map(_cells, nodes)], numbers={3, 4})


def _cells(node: NodeStatus) -> tuple[str, ...]:
    return (
        node.info.name,
        node.info.role,
        _state_of(node),
        str(node.runs),
        f"{node.beat_age_ms / 1000:.1f} s",
        node.info.version,
        ", ".join(node.info.agents) or "-",
    )


def _state_of(node: NodeStatus) -> str:
    return "draining" if node.is_draining else "live"
