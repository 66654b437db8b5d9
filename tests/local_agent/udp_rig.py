"""What the tests of UDP listeners are made of: servers that answer datagrams, a client, keepalived's files."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import attrs

from tests.local_agent.waiting import PATIENCE

__all__ = ["Real", "UdpEcho", "ask_udp", "bound", "lvs"]

_LOWEST, _COUNT = 20_000, 12_000
_PORTS = itertools.count(os.getpid() * 97)


def bound(address: str, port: int = 0) -> socket.socket:
    """A socket for datagrams; of any port one that this process has not had for long, and that nobody is given by chance.

    The kernel gives ports from 32768 on at random. A port that came back within a session's life would be that session's
    client, and a server's that is away for a moment somebody else's.
    """
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: the address may come later
    for wanted in [port] if port else _ports():
        with contextlib.suppress(OSError):
            made.bind((address, wanted))
            return made
    made.close()
    raise AssertionError(f"no port for datagrams at {address}: {port}")


def _ports() -> Iterator[int]:
    for _ in range(_COUNT):
        yield _LOWEST + next(_PORTS) % _COUNT


class UdpEcho:
    """A server that answers each datagram with its name and what was said. Empty datagrams are answered by empty ones."""

    def __init__(self, name: str, address: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.served: list[bytes] = []
        self._socket, self._over = bound(address, port), False
        self.address, self.port = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                said, sender = self._socket.recvfrom(65536)
            except OSError:
                return
            if self._over:
                return
            if said:
                self.served.append(said)
            with contextlib.suppress(OSError):  # who has asked is gone
                self._socket.sendto(self.name.encode() + b" " + said if said else b"", sender)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more; the port is free."""
        self._over = True
        with contextlib.suppress(OSError):  # "not connected"; whoever waits for a datagram is awake all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._socket.close()


def ask_udp(host: str, port: int, said: str = "hello", *, source: str = "", tries: int = 80) -> str:
    """Who answers a datagram from a port of its own, by name; empty when nobody does. Repeated, as clients of UDP do."""
    with bound(source or ("::" if ":" in host else "0.0.0.0")) as client:  # noqa: S104 - a client's own address
        client.settimeout(0.5)
        for _ in range(tries):
            try:
                client.sendto(said.encode(), (host, port))
                name, _, echo = client.recv(65536).decode().partition(" ")
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.1)  # there is no way to it now
                continue
            if echo == said:
                return name
    return ""


@attrs.frozen
class Real:
    """A member as keepalived's file has it."""

    id: str
    port: int
    weight: int = 1
    address: str = "127.0.0.1"
    check: str = ""
    enabled: bool = True


def lvs(vip: str, port: int, reals: Sequence[Real], **options: Any) -> str:
    """keepalived's file of a listener, in the form that controllers render.

    Options: algorithm, persistence, granularity, delay, retry, protocol, pool, listener, enabled, allowed.
    """
    listener, pool = options.get("listener", "listener-1"), options.get("pool", "pool-1")
    enabled = options.get("enabled", True)
    lines = [
        "# Configuration for Loadbalancer lb-1",
        f"# Configuration for Listener {listener}" if enabled else f"# Listener {listener} is disabled",
        *(f"# Allowed network {network}" for network in options.get("allowed", ())),
        "",
        "net_namespace amphora-haproxy",
    ]
    if enabled and pool:
        lines += ["", "virtual_server_group ipv4-group {", f"    {vip} {port}", "}", ""]
        lines += [
            "virtual_server group ipv4-group {",
            f"    lb_algo {options.get('algorithm', 'wrr')}",
            "    lb_kind NAT",
        ]
        lines += [f"    protocol {options.get('protocol', 'UDP')}"]
        if options.get("persistence"):
            lines += [f"    persistence_timeout {options['persistence']}"]
            lines += [f"    persistence_granularity {options.get('granularity', '255.255.255.255')}"]
        lines += [f"    delay_loop {options.get('delay', 1)}", f"    retry {options.get('retry', 1)}", ""]
        lines += [f"    # Configuration for Pool {pool}"]
        for real in reals:
            if not real.enabled:
                lines += [f"    # Member {real.id} is disabled"]
                continue
            lines += [f"    # Configuration for Member {real.id}", f"    real_server {real.address} {real.port} {{"]
            lines += [f"        weight {real.weight}"]
            lines += [f"        {line}" for line in checks(real)] + ["    }"]
        lines += ["}"]
    return "\n".join(lines) + "\n"


def checks(real: Real) -> list[str]:
    where = [f"    connect_ip {real.address}", f"    connect_port {real.port}", "    connect_timeout 1"]
    match real.check:
        case "UDP-CONNECT":
            path = f"/var/lib/octavia/lvs/check/udp_check.sh {real.address} {real.port}"
            return ["MISC_CHECK {", f'    misc_path "{path}"', "    misc_timeout 1", "}"]
        case "TCP":
            return ["TCP_CHECK {", *where, "}"]
        case "HTTP":
            return ["HTTP_GET {", "    url {", "        path /", "        status_code 200", "    }", *where, "}"]
    return []
