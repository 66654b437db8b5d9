"""Heartbeats: what HAProxy's statistics say, as a document; and the thread that sends it.

Every message goes to one controller, the list is served in turn. A message is also sent at once when a member or
listener changes its status between two of them, so the statistics are read more often than messages are due.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from octavia_local.agent.balancer import Observation
from octavia_local.agent.portions import Portions
from octavia_local.agent.root import AgentConf, log

__all__ = ["VERSION", "Beats", "Ledger", "report", "statuses"]

VERSION = 3
"""Of the document: flat pools, counters as deltas (heartbeat reference, 3)."""

_DELTAS = {"tx": "bout", "rx": "bin", "totconns": "stot", "ereq": "ereq"}
_QUICK_LOOK, _SLOW_LOOK = 0.2, 1.0  # seconds between looks at the statistics


class Ledger:
    """Counters as deltas: what was counted since the last message, over all processes that counted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, dict[str, dict[str, int]]]] = {}
        self._owed: dict[str, dict[str, int]] = {}

    def absorb(self, observation: Observation) -> None:
        """Add what was counted since the last look. A process not seen before has counted all it says."""
        with self._lock:
            pid, before = self._seen.get(observation.balancer, (0, {}))
            if pid != observation.pid:
                before = {}
            now: dict[str, dict[str, int]] = {}
            for row in observation.rows:
                if row.kind == "frontend":
                    now[row.proxy] = row.counters
                    old = before.get(row.proxy, {})
                    owed = self._owed.setdefault(row.proxy, dict.fromkeys(_DELTAS.values(), 0))
                    for counter in _DELTAS.values():
                        value, last = row.counters[counter], old.get(counter, 0)
                        owed[counter] += value - last if value >= last else value
            self._seen[observation.balancer] = (observation.pid, now)

    def settle(self, listener: str) -> dict[str, int]:
        """What is owed for a listener; it is not owed any more."""
        with self._lock:
            return self._owed.pop(listener, dict.fromkeys(_DELTAS.values(), 0))


def report(observations: Iterable[Observation], ledger: Ledger) -> tuple[dict[str, Any], dict[str, Any]]:
    """`listeners` and `pools` of a heartbeat document. The observations must be absorbed already."""
    listeners: dict[str, Any] = {}
    pools: dict[str, Any] = {}
    for observation in observations:
        for row in observation.rows:
            if row.kind == "frontend":
                owed = ledger.settle(row.proxy)
                stats = {"tx": owed["bout"], "rx": owed["bin"], "conns": row.counters["scur"]}
                stats |= {"totconns": owed["stot"], "ereq": owed["ereq"]}
                listeners[row.proxy] = {"status": row.status, "stats": stats}
            elif row.kind == "backend":
                pools.setdefault(row.proxy, {"status": "", "members": {}})["status"] = row.status
            elif f"{row.proxy}/{row.name}" not in observation.leaving:
                status = "DRAIN" if row.weight == 0 and row.status.startswith("UP") else row.status
                pools.setdefault(row.proxy, {"status": "", "members": {}})["members"][row.name] = status
    return listeners, pools


def statuses(observations: Iterable[Observation]) -> frozenset[tuple[str, str, str]]:
    """What a controller wants to know at once when it changes."""
    return frozenset(
        (row.proxy, row.name, row.status)
        for observation in observations
        for row in observation.rows
        if f"{row.proxy}/{row.name}" not in observation.leaving
    )


class Beats:
    """The sending thread.

    Args:
        observe: looks at all load balancers; absorbs nothing.
        also: called on every look; small work that wants to be done now and then.
    """

    def __init__(self, conf: AgentConf, observe: Callable[[], list[Observation]], also: Callable[[], None]) -> None:
        self.ledger = Ledger()
        self.silent: Callable[[], bool] = lambda: False
        """While this is true nothing is sent: the amphora cannot do its part."""
        self._conf = conf
        self._observe, self._also = observe, also
        self._sequence = 0
        self._portions = Portions()
        self._wake = threading.Event()
        self._sockets: dict[int, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def start(self) -> None:
        """Send the first heartbeat now, and go on until the process ends."""
        self._thread.start()

    def configure(self, conf: AgentConf) -> None:
        """From now on with this key, interval and list of controllers."""
        self._conf = conf
        self._wake.set()

    def nudge(self) -> None:
        """Look at once: something was started, replaced or ended."""
        self._wake.set()

    def _run(self) -> None:
        due, known = time.monotonic(), frozenset[tuple[str, str, str]]()
        while True:
            conf = self._conf
            try:
                observations = self._observe()
                for observation in observations:
                    self.ledger.absorb(observation)
                seen, now = statuses(observations), time.monotonic()
                if now >= due or seen != known:
                    self._send(conf, observations, seen - known)
                    known = seen
                    if now >= due:
                        due = max(due + conf.interval, now + conf.interval / 2)
                self._also()
            except Exception as error:  # noqa: BLE001 - an amphora without heartbeats is taken for dead
                log(f"heartbeat: {type(error).__name__}: {error}")
                due = time.monotonic() + conf.interval
            look = min(conf.interval, _QUICK_LOOK if conf.interval <= 1 else _SLOW_LOOK)
            due = min(due, time.monotonic() + self._conf.interval)
            self._wake.wait(max(0.001, min(look, due - time.monotonic())))
            self._wake.clear()

    def _send(self, conf: AgentConf, observations: list[Observation], news: Collection[tuple[str, str, str]]) -> None:
        listeners, pools = report(observations, self.ledger)
        document = {
            "id": conf.amphora_id,
            "seq": self._sequence,
            "listeners": listeners,
            "pools": pools,
            "ver": VERSION,
        }
        self._sequence += 1
        if not conf.controllers or self.silent():
            return
        host, port = conf.controllers[(self._sequence - 1) % len(conf.controllers)]
        packet = self._portions.pack(document, conf.key, (host, port), {(pool, member) for pool, member, _ in news})
        if packet is None:
            log(f"heartbeat: {len(listeners)} listeners do not fit into one datagram")
            return
        try:
            family, address = _resolve(host, port)
            if family not in self._sockets:
                self._sockets[family] = socket.socket(family, socket.SOCK_DGRAM)
                self._sockets[family].setblocking(False)
            self._sockets[family].sendto(packet, address)
        except OSError:
            return  # as upstream: nobody may be there yet; the next one is due soon


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """The first address of a controller."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address
