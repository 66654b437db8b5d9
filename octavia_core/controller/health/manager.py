"""The parts of health at work: somebody hears, one thread writes what was heard, one what was counted, one judges silence.

Deaths that the compute driver has proof of are acted on at once. An observed death is claimed by a compare-and-set, so
that any number of controllers start one failover.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable

from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.ask import Inquiry
from octavia_core.controller.health.deaths import Deaths
from octavia_core.controller.health.ears import Ears
from octavia_core.controller.health.figures import leave
from octavia_core.controller.health.frozen import Frozen
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.health.metrics import Metrics, State, check_metrics
from octavia_core.controller.health.wall import Wall
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.controller.reminders import Reminders
from octavia_core.controller.statistics import Statistics, Totals
from octavia_core.errors import OctaviaError, TransientError
from octavia_core.flows.world import World
from octavia_core.ports.compute import Death, Watch
from octavia_core.ports.storage import Storage
from octavia_core.settings import Settings

__all__ = ["HealthManager"]

log = logging.getLogger("octavia_core.health")

WRITE_PAUSE = 0.02
"""Seconds between two batches at least: what arrives meanwhile shares one transaction."""
WRITE_EVERY = 0.5
"""Seconds after which what was heard is written at the latest; half the timeout where that is shorter."""
REREAD = 1.0
"""Seconds after which it is asked which rows somebody else has changed, at least a heartbeat."""
LATE = 1.0
"""Seconds from a heartbeat's arrival until it is known here that are told about: the machine is too slow."""
TRAFFIC_EVERY = 30.0
"""Seconds over which traffic is summed at most; half the timeout where that is shorter."""


class HealthManager:
    """Receives, writes and judges until it is stopped.

    Args:
        receiver: a bound UDP socket, which `stop` closes; or what hears already, and goes on with these settings.
        on_failover: called when a failover was stored, so that a worker of this process starts it at once.
        processes: how many processes receive on a socket; 0: a thread of this one.

    Attributes:
        frozen: spares the garbage collector what memory knows; None unless a process that is for nothing else sets it.
        metrics: what Prometheus reads, None unless the settings say where.
        counters: datagrams by what became of them: "accepted", "repeated", a reason of `BadPacket`, "dropped" (by the
            kernel), and reports: "unknown amphora", "listener count differs".
        lag: seconds from the arrival of a datagram until its report was known here, the longest between the last two looks.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        world: World,
        receiver: socket.socket | Ears,
        on_failover: Callable[[], None],
        *,
        processes: int = 0,
    ) -> None:
        health = settings.health_manager
        if health.heartbeat_timeout <= health.heartbeat_interval * max(1, len(health.controller_ip_port_list)):
            log.warning(
                "[health_manager] heartbeat_timeout is %g s, and an amphora is heard once in %g s at best: nearly everybody will be"
                " silent for too long",
                health.heartbeat_timeout,
                health.heartbeat_interval,
            )
        if settings.origin("health_manager.failover_threads") != "default":
            log.warning(
                "[health_manager] failover_threads has no effect: a failover that waits holds no thread; [engine]"
                " failovers_per_minute bounds how many are started (now %g)",
                settings.engine.failovers_per_minute,
            )
        self._compute, self._clock = world.compute, world.clock
        self._timeout, self._check_every = health.heartbeat_timeout, health.health_check_interval
        self._write_every = min(WRITE_EVERY, self._timeout / 2)
        if isinstance(receiver, Ears):
            self._ears = receiver
            self._ears.renew(settings)
        else:
            self._ears = Ears(settings, receiver, processes)
        self._memory, self._hearing, self._observer = self._ears.memory, self._ears.hearing, self._ears.observer
        self._leave = functools.partial(leave, storage, self._observer)
        self._wall = Wall(storage, world.clock)
        self._writer = Writer(
            storage,
            self._memory,
            self._wall,
            self._observer,
            Pace(
                traffic=min(TRAFFIC_EVERY, self._timeout / 2),
                timeout=self._timeout,
                reread=max(REREAD, health.heartbeat_interval),
            ),
        )
        self._writer.pairs, self._writer.changes = self._ears.pairs, self._ears.changes
        self._writer.statistics = self._statistics = Statistics(storage, world.statistics())
        self._ask, self._actor = Inquiry(storage, world, self._timeout), Actor(storage, on_failover, self._observer)
        evidence = Evidence(self._memory, self._ask, self._hearing.keys)
        self._lookout = Lookout(storage, settings, world.clock, self._wall, evidence, self._actor)
        self.metrics = self._metrics_at(health.metrics_address)
        self._deaths = Deaths(self._lookout.died_together, self._check_every)
        self._stop, self._flushed = threading.Event(), threading.Event()
        self._said = Reminders(log, world.clock)
        self._lookout.replaced = lambda: self._hearing.replaced
        self.frozen: Frozen | None = None
        self._threads: list[threading.Thread] = []
        self._watch: Watch | None = None
        self._last_check = 0.0
        self.lag = 0.0
        self._lookout.lag = lambda: self.lag

    @property
    def counters(self) -> Counter[str]:
        """What became of datagrams and reports."""
        return self._memory.counters

    def start(self) -> None:
        """Start the threads and, where the compute driver offers it, the watch over its servers.

        Raises:
            ConfigurationError: the address for Prometheus cannot be had.
        """
        if self.metrics is not None:
            self.metrics.start()
        try:
            if not self._ears.since:
                self._ears.count_from(self._wall.now())
        except TransientError as error:
            log.warning("nobody is judged until the database answers: %s", error)  # then the writer sets it
        self._ears.start()
        for name, target in (("write", self._write), ("count", self._count), ("check", self._check)):
            thread = threading.Thread(target=target, name=f"octavia-health-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._deaths.start()
        self._watch = self._compute.watch(self.died)

    def stop(self, *, keep_ears: bool = False) -> None:
        """End all of it; what was heard is written first. Twice is harmless.

        Args:
            keep_ears: what hears goes on, and keeps what it hears for the next health manager of this process.
        """
        if not keep_ears:
            self._ears.stop()
        self._stop.set()
        self._ears.news.set()
        if self._watch is not None:
            self._watch.close()
        self._deaths.stop()
        for thread in self._threads:
            thread.join(5)
        with contextlib.suppress(OctaviaError):  # then the next one says that it is over
            self._actor.tell([], {})
        if not keep_ears:
            self._leave()
        self._ask.close()
        if self.metrics is not None:
            self.metrics.stop()
        self._statistics.close()

    @property
    def pids(self) -> list[int]:
        """The processes that receive for this one."""
        return self._hearing.pids

    def pause(self, who: str | None) -> None:
        """Hold all failovers of this process back, for the reason that is given; None lets them go again."""
        self._lookout.paused = who

    def died(self, death: Death) -> None:
        """There is proof: of the compute driver's watch, or of a look when the controller started. Returns at once."""
        self._deaths.tell(death)

    @property
    def undecided(self) -> int:
        """Deaths that were told and are not decided about yet."""
        return self._deaths.open

    def _metrics_at(self, address: str) -> Metrics | None:
        totals = next((one for one in self._statistics.places.values() if isinstance(one, Totals)), None)
        check_metrics(address, totals)
        return Metrics(address, self._state, totals) if address else None

    def _state(self) -> State:
        lookout, actor = self._lookout, self._actor
        return State(
            listening=self._ears.since > 0 and not self._ears.deaf,
            looked=lookout.figures,
            datagrams=dict(self.counters),
            declared={str(rule): many for rule, many in dict(actor.declared).items()},
            held={str(rule): many for rule, many in actor.held.items()},
            undecided=self.undecided,
            uncounted={name: self._statistics.failures[name] for name in self._statistics.places},
            alive=lookout.watched,
        )

    def _write(self) -> None:
        began = self._clock.monotonic()
        while not self._stop.is_set():
            if not self._memory.more:  # counted from the last beginning: what takes long is not waited for besides
                self._ears.news.wait(max(0.0, self._write_every - (self._clock.monotonic() - began)))
            self._ears.news.clear()
            began = self._clock.monotonic()
            try:
                self._writer.flush(self._clock)
                self._said.over("write")
                if self._ears.since == 0 and not self._ears.deaf:
                    self._ears.count_from(self._wall.now())
            except OctaviaError as error:
                self._said.say("write", f"heartbeats cannot be written, they are kept in memory: {error}")
                self._wall.forget()
                self._ears.since = 0
            except Exception:  # a mistake here must not end the thread that everybody's statuses depend on
                log.exception("heartbeats were not written, they are kept in memory")
                self._stop.wait(self._write_every)
            self._stop.wait(WRITE_PAUSE)
        try:
            self._writer.flush(self._clock, last=True)
        except OctaviaError as error:
            log.warning("the last heartbeats were not written: %s", error)
        finally:
            self._flushed.set()

    def _count(self) -> None:
        ended = False
        while not ended:
            ended = self._flushed.wait(self._write_every)
            try:
                self._writer.count()
                self._said.over("count")
            except OctaviaError as error:
                self._said.say("count", f"traffic cannot be counted, it is kept in memory: {error}")
            except Exception:  # likewise: what everybody pays for is counted by this thread
                log.exception("traffic was not counted, it is kept in memory")

    def _check(self) -> None:
        self._last_check = self._clock.monotonic()
        while not self._clock.sleep(self._check_every, self._stop):
            now = self._clock.monotonic()
            paused = now - self._last_check > self._check_every + self._timeout / 2
            self._last_check = now
            try:
                if paused:
                    log.warning("this process stood still; silence is counted from now")
                    self._wall.forget()
                    self._ears.count_from(self._wall.now())
                elif since := self._ears.since:
                    self._look(since)
                self._said.over("check")
            except OctaviaError as error:
                self._said.say("check", f"amphorae cannot be judged now: {error}")
            except Exception:  # a mistake here must not end the thread that finds the dead
                log.exception("amphorae cannot be judged now")

    def _look(self, since: int) -> None:
        if self.frozen is not None:
            self.frozen.tick()
        dropped, lag = self._hearing.dropped(), self._hearing.lag()
        if dropped:
            self.counters["dropped"] += dropped
            log.warning("%s datagrams were dropped by the kernel; nobody is judged by absence now", dropped)
        self.lag = lag
        if lag > LATE:
            log.warning("heartbeats were read up to %.1f s after they came", lag)
        self._lookout.dropped(dropped)
        self._lookout.look(since, self._observer)
