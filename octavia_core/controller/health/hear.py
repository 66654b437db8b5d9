"""Hearing: from the socket to memory, with deafness told. What both ways of it have in common, and the one of an embedded
controller: on a thread of its own process. The health manager's daemon hears through others (`fronts`).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import Receiver, bind_receiver
from octavia_core.domain.heartbeat import BadPacket
from octavia_core.domain.skim import Skimmed, Skimmer
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings

__all__ = ["Hearing", "Here", "Keys", "Lag", "Told", "at_its_port"]

log = logging.getLogger("octavia_core.health")

REBIND_EVERY = 1.0
"""Seconds between two attempts to have the port again."""


@attrs.frozen
class Told:
    """Whom to tell: `news` that a report says something new, `deaf` that nothing is heard (True) or is again (False)."""

    news: Callable[[], None]
    deaf: Callable[[bool], None]


class Hearing(Protocol):
    """What both ways of hearing offer."""

    def start(self) -> None:
        """Begin."""

    def renew(self, settings: Settings) -> None:
        """Go on with the keys and timeouts of these settings, on the same sockets: nothing that is sent meanwhile is lost."""

    def stop(self) -> None:
        """End, and close the sockets. Twice is harmless."""

    @property
    def keys(self) -> Mapping[int, bytes]:
        """Every key that is valid, by the number that `Skimmed.key` has for it. A number means the same key for ever."""

    def dropped(self) -> int:
        """Datagrams that the kernel dropped since the last call, because nobody read in time."""

    def lag(self) -> float:
        """Seconds from arrival until it was known here, the longest since the last call."""

    @property
    def pids(self) -> list[int]:
        """Processes that hear for this one."""

    @property
    def replaced(self) -> Mapping[str, int]:
        """How many of them were replaced so far, by what had become of them."""


class Keys:
    """Numbers keys as they come, so that what was heard with one is never taken for another's that took its place.

    Attributes:
        valid: every key that is valid now by its number, in the order of the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._numbers: dict[bytes, int] = {}
        self.valid: Mapping[int, bytes] = {}
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Those of these settings are valid now."""
        keys = settings.health_manager.keys
        self.valid = {self._numbers.setdefault(key, len(self._numbers)): key for key in keys}


class Lag:
    """The longest since it was asked for."""

    def __init__(self) -> None:
        self._worst = 0.0

    def note(self, oldest: float) -> None:
        """A datagram that reached this machine then (seconds since the epoch) is known now."""
        self._worst = max(self._worst, time.time() - oldest)

    def taken(self) -> float:
        """Seconds; it begins anew."""
        worst, self._worst = self._worst, 0.0
        return worst


class Here:
    """Hearing on a thread of this process."""

    def __init__(self, settings: Settings, bound: socket.socket, memory: Memory, told: Told) -> None:
        self._settings, self._memory, self._told = at_its_port(settings, bound), memory, told
        self._receiver, self._keys, self._skimmer = Receiver(bound), Keys(settings), Skimmer(())
        self._skimmer.accept(self._keys.valid)
        self._stop, self._lag = threading.Event(), Lag()
        self._thread = threading.Thread(target=self._run, name="octavia-health-receive", daemon=True)

    pids: list[int] = []  # noqa: RUF012 - nobody hears for this process
    replaced: Mapping[str, int] = {}

    def start(self) -> None:
        """See `Hearing`."""
        self._thread.start()

    def renew(self, settings: Settings) -> None:
        """See `Hearing`."""
        at = self._settings.health_manager.bind_port
        self._settings = attrs.evolve(settings, health_manager=attrs.evolve(settings.health_manager, bind_port=at))
        self._keys.renew(settings)
        self._skimmer.accept(self._keys.valid)

    @property
    def keys(self) -> Mapping[int, bytes]:
        """See `Hearing`."""
        return self._keys.valid

    def stop(self) -> None:
        """See `Hearing`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._receiver.close()

    def dropped(self) -> int:
        """See `Hearing`."""
        return self._receiver.dropped()

    def lag(self) -> float:
        """See `Hearing`."""
        return self._lag.taken()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                packets = self._receiver.batch()
            except OSError as error:
                self._hear_again(error)
                continue
            if packets:
                late, news = self._receiver.late, False
                for at, packet in zip(late, packets, strict=False):  # this process stood still
                    news |= self._memory.keep(self._read([packet]), at)
                if self._memory.keep(self._read(packets[len(late) :]), time.monotonic()) or news:
                    self._told.news()
                self._lag.note(self._receiver.oldest)

    def _read(self, packets: list[bytes]) -> list[Skimmed]:
        found = []
        for packet in packets:
            try:
                found.append(self._skimmer.skim(packet))
            except BadPacket as bad:
                self._memory.counters[str(bad.reason)] += 1
        self._skimmer.forgotten.clear()
        return found

    def _hear_again(self, error: OSError) -> None:
        """Bind anew until it succeeds; nobody is judged meanwhile."""
        if self._stop.is_set():
            return
        self._told.deaf(True)
        log.error("the heartbeat socket failed: %s; nobody is judged until it is back", error)
        self._receiver.close()
        bound = _bound_again(self._settings, self._stop)
        if bound is not None:
            self._receiver = Receiver(bound)
            self._told.deaf(False)
            log.warning("heartbeats are received again")


def at_its_port(settings: Settings, bound: socket.socket) -> Settings:
    """Where amphorae send to by now, whatever was asked for at first."""
    port = int(bound.getsockname()[1])
    return attrs.evolve(settings, health_manager=attrs.evolve(settings.health_manager, bind_port=port))


def _bound_again(settings: Settings, stop: threading.Event) -> socket.socket | None:
    while not stop.is_set():
        try:
            return bind_receiver(settings)
        except ConfigurationError as taken:
            log.error("%s", taken)
            stop.wait(REBIND_EVERY)
    return None
