"""Tables that commands print for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def to_table(rows: Sequence[Sequence[str]], *, numbers: Collection[int]) -> str:
    """Return a line for each row, with columns as wide as their longest cell.

    The columns `numbers`, counted from 0, are aligned at their right end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if place in numbers else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
