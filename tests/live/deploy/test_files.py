"""What the shipped files say of times, beside what starting them shows."""

from __future__ import annotations

import re
import subprocess

from tests.live.deploy.front import DEPLOY

from isolane.settings import Settings


def test_quiet_connections_outlive_the_heartbeat() -> None:
    shared = (DEPLOY / "nginx/isolane-proxy.conf").read_text()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        found = re.search(rf"^{name} (\d+)s;$", shared, re.MULTILINE)
        assert found, name
        assert int(found[1]) > 2 * Settings().heartbeat_s
    for file in ("Caddyfile", "Caddyfile.prefix"):
        command = ["caddy", "adapt", "--config", str(DEPLOY / "caddy" / file)]
        adapted = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert '"read_header_timeout"' in adapted
        assert '"read_timeout"' not in adapted
        assert '"write_timeout"' not in adapted
