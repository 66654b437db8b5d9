"""Upstream's RPC: the API's casts, each made an operation before its message is acknowledged.

oslo.messaging acknowledges an RPC message when it comes in, and then handles it, so that a process which dies in between
loses it. `StoringServer` turns this round; tests with the library and with a real broker hold it to that. Queues are
declared with the settings of octavia.conf, which must be the API's own, and survive a broker's restart only where these say
so: what is lost with a queue is found by the sweep.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import oslo_messaging
from oslo_config.cfg import DuplicateOptError
from oslo_messaging._drivers import amqpdriver
from oslo_messaging.rpc import dispatcher as rpc_dispatcher
from oslo_messaging.rpc import server as rpc_server

from octavia_core.errors import ConfigurationError, OctaviaError, TransientError
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
_REMIND_FIRST, _REMIND = 3.0, 60.0
"""Seconds without a broker until that is said, and until it is said again."""
_BUGS = 10
"""Attempts at a message that is answered by a bug of ours, over some seconds."""
_ID = 64
"""Characters of a unique id that is one: oslo.messaging's have 32."""


class _Controller:
    """The endpoint: whatever method upstream's API calls ends in one place."""

    target = oslo_messaging.Target(namespace=NAMESPACE, version=VERSION)


class _Echo:
    """The endpoint for messages to oneself."""

    target = oslo_messaging.Target(namespace=ECHO, version="1.0")


class _Incoming(amqpdriver.NotificationAMQPIncomingMessage):  # type: ignore[misc]  # oslo.messaging has no type information
    """A message that is acknowledged by whoever took it, on the thread that the connection belongs to."""

    def acknowledge(self) -> None:
        """Have it acknowledged. That of a connection that is gone fails, with a word in the log: the message comes again."""
        # the same without remembering its id: who recognises a message that comes again is the database
        self._message_operations_handler.do(self._acknowledge)

    def _acknowledge(self) -> None:
        try:
            self.message.acknowledge()
        except Exception as error:  # of a broken connection: the broker sends it again, and it is known then
            log.info("a stored message could not be acknowledged; it will come again: %s", type(error).__name__)


class _Listener(amqpdriver.RpcAMQPListener):  # type: ignore[misc]  # the same
    """The library's listener without the acknowledgement that it gives to every message at once."""

    message_cls = _Incoming
    use_cache = False

    def __call__(self, message: Any) -> None:
        """Called by the library with each message, on the thread that the connection belongs to."""
        amqpdriver.AMQPListener.__call__(self, message)


class StoringServer(rpc_server.RPCServer):  # type: ignore[misc]  # the same
    """An RPC server that acknowledges a message when it is stored.

    Attributes:
        consumer: who stores; set right after construction, since the library constructs.
        leaving: set when its connection is given up: what is not stored by then is stored by the next one.
    """

    consumer: Consumer
    leaving: threading.Event

    def _create_listener(self) -> Any:
        adapter = super()._create_listener()
        listener = getattr(adapter, "_poll_style_listener", None)
        if type(listener) is amqpdriver.RpcAMQPListener:
            listener.__class__ = _Listener  # nothing has been received yet: that begins when the adapter is started
        else:
            log.warning("this broker's driver acknowledges messages first; the sweep finds what a crash loses")
        return adapter

    def _on_incoming(self, incoming: list[Any]) -> None:
        """Called by the library, on the thread that receives. A message to oneself is heard here, however busy all others are."""
        if self.consumer.echoed(incoming[0]):
            incoming[0].acknowledge()
        else:
            super()._on_incoming(incoming)

    def _process_incoming(self, incoming: list[Any]) -> None:
        """Called by the library, on a thread of its pool, with one message that is not acknowledged yet."""
        if self.consumer.handle(incoming[0], self.leaving):
            incoming[0].acknowledge()


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
        self._opening = False
        self.rebuilt = 0
        """How often the connection was built anew because nothing was heard."""

    def start(self) -> None:
        """Begin to listen. The broker may come later: the library goes on trying.

        Raises:
            ConfigurationError: [DEFAULT] transport_url names no broker that there is a driver for.
        """
        prepare(self._conf)
        try:
            oslo_messaging.get_rpc_transport(self._conf)  # connects to nothing
        except (oslo_messaging.InvalidTransportURL, oslo_messaging.DriverLoadFailure, ValueError) as error:
            # without its value, which may hold a password
            raise ConfigurationError(
                "[DEFAULT] transport_url is not the URL of a broker; it looks like rabbit://user:password@host:5672/"
            ) from error
        self._heard = time.monotonic()
        self._watch = threading.Thread(target=self._run, name="octavia-consumer", daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """Listen no more; what is not stored yet goes back to the broker."""
        self._stopping.set()
        if self._watch is not None and not self._opening:  # the library tries to reach a broker until it is there
            self._watch.join(2 * _CLOSE_WITHIN)

    @property
    def deaf_for(self) -> float:
        """Seconds since a message to oneself came back."""
        return time.monotonic() - self._heard

    # -- a message -------------------------------------------------------------------------------------------------
    def echoed(self, incoming: Any) -> bool:
        """Whether it is a message to oneself. One of another process of ours on this host proves as much: they share a queue."""
        if incoming.message.get("namespace") != ECHO:
            return False
        self._heard = time.monotonic()
        return True

    def handle(self, incoming: Any, leaving: threading.Event) -> bool:
        """Store one message; True when it may be acknowledged. False when it was not stored until `leaving`."""
        content = incoming.message
        method, namespace = _short(content.get("method")), content.get("namespace")
        if namespace != NAMESPACE or not _compatible(str(content.get("version", "1.0"))):
            version = _short(content.get("version"))
            log.error("a message for %s %s is left aside: it is not upstream's", _short(namespace), version)
            return True
        arguments, unique_id = content.get("args"), getattr(incoming, "unique_id", None)
        message = Message(
            method=method,
            arguments=arguments if isinstance(arguments, Mapping) else {},
            unique_id=unique_id if isinstance(unique_id, str) and len(unique_id) <= _ID else None,
        )
        bugs = 0
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            if leaving.is_set() or self._stopping.is_set():
                break
            try:
                self._accept(message)
            except (TransientError, ConfigurationError) as error:  # also a database that is read-only for a while
                log.warning("%s cannot be stored yet: %s", method, error)
            except OctaviaError as error:
                log.error("%s cannot be stored and is left aside: %s", method, error)
                return True
            except Exception as error:  # a bug of ours must not lose a message at once, nor show what is in it
                bugs += 1
                again = (
                    "it is tried again" if bugs < _BUGS else "it is left aside, and the sweep finds what it asked for"
                )
                log.error("%s: storing it failed with %s; %s", method, type(error).__name__, again)
                if bugs == _BUGS:
                    return True
            else:
                return True
            leaving.wait(pause)
        return False

    # -- the connection --------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._stopping.is_set():
            line: _Line | None = None
            try:
                self._opening = True
                line = self._open()
                self._opening = False
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
        server.consumer, server.leaving = self, threading.Event()
        line = _Line(transport, server)
        reached = threading.Event()
        remind = threading.Thread(target=self._remind, args=(reached,), name="octavia-consumer-remind", daemon=True)
        remind.start()
        try:
            server.start()  # returns when the broker is there
        finally:
            reached.set()
        log.info("listening for %s as %s", TOPIC, self._host)
        return line

    def _remind(self, reached: threading.Event) -> None:
        """Say now and then which broker is not reached: the library's own words have no address."""
        url = oslo_messaging.TransportURL.parse(self._conf)
        places = ", ".join(f"{host.hostname}:{host.port or 'usual port'}" for host in url.hosts) or "localhost"
        pause = _REMIND_FIRST
        while not reached.wait(pause) and not self._stopping.is_set():
            log.warning("the broker at %s is not reached yet; as soon as it is, messages are taken", places)
            pause = _REMIND

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
        self.server.leaving.set()
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
    ours, _, newest = VERSION.partition(".")
    return major == ours and (not minor or (minor.isdecimal() and int(minor[:9]) <= int(newest)))


def _short(value: Any) -> str:
    """Of what a stranger may have sent: as much as a log can bear."""
    return str(value)[:_ID] if isinstance(value, str | int | float | None) else type(value).__name__
