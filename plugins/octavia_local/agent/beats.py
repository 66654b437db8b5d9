"""Heartbeats: what HAProxy's statistics say, as a document; and the threads that look and send.

Every message goes to one controller, the list is served in turn. A message is also sent at once when a member or
listener changes its status between two of them, so the statistics are read more often than messages are due.

Rule 1: a heartbeat is a sign of life, so it waits for nobody. One thread looks at what runs and tells what it saw; where it is
held up (HAProxy is late, members are being changed, a busy machine), another one sends the listeners as they were seen last.
Rule 2: nothing is said that was not seen. Such a heartbeat names no pool and no member, and is marked as partial, so those keep
their statuses; a HAProxy that has been silent for too long is not named (`Balancer.known`). Rule 3: looking at thousands of
members is dear. It takes a tenth of one processor at most, and only with a message; in between, listeners and pools are looked
at, and members when a pool has fewer or more that work.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from octavia_local.agent.balancer import Observation
from octavia_local.agent.portions import Portions
from octavia_local.agent.root import AgentConf, log

__all__ = ["VERSION", "Beats", "Eyes", "Ledger", "report", "statuses"]

VERSION = 3
"""Of the document: flat pools, counters as deltas (heartbeat reference, 3)."""

_DELTAS = {"tx": "bout", "rx": "bin", "totconns": "stot", "ereq": "ereq"}
_QUICK_LOOK, _SLOW_LOOK = 0.2, 1.0  # seconds between looks at the statistics
_CHEAP = 0.005
"""Seconds of CPU: a look at members that takes no more is taken each time."""
_SHARE = 10
"""Seconds between two looks at members for each second of CPU that they cost."""
_LATE = 0.5
"""Of the interval: as late a heartbeat may be before another thread sends it, but not later than `_LATEST` seconds."""
_LATEST = 1.0
_BUSY = 0.01  # seconds until it is tried again while a message is being made


class Ledger:
    """Counters as deltas: what was counted since the last message, over all processes that counted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, Mapping[str, Mapping[str, int]]]] = {}
        self._owed: dict[str, dict[str, int]] = {}

    def absorb(self, observation: Observation) -> None:
        """Add what was counted since the last look. A process not seen before has counted all it says."""
        with self._lock:
            pid, before = self._seen.get(observation.balancer, (0, {}))
            if pid != observation.pid:
                before = {}
            now: dict[str, Mapping[str, int]] = {}
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


class Eyes(NamedTuple):
    """How what runs on this amphora is seen.

    Attributes:
        look: asks it, about members as well or not; None when not everybody answers. May take its time.
        known: its listeners as they were seen last; asks nobody.
        also: called after every look; small work that wants to be done now and then.
    """

    look: Callable[[bool], list[Observation] | None]
    known: Callable[[], list[Observation]]
    also: Callable[[], None]


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
            elif not observation.leaving or f"{row.proxy}/{row.name}" not in observation.leaving:
                status = "DRAIN" if row.weight == 0 and row.status.startswith("UP") else row.status
                pools.setdefault(row.proxy, {"status": "", "members": {}})["members"][row.name] = status
    return listeners, pools


def statuses(observations: Iterable[Observation]) -> frozenset[tuple[str, str, str]]:
    """What a controller wants to know at once when it changes."""
    return frozenset(
        (row.proxy, row.name, row.status)
        for observation in observations
        for row in observation.rows
        if not observation.leaving or f"{row.proxy}/{row.name}" not in observation.leaving
    )


def _summary(observations: Iterable[Observation]) -> list[object]:
    """What differs when a listener or a member has changed; without a look at members, who are not few."""
    return [
        (row.proxy, row.status, row.weight, row.kind == "backend" and tuple(row.counters.values()))
        for observation in observations
        for row in observation.rows
        if row.kind != "server"
    ]


class Beats:
    """The two threads.

    Args:
        conf: key, interval and controllers.
        eyes: how what runs is seen.
        ledger: what was counted and not said yet; whoever looks enters it.
    """

    def __init__(self, conf: AgentConf, eyes: Eyes, ledger: Ledger) -> None:
        self.silent: Callable[[], bool] = lambda: False
        """While this is true nothing is sent: the amphora cannot do its part."""
        self._conf, self._eyes, self._ledger = conf, eyes, ledger
        self._sending = threading.Lock()
        self._due = 0.0
        self._sequence = 0
        self._portions = Portions()
        self._sockets: dict[int, socket.socket] = {}
        self._wake, self._later, self._nudged = threading.Event(), threading.Event(), threading.Event()
        self._known: frozenset[tuple[str, str, str]] = frozenset()
        self._sum: list[object] = []
        self._cost, self._members_at = 0.0, 0.0
        self._over = False
        self._threads = [
            threading.Thread(target=self._look_again_and_again, name="looks", daemon=True),
            threading.Thread(target=self._keep_time, name="heartbeats", daemon=True),
        ]

    def start(self) -> None:
        """Send the first heartbeat now, and go on until `close` or the end of the process."""
        self._due = time.monotonic()
        self._threads[0].start()

    def close(self) -> None:
        """Send none any more. Waits for a look that is under way."""
        self._over = True
        self._wake.set()
        self._later.set()
        for thread in self._threads:
            thread.join()
        for one in self._sockets.values():
            one.close()

    def configure(self, conf: AgentConf) -> None:
        """From now on with this key, interval and list of controllers."""
        with self._sending:
            self._conf = conf
            self._due = min(self._due, time.monotonic() + conf.interval)
        self._later.set()
        self._wake.set()

    def nudge(self) -> None:
        """Look at once: something was started, replaced or ended."""
        self._nudged.set()
        self._wake.set()

    # -- the thread that looks -------------------------------------------------------------------------------------

    def _look_again_and_again(self) -> None:
        import octavia_core.domain.heartbeat  # noqa: F401 - here, so that it is not what the first message costs

        self._threads[1].start()
        while not self._over:
            interval = self._conf.interval
            pause = min(interval, _QUICK_LOOK if interval <= 1 else _SLOW_LOOK)
            try:
                self._look()
                self._eyes.also()
                pause = min(pause, self._due - time.monotonic())
            except Exception as error:  # noqa: BLE001 - an amphora that nobody looks at any more would stay as it is for ever
                log(f"heartbeat: {type(error).__name__}: {error}")
            self._wake.wait(max(0.001, pause))
            self._wake.clear()

    def _look(self) -> None:
        """Look, and say what is new or due."""
        now, began, nudged = time.monotonic(), time.thread_time(), self._nudged.is_set()
        self._nudged.clear()
        may = now >= self._members_at
        members = nudged or (may and (self._cost <= _CHEAP or now >= self._due))
        seen = self._eyes.look(members)
        if seen is not None and not members and may and _summary(seen) != self._sum:
            members, seen = True, self._eyes.look(True)
        if seen is None and members:
            self._nudged.set()
        if seen is None or not members:
            if time.monotonic() >= self._due:
                self._send(seen if seen is not None else self._eyes.known(), partial=True)
            return
        self._sum, words = _summary(seen), statuses(seen)
        if time.monotonic() >= self._due or words != self._known:
            self._send(seen, news={(pool, member) for pool, member, _ in words - self._known})
            self._known = words
            self._cost = time.thread_time() - began
        self._members_at = time.monotonic() + max(0.001, _SHARE * self._cost)

    # -- the thread that sends what the other one does not -----------------------------------------------------------

    def _keep_time(self) -> None:
        while not self._over:
            late = self._due + min(_LATE * self._conf.interval, _LATEST) - time.monotonic()
            if late > 0:
                self._later.wait(late)
                self._later.clear()
            elif self._sending.locked():  # a sign of life as well
                time.sleep(_BUSY)
            else:
                try:
                    self._send(self._eyes.known(), partial=True)
                except Exception as error:  # noqa: BLE001 - an amphora without heartbeats is taken for dead
                    log(f"heartbeat: {type(error).__name__}: {error}")
                    time.sleep(_QUICK_LOOK)

    # -- both ------------------------------------------------------------------------------------------------------

    def _send(self, seen: list[Observation], *, partial: bool = False, news: Collection[tuple[str, str]] = ()) -> None:
        """One heartbeat. Partial: listeners alone."""
        with self._sending:
            conf, now = self._conf, time.monotonic()
            if now >= self._due:
                self._due = max(self._due + conf.interval, now + conf.interval / 2)
            listeners, pools = report(seen, self._ledger)
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
            make = self._portions.listeners_alone if partial else self._portions.pack
            packet = make(document, conf.key, (host, port), news)
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
