"""The findings of a walk as text for people and as JSON for programs. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from isolane.check.finding import Evidence, Finding, Round, Verdict
from isolane.check.layers import LAYERS

_WIDTH: Final = max(len(name) for name, _ in LAYERS)


def to_lines(taken: Round) -> list[str]:
    """Return a table of the layers and, after a broken one, the evidence."""
    lines = [_to_line(finding) for finding in taken.findings]
    if taken.evidence is None:
        lines.append(f"\n{summarise(taken)}")
    else:
        lines += ["", *_evidence_lines(taken.findings[-1].layer, taken.evidence)]
    return [*lines, taken.left_behind] if taken.left_behind else lines


def summarise(taken: Round) -> str:
    """Return one sentence about a round."""
    if taken.evidence is not None:
        return f"broken at {taken.findings[-1].layer}: {taken.findings[-1].note}"
    skipped = [f.layer for f in taken.findings if f.verdict is Verdict.SKIPPED]
    held = f"held: {len(taken.findings) - len(skipped)} layers in {taken.took_ms / 1000:.1f} s"
    return f"{held}; skipped: {', '.join(skipped)}" if skipped else held


def _to_line(finding: Finding) -> str:
    name = finding.layer.ljust(_WIDTH)
    return f"{finding.verdict:<8}{name}{finding.took_ms:>9.1f} ms  {finding.note}"


def _evidence_lines(layer: str, evidence: Evidence) -> list[str]:
    told = {"sent": evidence.sent, "came": evidence.came, "expected": evidence.expected}
    return [
        f"The layer `{layer}` is broken.",
        *(f"  {name:<9} {text}" for name, text in told.items() if text),
        "From the surface to the root:",
        *(f"  {'<- ' if place else '   '}{text}" for place, text in enumerate(evidence.chain)),
    ]


def to_json(url: str, rounds: int, taken: Round) -> str:
    """Return a JSON object with the last round and the number of rounds."""
    evidence = taken.evidence
    report: dict[str, Any] = {
        "url": url,
        "held": evidence is None,
        "rounds": rounds,
        "brokenAt": None if evidence is None else taken.findings[-1].layer,
        "layers": [_to_object(finding) for finding in taken.findings],
        "evidence": None if evidence is None else _evidence_object(evidence),
        "leftBehind": taken.left_behind or None,
    }
    return json.dumps(report, indent=2)


def _to_object(finding: Finding) -> dict[str, Any]:
    return {
        "layer": finding.layer,
        "verdict": finding.verdict,
        "tookMs": round(finding.took_ms, 1),
        "note": finding.note,
    }


def _evidence_object(evidence: Evidence) -> dict[str, Any]:
    return {
        "sent": evidence.sent,
        "came": evidence.came,
        "expected": evidence.expected,
        "chain": list(evidence.chain),
    }
