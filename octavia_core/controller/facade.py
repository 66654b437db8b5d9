"""The controller: what an embedding program opens, asks and closes.

Thread-safe; not fork-safe (open it after forking). It never configures logging, signals or the root logger.
`close()` never stops amphorae: they serve on, and the next controller on the same state directory takes them over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from octavia_core.controller.accept import (
    CONFIGURE,
    CREATE,
    CREATE_SPARE,
    DELETE,
    DELETE_AMPHORA,
    FAILOVER,
    Acceptor,
    Asked,
    default_topology,
)
from octavia_core.controller.bell import ring
from octavia_core.controller.handle import Operation
from octavia_core.controller.looks import Looks, one_of
from octavia_core.controller.sensible import sensible
from octavia_core.controller.services import Services
from octavia_core.controller.start import Started, start
from octavia_core.domain.operation import Operation as Row
from octavia_core.domain.vocabulary import Kind, Topology
from octavia_core.domain.wishes import (
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewLoadBalancer,
    NewMember,
    NewPool,
)
from octavia_core.errors import BadRequest, LoadBalancerBusy, NotFound
from octavia_core.ports.storage import Storage
from octavia_core.settings import Settings

__all__ = ["Controller"]


class Controller(Looks):
    """A controller on a state directory, or on given settings.

    Every wish takes `actor` (who asks; for the records), `request_id` (the same id again is the same operation) and
    `wait` (seconds to keep trying while the load balancer is busy; 0 raises `LoadBalancerBusy` at once), and returns
    an `Operation`.

    Use it as a context manager, or call `close()`.
    """

    def __init__(self, started: Started, *, run: bool) -> None:
        """Use `Controller.open`."""
        self._started = started
        self.settings: Settings = started.settings
        self.storage: Storage = started.storage
        self.clock = started.world.clock
        self.world = started.world
        self._acceptor = Acceptor(
            self.storage,
            default_topology(self.settings),
            self._objection,
            self._served_at,
        )
        self._ended = threading.Condition()
        self._ends = 0
        self._closed = False
        self.services: Services | None = None
        if run:
            self.services = Services(started, self._one_ended)
            self.services.start()

    def _objection(self, topology: Topology) -> str | None:
        return self.world.network.objection(topology)  # asked when there is a wish: until then it may be nobody's

    def _served_at(self, port: int) -> str:
        return self.world.network.reachable_at("127.0.0.1", port)  # of every VIP alike

    @classmethod
    def open(
        cls,
        state_directory: str | Path | None = None,
        *,
        settings: Settings | None = None,
        plugins: Mapping[str, object] | None = None,
        run: bool = True,
    ) -> Self:
        """Open a controller.

        Args:
            state_directory: where everything lives on one machine without a cloud; made when it is not there.
            settings: complete settings instead, for a controller of a cloud.
            plugins: plugin objects of the embedding program, by name, besides the installed ones.
            run: False gives a client: it stores wishes and follows rows, while a controller elsewhere does the work.

        Raises:
            StateDirectoryBusy: a controller runs on that directory already.
            StateDirectoryError: the directory cannot be used.
            ConfigurationError: settings, drivers, certificates or the database are not as needed.
        """
        started = start(state_directory, settings=settings, plugins=plugins, run=run)
        try:
            return cls(started, run=run)
        except BaseException:  # what was started is let go, Ctrl-C included
            started.release()
            raise

    def close(self, grace: float = 10.0) -> None:
        """Stop working: wait up to `grace` seconds for what runs; what does not end is resumed later. Twice is harmless.

        Wishes are refused from then on; one that is being stored meanwhile counts as running.
        """
        self._closed = True
        services, self.services = self.services, None
        if services is not None:
            services.stop(grace)
        self._started.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- load balancers --------------------------------------------------------------------------------------------
    @sensible(NewLoadBalancer)
    def create_load_balancer(
        self, wish: NewLoadBalancer, *, actor: str = "library", request_id: str | None = None
    ) -> Operation:
        """Ask for a load balancer with everything below it."""
        return self._ask(lambda asked: self._acceptor.create_load_balancer(wish, asked), actor, request_id, 0.0, CREATE)

    @sensible()
    def update_load_balancer(
        self, id: str, *, actor: str = "library", request_id: str | None = None, wait: float = 0.0, **values: Any
    ) -> Operation:
        """Change a load balancer itself: name, description, enabled."""
        return self._ask(lambda asked: self._acceptor.change_load_balancer(id, values, asked), actor, request_id, wait)

    @sensible()
    def delete_load_balancer(
        self, id: str, *, cascade: bool = True, actor: str = "library", request_id: str | None = None, wait: float = 0.0
    ) -> Operation:
        """Ask for its end. Without `cascade`, one that has listeners or pools is refused."""
        return self._ask(
            lambda asked: self._acceptor.delete_load_balancer(id, asked, cascade=cascade),
            actor,
            request_id,
            wait,
            DELETE,
        )

    @sensible()
    def failover_load_balancer(
        self, id: str, *, actor: str = "library", request_id: str | None = None, wait: float = 0.0
    ) -> Operation:
        """Ask for new amphorae. This is also the repair of a load balancer in ERROR."""
        return self._ask(
            lambda asked: self._acceptor.failover_load_balancer(id, asked), actor, request_id, wait, FAILOVER
        )

    @sensible()
    def failover_amphora(self, id: str, *, actor: str = "library", request_id: str | None = None) -> Operation:
        """Ask for the replacement of one amphora; queues behind what runs."""
        return self._ask(lambda asked: self._acceptor.failover_amphora(id, asked), actor, request_id, 0.0, FAILOVER)

    @sensible()
    def create_spare(self, *, actor: str = "library", request_id: str | None = None) -> Operation:
        """Ask for an amphora that runs and serves nobody: the next creation or failover takes it instead of building one.

        The operation's `subject_id` is the amphora's id.
        """
        return self._ask(self._acceptor.create_spare, actor, request_id, 0.0, CREATE_SPARE)

    @sensible()
    def delete_amphora(self, id: str, *, actor: str = "library", request_id: str | None = None) -> Operation:
        """Ask for the end of an amphora that serves nobody, such as a spare.

        Raises:
            NotFound: there is none, or it is DELETED.
            Refused: it serves a load balancer, or an operation holds it.
        """
        return self._ask(lambda a: self._acceptor.delete_amphora(id, a), actor, request_id, 0.0, DELETE_AMPHORA)

    @sensible(NewLoadBalancer)
    def apply(
        self, wish: NewLoadBalancer, *, actor: str = "library", request_id: str | None = None, wait: float = 0.0
    ) -> Operation | None:
        """Make the load balancer of that name what the wish says, creating it if needed; None when it is that already."""
        name = self._acceptor.called(wish)
        created = self._acceptor.known(CREATE, Asked(actor=actor, request_id=request_id))
        if created is not None:
            return self._handle(created)
        found = self.storage.read(lambda tx: tx.find(Kind.LOAD_BALANCER, name))
        if not found:
            return self.create_load_balancer(wish, actor=actor, request_id=request_id)
        lb_id = one_of(Kind.LOAD_BALANCER, name, found)
        row = self._retry(lambda asked: self._acceptor.apply(lb_id, wish, asked), actor, request_id, wait)
        return None if row is None else self._handle(row)

    # -- below a load balancer -------------------------------------------------------------------------------------
    @sensible(NewListener)
    def create_listener(
        self,
        load_balancer_id: str,
        wish: NewListener,
        *,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation:
        """Ask for a listener, with the pools and policies it brings."""
        return self._ask(lambda a: self._acceptor.create_listener(load_balancer_id, wish, a), actor, request_id, wait)

    @sensible(NewPool)
    def create_pool(
        self,
        load_balancer_id: str,
        wish: NewPool,
        *,
        listener_id: str | None = None,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation:
        """Ask for a pool; with `listener_id` it becomes that listener's default."""
        return self._ask(
            lambda a: self._acceptor.create_pool(load_balancer_id, wish, a, listener_id=listener_id),
            actor,
            request_id,
            wait,
        )

    @sensible(NewMember)
    def create_member(
        self, pool_id: str, wish: NewMember, *, actor: str = "library", request_id: str | None = None, wait: float = 0.0
    ) -> Operation:
        """Ask for a member."""
        return self._ask(lambda a: self._acceptor.create_member(pool_id, wish, a), actor, request_id, wait)

    @sensible(NewMember)
    def set_members(
        self,
        pool_id: str,
        wishes: Sequence[NewMember],
        *,
        additive_only: bool = False,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation | None:
        """Make a pool's members exactly these (or, additive, at least these) in one operation; None when they are."""
        row = self._retry(
            lambda a: self._acceptor.set_members(pool_id, wishes, a, additive_only=additive_only),
            actor,
            request_id,
            wait,
        )
        return None if row is None else self._handle(row)

    @sensible(NewHealthMonitor)
    def create_health_monitor(
        self,
        pool_id: str,
        wish: NewHealthMonitor,
        *,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation:
        """Ask for the health monitor of a pool."""
        return self._ask(lambda a: self._acceptor.create_health_monitor(pool_id, wish, a), actor, request_id, wait)

    @sensible(NewL7Policy)
    def create_l7policy(
        self,
        listener_id: str,
        wish: NewL7Policy,
        *,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation:
        """Ask for an L7 policy with its rules."""
        return self._ask(lambda a: self._acceptor.create_l7policy(listener_id, wish, a), actor, request_id, wait)

    @sensible(NewL7Rule)
    def create_l7rule(
        self,
        l7policy_id: str,
        wish: NewL7Rule,
        *,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
    ) -> Operation:
        """Ask for a rule of an L7 policy."""
        return self._ask(lambda a: self._acceptor.create_l7rule(l7policy_id, wish, a), actor, request_id, wait)

    @sensible()
    def update(
        self,
        kind: Kind,
        id: str,
        *,
        actor: str = "library",
        request_id: str | None = None,
        wait: float = 0.0,
        **values: Any,
    ) -> Operation:
        """Change a listener, pool, member, health monitor, L7 policy or L7 rule; names are those of the domain values."""
        return self._ask(lambda a: self._acceptor.change(kind, id, values, a), actor, request_id, wait)

    @sensible()
    def delete(
        self, kind: Kind, id: str, *, actor: str = "library", request_id: str | None = None, wait: float = 0.0
    ) -> Operation:
        """Ask for the end of a listener, pool, member, health monitor, L7 policy or L7 rule."""
        return self._ask(lambda a: self._acceptor.delete(kind, id, a), actor, request_id, wait)

    # -- carrying on -----------------------------------------------------------------------------------------------
    @sensible()
    def operation(self, id: str) -> Operation:
        """A handle on an operation that exists."""
        row = self.storage.read(lambda tx: tx.operation(id))
        if row is None:
            raise NotFound("operation", id)
        return self._handle(row)

    def nudge(self) -> None:
        """Something was stored: have the controller, here or in another process of this machine, look now."""
        if self.services is not None:
            self.services.nudge()
        elif self._started.state is not None:
            ring(self._started.state.path)

    def running(self) -> bool | None:
        """Whether a controller works on the state directory, here or in another process; None without one to look at."""
        if self.services is not None:
            return True
        state = self._started.state
        return None if state is None else state.controller() is not None

    def drain(self, operation: Operation) -> None:
        """Carry an operation to its end on this thread: for a process that opened the controller to do just that."""
        self._started.worker.drain(operation.id)

    def follow(self, operation_id: str, seconds: float) -> None:
        """Sleep up to `seconds`, less when an operation of this process ends."""
        if self.services is None:
            self.clock.sleep(seconds)
            return
        with self._ended:
            if not self._started.recently_ended(operation_id):
                self._ended.wait(seconds)

    # -- inside ----------------------------------------------------------------------------------------------------
    def _one_ended(self, operation_id: str) -> None:
        with self._ended:
            self._started.note_ended(operation_id)
            self._ended.notify_all()

    def _handle(self, row: Row) -> Operation:
        return Operation(self, row)

    def _ask(
        self,
        accept: Callable[[Asked], Row],
        actor: str,
        request_id: str | None,
        wait: float,
        flow: str = CONFIGURE,
    ) -> Operation:
        row = self._retry(accept, actor, request_id, wait, flow)
        assert row is not None
        return self._handle(row)

    def _retry(
        self,
        accept: Callable[[Asked], Row | None],
        actor: str,
        request_id: str | None,
        wait: float,
        flow: str = CONFIGURE,
    ) -> Row | None:
        """Accept, again while the load balancer is busy and time is left; then tell the worker of this process.

        A request that was accepted before is answered first: what it was about may be gone by now.
        """
        self._refuse_when_closed()
        asked = Asked(actor=actor, request_id=request_id)
        known = self._acceptor.known(flow, asked)
        if known is not None:
            return known
        deadline = self.clock.monotonic() + wait
        while True:
            self._refuse_when_closed()
            try:
                return self._accepted(accept, asked)
            except LoadBalancerBusy:
                if self.clock.monotonic() >= deadline:
                    raise
                self.follow("", BUSY_PAUSE)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise BadRequest("this controller was closed, and takes no wishes: open another one")

    def _accepted(self, accept: Callable[[Asked], Row | None], asked: Asked) -> Row | None:
        services = self.services
        if services is None:
            accepted = accept(asked)
            self.nudge()
            return accepted
        accepted = services.worker.accepted(lambda offer: accept(attrs.evolve(asked, offer=offer)))
        services.outbox.nudge()
        return accepted


BUSY_PAUSE = 0.05
"""Seconds between two attempts at a busy load balancer."""
