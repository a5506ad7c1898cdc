"""Settings: one frozen value that holds all of them, and the one place that reads them in."""

from isolane.settings.loading import InvalidSettings, load_settings
from isolane.settings.providers import ProviderSettings, is_safe_address
from isolane.settings.spelling import PREFIX
from isolane.settings.values import (
    COOKIE_NAME,
    DATABASE_NAME,
    KEY_NAME,
    Settings,
)

__all__ = [
    "COOKIE_NAME",
    "DATABASE_NAME",
    "KEY_NAME",
    "PREFIX",
    "InvalidSettings",
    "ProviderSettings",
    "Settings",
    "is_safe_address",
    "load_settings",
]
