"""Upstream's RPC: the API's casts, each made an operation before its message is acknowledged.

oslo.messaging's RPC server acknowledges a message and then handles it, so that a process which dies in between loses
it. `StoringServer` turns this round by one method; a test against the library holds it to that. Queues are declared with
the settings of octavia.conf, which must be the API's own, and survive a broker's restart only where these say so: what
is lost with a queue is found by the sweep.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import oslo_messaging
from oslo_config.cfg import DuplicateOptError
from oslo_messaging.rpc import dispatcher as rpc_dispatcher
from oslo_messaging.rpc import server as rpc_server

from octavia_core.errors import OctaviaError, TransientError
from octavia_core.ports.requests import Accept, Message

__all__ = ["ECHO", "EXCHANGE", "NAMESPACE", "TOPIC", "VERSION", "Consumer", "StoringServer", "prepare"]

log = logging.getLogger("octavia_oslo.consumer")

EXCHANGE, TOPIC, NAMESPACE, VERSION = "octavia", "octavia_provisioning_v2", "controller", "2.0"
"""Of upstream Octavia 19: RPC transport of octavia-api to its workers."""
ECHO = "octavia_core_echo"
"""Namespace of the message to oneself; a server of the same topic that does not know it leaves it alone."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to store a message while the database is away; the last one goes on."""
_ECHO_EVERY = 10.0
"""Seconds between two messages to oneself."""
_DEAF_AFTER = 35.0
"""Seconds without hearing oneself after which the connection is built anew: three echoes, and a bit."""

_CLOSE_WITHIN = 10.0
"""Seconds that a connection has to close at the end."""


class _Controller:
    """The endpoint: whatever method upstream's API calls ends in one place."""

    target = oslo_messaging.Target(namespace=NAMESPACE, version=VERSION)


class _Echo:
    """The endpoint for messages to oneself."""

    target = oslo_messaging.Target(namespace=ECHO, version="1.0")


class StoringServer(rpc_server.RPCServer):  # type: ignore[misc]  # oslo.messaging has no type information
    """An RPC server that acknowledges a message when it is stored.

    Attributes:
        consumer: who stores; set right after construction, since the library constructs.
    """

    consumer: Consumer

    def _process_incoming(self, incoming: list[Any]) -> None:
        """Called by the library, on a thread of its pool, with one message that is not acknowledged yet."""
        message = incoming[0]
        if self.consumer.handle(message):
            try:
                message.acknowledge()
            except Exception as error:  # the connection is gone: the broker sends it again, and it is known then
                log.info("a stored message could not be acknowledged; it will come again: %s", type(error).__name__)


class Consumer:
    """Listens for upstream's messages; see `octavia_core.ports.requests.RequestSource`.

    Args:
        conf: an oslo.config object that has read octavia.conf.
        accept: stores a message.
        echo_every: seconds between messages to oneself.
        deaf_after: seconds without one after which the connection is built anew.
    """

    def __init__(
        self, conf: Any, accept: Accept, *, echo_every: float = _ECHO_EVERY, deaf_after: float = _DEAF_AFTER
    ) -> None:
        self._conf, self._accept = conf, accept
        # of our own, so that messages to oneself never reach an octavia-worker of the same host
        self._host = f"{conf.host or socket.gethostname()}.octavia-core"
        self._echo_every, self._deaf_after = echo_every, deaf_after
        self._stopping = threading.Event()
        self._heard = time.monotonic()
        self._watch: threading.Thread | None = None
        self.rebuilt = 0
        """How often the connection was built anew because nothing was heard."""

    def start(self) -> None:
        """Begin to listen. The broker may come later: the library goes on trying."""
        prepare(self._conf)
        self._heard = time.monotonic()
        self._watch = threading.Thread(target=self._run, name="octavia-consumer", daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """Listen no more; what is not stored yet goes back to the broker."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.join(2 * _CLOSE_WITHIN)

    @property
    def deaf_for(self) -> float:
        """Seconds since a message to oneself came back."""
        return time.monotonic() - self._heard

    # -- a message -------------------------------------------------------------------------------------------------
    def handle(self, incoming: Any) -> bool:
        """Store one message; True when it may be acknowledged."""
        content = incoming.message
        method, namespace = str(content.get("method")), content.get("namespace")
        if namespace == ECHO:
            # also that of another process of ours on this host, which shares the queue: it proves as much
            self._heard = time.monotonic()
            return True
        if namespace != NAMESPACE or not _compatible(str(content.get("version", "1.0"))):
            log.error("a message for %s %s is left aside: it is not upstream's", namespace, content.get("version"))
            return True
        arguments = content.get("args")
        message = Message(
            method=method,
            arguments=arguments if isinstance(arguments, Mapping) else {},
            unique_id=getattr(incoming, "unique_id", None),
        )
        for pause in self._pauses():
            try:
                self._accept(message)
            except TransientError as error:
                log.warning("%s cannot be stored yet: %s", method, error)
                self._stopping.wait(pause)
            except OctaviaError as error:
                log.error("%s cannot be stored and is left aside: %s", method, error)
                return True
            except Exception as error:  # a bug of ours must not lose a message, nor show what is in it
                log.error("%s: storing it failed with %s; it is tried again", method, type(error).__name__)
                self._stopping.wait(pause)
            else:
                return True
        return False

    def _pauses(self) -> Iterator[float]:
        for pause in _PAUSES:
            if self._stopping.is_set():
                return
            yield pause
        while not self._stopping.is_set():
            yield _PAUSES[-1]

    # -- the connection --------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._stopping.is_set():
            line: _Line | None = None
            try:
                line = self._open()
                self._listen(line)
            except Exception as error:  # the library raises its own, its drivers' and the socket's errors
                log.warning("messages cannot be received, trying again: %s: %s", type(error).__name__, error)
                self._stopping.wait(1.0)
            if line is not None:
                # Closing a connection that is broken takes as long as its timeouts: the next one does not wait for it.
                closing = threading.Thread(target=line.close, name="octavia-consumer-close", daemon=True)
                closing.start()
                if self._stopping.is_set():
                    closing.join(_CLOSE_WITHIN)

    def _open(self) -> _Line:
        transport = oslo_messaging.get_rpc_transport(self._conf)
        target = oslo_messaging.Target(topic=TOPIC, server=self._host, fanout=False)
        dispatcher = rpc_dispatcher.RPCDispatcher([_Controller(), _Echo()], None)
        server = StoringServer(transport, target, dispatcher)
        server.consumer = self
        line = _Line(transport, server)
        server.start()
        log.info("listening for %s as %s", TOPIC, self._host)
        return line

    def _listen(self, line: _Line) -> None:
        """Until told to stop, or deaf. The echo goes the way of every message, so only a whole way brings it back."""
        here = oslo_messaging.Target(topic=TOPIC, server=self._host, namespace=ECHO, version="1.0")
        client = oslo_messaging.get_rpc_client(line.transport, here, version_cap="1.0", retry=0)
        began = time.monotonic()
        while not self._stopping.is_set():
            try:
                client.cast({}, "echo")
            except Exception as error:  # the same as in `_run`; the broker may just be away
                log.warning("the broker does not take a message: %s: %s", type(error).__name__, error)
            if self._stopping.wait(self._echo_every):
                return
            if min(self.deaf_for, time.monotonic() - began) > self._deaf_after:
                self.rebuilt += 1
                log.warning("no message to oneself came back for %.0f s; the connection is built anew", self.deaf_for)
                return


class _Line:
    """One connection with its server."""

    def __init__(self, transport: Any, server: StoringServer) -> None:
        self.transport, self.server = transport, server

    def close(self) -> None:
        """Give it up; what is not acknowledged goes back to the broker."""
        for end in (self.server.stop, self.server.wait, self.transport.cleanup):
            with contextlib.suppress(Exception):  # a connection that is broken is closed in its own way
                end()


def prepare(conf: Any) -> None:
    """What the library expects of a program: upstream's exchange as the default, and its options known."""
    from oslo_messaging import opts

    oslo_messaging.set_transport_defaults(EXCHANGE)
    groups = list(opts.list_opts())
    for name in ("metrics", "tracing"):  # 18.x makes these known to its global object alone, and asks for them always
        with contextlib.suppress(ImportError, AttributeError):
            module = importlib.import_module(f"oslo_messaging._{name}.client")
            groups.append((f"oslo_messaging_{name}", getattr(module, f"oslo_messaging_{name}")))
    for group, options in groups:
        for option in options:
            with contextlib.suppress(DuplicateOptError):  # known already, with its default as set above
                conf.register_opt(option, group=group)


def _compatible(version: str) -> bool:
    """Versions of one major number go together, the sender's minor not above ours (oslo.messaging's rule)."""
    major, _, minor = version.partition(".")
    return major == VERSION.split(".", maxsplit=1)[0] and int(minor or 0) <= int(VERSION.split(".")[1])
