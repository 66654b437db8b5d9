"""Steps, waits and holders as people say them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ID = re.compile(r"-?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

__all__ = ["holder_words", "step_words", "wait_words"]

_STEPS: Mapping[str, str] = {
    "requested": "waiting for the API's rows",
    "plan": "planning",
    "reserve-vip": "reserving the address",
    "store-vip": "storing the address",
    "boot": "starting the server",
    "booting": "recording the server",
    "server-active": "waiting for the server to run",
    "agent-answers": "waiting for the amphora's agent to answer",
    "allocated": "recording that the amphora answers",
    "place": "taking a spare",
    "spare-answers": "asking the spare's agent",
    "instead": "giving up a spare that does not answer",
    "plug-vip": "giving the amphora its address",
    "plugged": "recording its address",
    "agent-vip": "telling the agent its address",
    "push": "sending the configuration",
    "destroy": "removing the server",
    "unplug": "removing the server's port",
    "release-vip": "giving the address back",
    "replace": "deciding what replaces the dead",
    "leaving": "recording who leaves",
    "finish": "recording the end",
}
"""The last part of a step's path in words; others are shown as they are."""


def step_words(path: str) -> str:
    """A step's path as a person says it: `undo/standalone/push` is "taking back: sending the configuration (standalone)"."""
    undo = path.startswith("undo/")
    parts = path.removeprefix("undo/").split("/")
    words = _STEPS.get(parts[-1], parts[-1].replace("-", " "))
    where = " ".join(filter(None, (_ID.sub("", part) for part in parts[:-1])))
    text = f"{words} ({where})" if where else words
    return f"taking back: {text}" if undo else text


def wait_words(wait: Mapping[str, Any]) -> str:
    """What a parked operation waits for."""
    value = wait.get("value")
    about = value if isinstance(value, Mapping) else {}
    if wait.get("kind") == "server-active":
        return f"server {about.get('server_id', '?')} to run"
    if wait.get("kind") == "agent-answers":
        at = about.get("at")
        place = at if isinstance(at, Mapping) else {}
        return f"the agent of amphora {place.get('amphora_id', '?')} at {place.get('host', '?')}:{place.get('port', '?')} to answer"
    if wait.get("kind") == "rows":
        return "the API to commit what it asked for"
    return str(wait.get("kind", "something outside"))


def holder_words(holder: str | None) -> str | None:
    """`host:pid:random` as "process 4711 on host"."""
    if holder is None:
        return None
    parts = holder.rsplit(":", 2)
    return f"process {parts[1]} on {parts[0]}" if len(parts) == 3 else holder
