"""The worker: claims operations that are due and runs them on a few threads.

The queue is a hint, the row is the truth: a wake-up from the accepting side only shortens the wait for the next look.
One dispatcher thread claims for all runner threads, so an idle worker costs one query per poll interval. A worker
that is led (one of several processes) leaves the polling to its supervisor, which nudges it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Callable

from octavia_core.controller.duty import Duty
from octavia_core.controller.holder import ended_here, holder_name
from octavia_core.controller.offer import Offer, Offers
from octavia_core.controller.reminders import Reminders
from octavia_core.controller.sweep import SWEEP, Sweep
from octavia_core.controller.waiter import Waiter
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.errors import OctaviaError, TransientError
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.runner import Ending, Runner
from octavia_core.policy.sweep import SweepMode
from octavia_core.ports.storage import Claim

__all__ = ["Worker", "ended_here", "holder_name"]

log = logging.getLogger("octavia_core.worker")

_STOP = None
LED_POLL = 60.0
"""Seconds between two looks of a worker that a supervisor nudges; for the day when a nudge is lost."""
BREATH = 0.02
"""Seconds that what was just claimed has this process for itself, before the dispatcher asks what is due next."""
_LOOKS = 2
"""How often it is looked whether something was stored: a COMMIT that nobody waits for may still be under way at the first look."""
SIGN, SIGN_HOLDS = 1.0, 2.5
"""A worker says that it lives once in a lease, in so many seconds at least; its word holds for so many of these."""


class Worker:
    """Runs operations until it is stopped.

    Args:
        runner: carries out what is claimed.
        threads: operations side by side.
        led: somebody else polls the queue and nudges.
        chores: this worker also looks at waits in bulk and sweeps. One of several processes on a host is enough: the
            others, led without chores, are its deputies. One that is not led, and has none, never does.

    Attributes:
        on_ended: called after every run, from a runner thread; set before `start`.
    """

    def __init__(self, runner: Runner, *, threads: int, led: bool = False, chores: bool = True) -> None:
        engine = runner.world.settings.engine
        self._runner, self._threads, self._chores = runner, max(1, threads), chores
        self._lease, self._poll = engine.lease, LED_POLL if led else engine.poll_interval
        self._led, self._again = led, engine.poll_interval
        deputy = led and not chores
        self._waiter = Waiter(runner.storage, runner.world, idle=engine.poll_interval, led=led, deputy=deputy)
        duty = Duty(runner.storage, runner.world.clock, SWEEP, deputy=deputy)
        self._sweep = Sweep(runner.storage, SweepMode(engine.sweep), every=engine.sweep_interval, duty=duty)
        self._parked = threading.Event()
        self._said = Reminders(log, runner.world.clock)
        self.on_ended: Callable[[Operation, Ending], None] | None = None
        self.holder = holder_name()
        self._work: queue.SimpleQueue[tuple[Operation, Claim] | str | None] = queue.SimpleQueue()
        self._nudge = threading.Event()
        self._stopping = threading.Event()
        self._free = threading.Semaphore(self._threads)
        self._offers = Offers(self._free)
        self._pool: list[threading.Thread] = []

    def start(self) -> None:
        """Start the dispatcher and the runner threads."""
        names = [(f"octavia-run-{n}", self._run_loop) for n in range(self._threads)]
        names.append(("octavia-chores", self._chores_loop))
        for name, target in [*names, ("octavia-dispatch", self._dispatch_loop)]:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._pool.append(thread)

    def nudge(self) -> None:
        """Look at the queue now."""
        self._nudge.set()

    def accepted(self, accept: Callable[[Offer], Operation | None]) -> Operation | None:
        """Have something accepted, and carry it out: at once, where it was stored by the offer that `accept` is given; what was
        stored otherwise is looked for. Raises what `accept` raises.
        """
        offer = Offer(self.holder, self._lease, self._offers)
        kept = False
        try:
            stored = accept(offer)
            if kept := stored is not None and stored.id == offer.operation_id:
                claim = Claim(operation_id=stored.id, holder=self.holder, fence=stored.fence, lease=self._lease)
                self._work.put((stored, claim))
        except BaseException as error:
            # the answer of a COMMIT may be lost, or nobody waits for it any more (Ctrl-C): the thread sees whether it arrived
            if offer.operation_id is not None and (
                isinstance(error, TransientError) or not isinstance(error, OctaviaError)
            ):
                kept = True
                self._work.put(offer.operation_id)
            raise
        finally:
            if offer.operation_id is not None:
                self._offers.give(used=kept)
        if not kept:
            self.nudge()
        return stored

    def stop(self, grace: float) -> bool:
        """Claim nothing more; wait up to `grace` seconds for what is running. True when all of it ended.

        What still runs then is left: its lease ends and any worker resumes it.
        """
        self._stopping.set()
        self._nudge.set()
        self._parked.set()
        deadline = self._runner.world.clock.monotonic() + grace
        for thread in self._pool:
            thread.join(max(0.0, deadline - self._runner.world.clock.monotonic()))
        with contextlib.suppress(TransientError):  # then the word it gave ends by itself
            self._runner.storage.transaction(lambda tx: tx.leave(holder=self.holder))
        return not any(thread.is_alive() for thread in self._pool)

    def drain(self, operation_id: str) -> None:
        """Run due operations on this thread until that one is final: for a command without a running controller."""
        storage = self._runner.storage
        while True:
            row = storage.read(lambda tx: tx.operation(operation_id))
            if row is None or row.state.final:
                return
            claimed = storage.claim(self.holder, claimable(), lease=self._lease, limit=1)
            for operation, claim in claimed:
                self._runner.run(operation, claim)
            if not claimed:
                due = storage.next_due()
                pause = min(self._waiter.tick(), max(0.01, 0.05 if due is None else due))
                self._runner.world.clock.sleep(min(self._poll, pause))

    def _dispatch_loop(self) -> None:
        storage, clock = self._runner.storage, self._runner.world.clock
        while True:
            self._nudge.clear()
            if self._stopping.is_set():
                break
            free = 0
            while free < self._threads and self._free.acquire(blocking=False):
                free += 1
            pause = self._poll
            taken: int = 0
            try:
                if free:
                    claimed = storage.claim(self.holder, claimable(), lease=self._lease, limit=free)
                    for pair in claimed:
                        self._work.put(pair)
                    taken = len(claimed)
                if 0 < taken < free and not self._led and clock.sleep(BREATH, self._nudge):
                    continue
                if not self._led and (taken < free or not free):
                    due = storage.next_due()
                    # what is due now and was not to be had is somebody else's, or of a version that is not known here
                    later = due if not free else due or None
                    pause = self._poll if later is None else min(self._poll, max(0.005, later))
                self._said.over("queue")
            except OctaviaError as error:  # a database that is read-only for a while is not transient, and passes
                self._said.say("queue", f"the queue cannot be read, trying again: {error}")
            except Exception:  # a bug of ours must not cost the thread that all work depends on
                log.exception("the queue was not read, trying again")
            finally:
                for _ in range(free - taken):
                    self._free.release()
            if taken and taken == free:
                continue
            clock.sleep(pause, self._nudge)
        self._offers.close()
        for _ in range(self._threads):
            self._work.put(_STOP)  # behind everything that was claimed

    def _chores_loop(self) -> None:
        """What is to be done now and then: a sign of life, looking at waits, sweeping."""
        clock = self._runner.world.clock
        waits, sweep = self._waiter.tick, self._sweep.tick
        chance = random.Random()  # noqa: S311 - spreads load, hides nothing; the program's own generator is left alone
        due: dict[Callable[[], float], float] = {self._attend: 0.0}
        if self._chores or self._led:
            due |= {waits: 0.0, sweep: clock.monotonic() + chance.random()}
        while True:
            self._parked.clear()
            if self._stopping.is_set():  # after the clearing, so that a stop in between is not slept through
                return
            for number, (chore, at) in enumerate(due.items()):
                if clock.monotonic() < at:
                    continue
                try:
                    pause = chore()
                    self._said.over(f"chore {number}")
                except OctaviaError as error:
                    self._said.say(f"chore {number}", f"the database cannot be read, trying again: {error}")
                    pause = self._again
                except Exception:  # a bug of ours must not cost the thread
                    log.exception("a chore ended in a bug; it is tried again")
                    pause = self._again
                # many hosts that began together do not stay together
                due[chore] = clock.monotonic() + pause * (0.9 + 0.2 * chance.random())
            if clock.sleep(max(0.0, min(due.values()) - clock.monotonic()), self._parked) and waits in due:
                due[waits] = min(due[waits], clock.monotonic() + self._waiter.pause)

    def _attend(self) -> float:
        """Say that this worker lives; seconds until it says so again."""
        every = max(self._lease, SIGN)
        self._runner.storage.transaction(lambda tx: tx.attend(self.holder, claimable(), seconds=SIGN_HOLDS * every))
        return every

    def _run_loop(self) -> None:
        while True:
            item = self._work.get()
            if item is _STOP:
                return
            pair = self._arrived(item) if isinstance(item, str) else item
            if pair is None:
                self._free.release()
                continue
            operation, claim = pair
            try:
                ending = self._runner.run(operation, claim)
            except Exception:  # a bug of ours must not cost the thread; the lease hands the operation on
                log.exception(
                    "operation %s (%s) ended in a bug; it is tried again after its lease", operation.id, operation.flow
                )
                ending = Ending.LOST
            finally:
                self._free.release()
            if self.on_ended is not None:
                self.on_ended(operation, ending)
            if ending is Ending.PARKED:
                self._parked.set()
            self._nudge.set()

    def _arrived(self, operation_id: str) -> tuple[Operation, Claim] | None:
        """What was stored by an offer though nobody heard of it; asked until the lease would be over."""
        storage, clock = self._runner.storage, self._runner.world.clock
        deadline, looks = clock.monotonic() + self._lease, 0
        stored: Operation | None = None
        while stored is None and looks < _LOOKS:
            try:
                stored = storage.read(lambda tx: tx.operation(operation_id))
                looks += 1
            except OctaviaError:  # that is why nobody heard of it
                if clock.monotonic() >= deadline:
                    return None
            if stored is None and looks < _LOOKS and clock.sleep(self._again, self._stopping):
                return None
        if (
            stored is None
            or stored.state is not OperationState.RUNNING
            or (stored.holder, stored.fence) != (self.holder, 1)
        ):
            return None
        return stored, Claim(operation_id=stored.id, holder=self.holder, fence=stored.fence, lease=self._lease)
