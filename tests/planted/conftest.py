"""How the verdicts are shown: in words, where other tests have a dot."""

from __future__ import annotations

import pytest


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Say who caught a mistake, as soon as it is known."""
    if report.when != "call":
        return None
    if report.failed:
        return "failed", f"\n{report.nodeid}: NOT CAUGHT", "FAILED"
    return "passed", "".join(f"\n{line}" for _, line in report.user_properties), "PASSED"
