"""Connections to agents: mutual TLS, one request at a time per amphora, a kept connection, a hard time limit."""

from __future__ import annotations

import http.client
import ipaddress
import math
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, ConfigurationError
from octavia_core.settings import Settings

if TYPE_CHECKING:
    from urllib3.connection import HTTPSConnection

__all__ = ["Answer", "HttpRequest", "Transport"]

_KEPT_LINES = 64
"""Amphorae to which a connection is kept; a fleet of thousands must not hold thousands of sockets here."""

_IDLE = 60.0
"""Seconds after which an unused connection is not used again; our own agent closes it after two minutes."""

_LONGEST_ANSWER = 32 * 1024 * 1024
"""Bytes: twenty times the configuration of 10,000 members; an amphora is not trusted to stop by itself."""

_IDENTITY_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE", "PROTOCOL_VERSION")


@attrs.frozen(kw_only=True)
class HttpRequest:
    """What an agent is asked. The body may be a private key: it is not shown."""

    method: str
    path: str
    body: bytes | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Answer:
    """What an agent answered."""

    status: int
    body: bytes
    content_type: str
    etag: str


class _TimedSocket(ssl.SSLSocket):
    """A TLS socket that honours one deadline over all its reads and writes, so that dripping bytes prolong nothing."""

    deadline = math.inf

    def recv_into(self, *args: Any, **options: Any) -> int:
        self._arm()
        return super().recv_into(*args, **options)

    def send(self, *args: Any, **options: Any) -> int:
        self._arm()
        return super().send(*args, **options)

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if left != math.inf:
            self.settimeout(left)


@attrs.define(eq=False)
class _Line:
    """The way to one amphora: its lock, and its connection between two requests."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    users: int = 0
    connection: HTTPSConnection | None = None
    address: tuple[str, int] = ("", 0)
    context: ssl.SSLContext | None = None
    used: float = 0.0

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Transport:
    """Sends requests to agents. Safe for threads; makes no connection and reads no file before the first request.

    Args:
        settings: certificate, authority and timeouts in `haproxy_amphora`, lowest TLS version in `amphora_agent`.
    """

    def __init__(self, settings: Settings) -> None:
        import urllib3.connection  # noqa: F401 - here, before threads: two that import it at the same time can meet half of it

        amphora = settings.haproxy_amphora
        self._client_cert, self._server_ca = amphora.client_cert, amphora.server_ca
        self._connect_limit = amphora.rest_request_conn_timeout
        self._scope = amphora.lb_network_interface
        self._lowest = settings.amphora_agent.agent_tls_protocol
        self.time_limit = amphora.rest_request_conn_timeout + amphora.rest_request_read_timeout
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._guard = threading.Lock()
        self._context: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def send(
        self, at: AgentAddress, request: HttpRequest, *, deadline: float = math.inf, beside: bool = False
    ) -> Answer:
        """One request, one answer, whatever its status.

        Args:
            at: the agent.
            request: what to ask.
            deadline: monotonic time that ends it, when that is earlier than its own time limit.
            beside: where another request to this amphora is under way, on a connection of its own rather than after it.

        Raises:
            AmphoraUnreachable: no connection, no answer in time, or the connection broke.
            AmphoraRefused: the agent is not this amphora's, or does not accept this controller; status 0.
            ConfigurationError: certificate or authority of this controller cannot be read.
        """
        deadline = min(deadline, time.monotonic() + self.time_limit)
        context = self._current_context()
        with self._line(at, deadline, beside=beside) as line:
            fresh = line.context is not context or time.monotonic() - line.used > _IDLE
            if fresh or line.address != (at.host, at.port):
                line.close()
            line.context, line.address = context, (at.host, at.port)
            try:
                return self._exchange(line, at, deadline, request)
            finally:
                line.used = time.monotonic()

    def close(self) -> None:
        """Close all kept connections."""
        with self._guard:
            for line in self._lines.values():
                if not line.users:
                    line.close()
            self._lines = OrderedDict((id, line) for id, line in self._lines.items() if line.users)

    def _exchange(self, line: _Line, at: AgentAddress, deadline: float, request: HttpRequest) -> Answer:
        """Once; and once more when a kept connection turns out to be closed by the other side."""
        from urllib3.exceptions import HTTPError

        while True:
            reused = line.connection is not None and line.connection.is_connected
            try:
                if not reused:
                    line.close()
                    line.connection = self._connect(at, line.context, deadline)
                return _talk(line.connection, deadline, request)
            except (OSError, http.client.HTTPException, HTTPError) as error:
                line.close()
                if reused and _was_closed(error):
                    continue
                raise self._translated(error, at, request) from error
            except BaseException:  # an interrupted exchange leaves half an answer on the connection
                line.close()
                raise

    def _connect(self, at: AgentAddress, context: ssl.SSLContext | None, deadline: float) -> HTTPSConnection:
        from urllib3.connection import HTTPSConnection

        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")

        connection = HTTPSConnection(
            _scoped(at.host, self._scope),
            at.port,
            timeout=min(self._connect_limit, left),
            ssl_context=context,
            server_hostname=at.amphora_id,  # the name that the context checks the certificate against
        )
        try:
            connection.connect()
        except BaseException:  # whatever interrupts it, the socket must not stay open
            connection.close()
            raise
        return connection

    @contextmanager
    def _line(self, at: AgentAddress, deadline: float, *, beside: bool) -> Iterator[_Line]:
        with self._guard:
            line = self._lines.setdefault(at.amphora_id, _Line())
            line.users += 1
            self._lines.move_to_end(at.amphora_id)
        try:
            if beside and line.lock.locked():
                with closing(_Line()) as own:
                    yield own
                return
            if not line.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise AmphoraUnreachable(f"amphora {at.amphora_id} is busy with another request of this controller")
            try:
                yield line
            finally:
                line.lock.release()
        finally:
            with self._guard:
                line.users -= 1
                self._forget_some()

    def _forget_some(self) -> None:
        idle = [id for id, line in self._lines.items() if not line.users]
        for id in idle[: max(0, len(self._lines) - _KEPT_LINES)]:
            self._lines.pop(id).close()

    def _current_context(self) -> ssl.SSLContext:
        """The context of the files as they are now: they may be renewed while the controller runs."""
        files = (self._client_cert, self._server_ca)
        signature = tuple(_signature(path) for path in files)
        with self._guard:
            if self._context is None or self._context[0] != signature:
                self._context = signature, self._make_context()
            return self._context[1]

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = _TimedSocket
        newest = self._lowest == "TLSv1.3"
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest else ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cafile=self._server_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"[haproxy_amphora] server_ca {self._server_ca} is not a readable PEM file of certificates: {error}"
            ) from error
        try:
            context.load_cert_chain(self._client_cert)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"[haproxy_amphora] client_cert {self._client_cert} is not a readable PEM file with a certificate and "
                f"its key: {error}"
            ) from error
        return context

    def _translated(self, error: Exception, at: AgentAddress, request: HttpRequest) -> Exception:
        where = f"agent of amphora {at.amphora_id} at {at.host} port {at.port}"
        cause = _tls_cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message.rstrip(".")
            return AmphoraRefused(
                f"what answers at {at.host} port {at.port} does not prove to be amphora {at.amphora_id}: {why} "
                f"(authority: {self._server_ca})",
                status=0,
                details=why,
            )
        reason = (cause.reason or "") if cause is not None else ""
        if "ALERT" in reason and any(word in reason for word in _IDENTITY_ALERTS):
            return AmphoraRefused(
                f"the {where} does not accept this controller's certificate {self._client_cert} "
                f"({reason.lower().replace('_', ' ')})",
                status=0,
                details=reason,
            )
        return AmphoraUnreachable(f"the {where} gave no answer to {request.method} {request.path}: {_reason(error)}")


def _talk(connection: HTTPSConnection | None, deadline: float, request: HttpRequest) -> Answer:
    if connection is None or not isinstance(connection.sock, _TimedSocket):
        raise ConnectionError("there is no connection")
    connection.sock.deadline = deadline
    with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # it may have said why it closed: read that
        connection.request(
            request.method,
            request.path,
            body=request.body,
            headers=request.headers,
            preload_content=False,
            decode_content=False,
        )
    response = connection.getresponse()
    data = response.read(_LONGEST_ANSWER + 1)
    if len(data) > _LONGEST_ANSWER:
        raise ConnectionError(f"the answer is longer than {_LONGEST_ANSWER} bytes")
    return Answer(
        status=response.status,
        body=data,
        content_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        etag=response.headers.get("ETag", "").strip('"'),
    )


def _was_closed(error: BaseException) -> bool:
    """True when a kept connection was closed before this request was answered; a timeout or an alert is an answer."""
    return isinstance(error, (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError))


def _tls_cause(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind the wrappings of urllib3."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        inner = error.args[-1] if error.args and isinstance(error.args[-1], BaseException) else None
        error = error.__cause__ or error.__context__ or inner
    return None


def _reason(error: BaseException) -> str:
    from urllib3.exceptions import TimeoutError as ConnectionTimeout

    if isinstance(error, (TimeoutError, ConnectionTimeout)):
        return "it took too long"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    # urllib3 begins with the connection, as Python shows objects
    return text.rpartition(": ")[2] if " at 0x" in text or "Failed to establish" in text else text


def _signature(path: str) -> tuple[object, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return (path, None)
    return (path, found.st_ino, found.st_mtime_ns, found.st_size)


def _scoped(host: str, interface: str) -> str:
    """The host, with the management interface as zone when it is an IPv6 link-local address."""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.is_link_local and not parsed.scope_id:
        return f"{host}%{interface}"
    return host
