"""The figures as text: least, median and greatest of the rounds, and what they are beside peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, TypeAlias

from figures import Figure, Goal, Measured

WHOLE_FROM: Final = 100
"""Greater values are shown without decimals."""
Rounds: TypeAlias = Mapping[str, Mapping[int, Measured]]
"""What one figure was, by server and round."""


def to_lines(figure: Figure, rounds: Rounds, measured: Sequence[str]) -> list[str]:
    """Return the table of one figure; `measured` are the servers whose goals these are."""
    columns = list(
        dict.fromkeys(n for of in rounds.values() for m in of.values() for n in m.beside)
    )
    head = "".join(f"{name:>11}" for name in ("min", "median", "max", *columns))
    lines = [f"{figure.name}: {figure.what}", f"  {'':<20}{head}"]
    for name, found in rounds.items():
        values = [one.value for one in found.values()]
        beside = [median(one.beside[column] for one in found.values()) for column in columns]
        cells = [min(values), median(values), max(values), *beside]
        lines.append(f"  {name:<20}{''.join(f'{_to_text(cell):>11}' for cell in cells)}")
    compared = {name: _compare(figure, rounds, name) for name in measured}
    return [*lines, *(f"  {name}: {text}" for name, text in compared.items() if text), ""]


def _compare(figure: Figure, rounds: Rounds, name: str) -> str:
    """Return the ratios to all others, each of the same round, and the goals."""
    ratios = {peer: ratio_of(rounds[name], of) for peer, of in rounds.items() if peer != name}
    goals = {goal.peer: goal for goal in figure.goals}
    own = median(one.value for one in rounds[name].values())
    parts = [_judge(f"{own:.4g}", own, goals[""])] if "" in goals else []
    for peer, ratio in ratios.items():
        if ratio is not None:
            parts.append(_judge(f"{ratio:.2f} x {peer}", ratio, goals.get(peer)))
    return ", ".join(parts)


def ratio_of(own: Mapping[int, Measured], peer: Mapping[int, Measured]) -> float | None:
    """Return the median over the rounds of the ratio within each; None when they share none."""
    shared = [number for number in own if number in peer and peer[number].value]
    return median(own[number].value / peer[number].value for number in shared) if shared else None


def _judge(text: str, value: float, goal: Goal | None) -> str:
    if goal is None:
        return text
    is_met = value >= goal.limit if goal.is_least else value <= goal.limit
    sign = ">=" if goal.is_least else "<="
    return f"{text} (goal {sign} {goal.limit:g}: {'met' if is_met else 'missed'})"


def _to_text(value: float) -> str:
    return f"{value:.0f}" if value >= WHOLE_FROM else f"{value:.3g}"
