"""How the VIP's sockets of an amphora on loopback get to the one that follows it, as drivers see it: files and signals.

When the second is plugged, the first shares its sockets with it (`share`), and goes on: from then on either can serve.
When the first is destroyed, it is let finish what it has begun (`let_finish`). What agents do: `octavia_local.agent.heirlooms`.
"""

from __future__ import annotations

import signal
import time

from octavia_local import processes
from octavia_local.agent.heirlooms import HEIR, SHARED
from octavia_local.home import Home
from octavia_local.processes import Process
from octavia_local.reservations import Reservations

__all__ = ["heir_of", "let_finish", "share"]

_SHARED_WITHIN, _FINISHED_WITHIN, _ENDED_WITHIN = 3.0, 3.0, 2.0
"""Seconds that an agent has to share, to end by itself, and to end when it is killed."""
_LOOK_AGAIN = 0.002


def share(old: Home, new: Home) -> None:
    """Have the old one's sockets where the new one finds them. One that cannot share them (it stands still, or is of an older
    version) is killed, so that they are free: the new one is built to take its place.
    """
    process = _answering(old)
    if process is None or _answering(new) is None:
        return
    wanted = {"folder": str(new.path)}
    (old.path / SHARED).unlink(missing_ok=True)
    old.write(HEIR, wanted)
    processes.tell(process, signal.SIGUSR2, 0.0)
    deadline = time.monotonic() + _SHARED_WITHIN
    while process.alive() and time.monotonic() < deadline:
        if old.read(SHARED) == wanted:
            return
        time.sleep(_LOOK_AGAIN)
    processes.end(process, _ENDED_WITHIN)


def let_finish(old: Home) -> None:
    """Let the agent end by itself, which has an heir. One that does not is killed by whoever destroys it."""
    process = old.process()
    if process is not None and process.alive() and old.answers_at(process) is not None:
        processes.tell(process, signal.SIGUSR1, _FINISHED_WITHIN)


def heir_of(old: Home, kept: Reservations) -> Home | None:
    """The youngest other amphora that is plugged for the same load balancer and whose agent answers; None: none follows."""
    mine = kept.plug(old.amphora_id)
    if mine is None:
        return None
    others = [
        Home(old.path.with_name(id))
        for id, plug in kept.plugs()
        if id != old.amphora_id and plug["load_balancer_id"] == mine["load_balancer_id"]
    ]
    running = [(process.start_time, home) for home in others if (process := _answering(home)) is not None]
    return max(running, key=lambda each: each[0])[1] if running else None


def _answering(home: Home) -> Process | None:
    """The process of an agent that runs, answered once, and is not being removed."""
    process = None if home.removing else home.process()
    return process if process is not None and process.alive() and home.answers_at(process) is not None else None
