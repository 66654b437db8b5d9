"""Commands that sentences advise, said so that they can be typed as they are: with the options that the caller gave."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

__all__ = ["CLOUD", "GROUPS", "SINGLE", "repeated", "starts_health_manager"]

GROUPS = (
    *("lb", "listener", "pool", "member", "monitor", "l7policy", "l7rule"),
    *("amphora", "operation", "health", "governor", "db", "config", "heartbeat-key", "controllers"),
)
"""First words that need a second one."""
SINGLE = ("up", "down", "orphans", "plugins", "why", "timeline", "events", "simulate")
CLOUD = (
    *("orphans", "why", "timeline", "events", "simulate"),
    *(
        "lb list",
        "lb show",
        "lb delete",
        "lb failover",
        "lb history",
        "amphora list",
        "amphora show",
        "amphora failover",
        "amphora create-spare",
        "amphora delete",
    ),
    *(f"{kind} {verb}" for kind in GROUPS[1:7] for verb in ("list", "show")),
    *("operation list", "operation show", "operation cancel", "operation retry", "operation release"),
    *("health show", "health top", "governor show", "governor pause", "governor resume"),
    *("heartbeat-key show", "heartbeat-key rotate", "controllers show", "controllers rotate"),
    *("db upgrade", "db check", "config show", "config check"),
)
"""Those that take --config-file. A test compares all three with the commands."""

_COMMAND = re.compile(rf"\boctavia-admin ((?:{'|'.join(GROUPS)}) [a-z-]+|(?:{'|'.join(SINGLE)})\b)")


def starts_health_manager(config_files: Sequence[str]) -> str:
    """The command that starts somebody who hears heartbeats, where these settings are used."""
    if not config_files:
        return "octavia-admin up"
    return " ".join(["octavia-core-health-manager", *(f"--config-file {shlex.quote(file)}" for file in config_files)])


def repeated(text: str, *, state: str | None, config_files: Sequence[str]) -> str:
    """A sentence whose commands have --config-file and --state as this one had; those that cannot have one go without."""
    if not (state or config_files):
        return text

    def more(found: re.Match[str]) -> str:
        files = config_files if found[1] in CLOUD else ()
        options = [f"--config-file {shlex.quote(file)}" for file in files]
        options += [f"--state {shlex.quote(state)}"] if state else []
        return " ".join([found[0], *options])

    return _COMMAND.sub(more, text)
