"""Settings for controllers in whose tests nobody dies of silence: a busy machine may hold up an agent for seconds.

The death of a process is seen all the same, and at once; only who is alive and says nothing is given more time.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CALM", "COUNTING", "write_settings"]

CALM = """\
[health_manager]
heartbeat_timeout = 60.0

[haproxy_amphora]
rest_request_conn_timeout = 60.0
rest_request_read_timeout = 60.0

"""

COUNTING = "[health_manager]\nheartbeat_timeout = 3.0\n"
"""Where traffic is waited for: it is written twice in that time."""


def write_settings(state: Path, settings: str = CALM) -> None:
    """Make a state directory that has nothing but these settings yet."""
    state.mkdir(mode=0o700)
    file = state / "octavia.toml"
    file.touch(mode=0o600)
    file.write_text(settings, encoding="utf-8")
