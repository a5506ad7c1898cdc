"""How every test runs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ("isolane.testing.plugin",)

# A gate says the same twice: the same examples each time, and no verdict by the clock.
settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gate")
