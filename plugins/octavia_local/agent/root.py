"""The amphora's file system, played by one folder, and the two files in it that say how the agent shall behave."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import posixpath
import stat
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["AGENT_CONF", "AgentConf", "BadBoot", "Local", "Root", "log", "read_conf", "read_local"]

AGENT_CONF = "/etc/octavia/amphora-agent.conf"
"""Upstream's configuration file of the agent, as the boot files bring it."""


class BadBoot(Exception):
    """The agent cannot start, or a file it was given is wrong; one sentence."""


LARGEST_LOG = 1024 * 1024
"""Bytes of agent.log; then it becomes agent.log.1, in the place of an older one."""


def log(sentence: str) -> None:
    """A line in agent.log (standard error, where the compute driver sends it)."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    try:
        print(f"{stamp}Z {sentence}", file=sys.stderr, flush=True)
        _keep_small(2)
    except OSError:
        return  # a full disk must not end the agent


def _keep_small(descriptor: int) -> None:
    """Move what a log file holds to FILE.1 when it has grown large. The file itself stays: others may write to it too."""
    state = os.fstat(descriptor)
    if state.st_size <= LARGEST_LOG or not stat.S_ISREG(state.st_mode):
        return
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    with open(path, "rb") as file:
        found = file.read(2 * LARGEST_LOG)
    write_atomically(f"{path}.1", found)
    os.ftruncate(descriptor, 0)  # opened for appending: the next line is the first


class Root:
    """ROOT plays `/`: the absolute path P of the real image is ROOT/P.

    Args:
        path: the folder; it must belong to this user alone.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def inside(self, path: str) -> str:
        """Where an absolute path of the image is on this machine. Never outside ROOT.

        Raises:
            ValueError: the path is not absolute.
        """
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"{path!r} is not an absolute path")
        return self.path + posixpath.normpath("/" + path.lstrip("/"))

    def write(self, path: str, data: bytes) -> str:
        """Write a file of the image atomically, mode 0600, with its folders; returns where it is on this machine."""
        real = self.inside(path)
        os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
        write_atomically(real, data)
        return real

    def read(self, path: str) -> bytes:
        """The bytes of a file of the image."""
        with open(self.inside(path), "rb") as file:
            return file.read()


def write_atomically(real: str, data: bytes) -> None:
    """All or nothing: a reader sees the old bytes or the new ones, and a full disk leaves the old."""
    temporary = f"{real}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, real)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class Local(NamedTuple):
    """local.json, which the compute driver writes: what only this machine knows.

    Attributes:
        addresses: management addresses to try, in this order.
        port: management port; 0 is any free one.
        haproxy: absolute path of HAProxy.
        orphan_after: seconds without a request after which the agent calls itself an orphan.
        controller_names: accepted names (CN or DNS name) of client certificates; empty accepts any of the authority.
        privileged_port_offset: how much higher a port is served that needs privileges.
        namespace: whether this agent is in a network namespace of its own.
        keepalived: absolute path of keepalived; empty: there is none.
        nginx: absolute path of an nginx with its stream module, for UDP on loopback; empty: there is none.
        nft: absolute path of nft, for UDP in a namespace; empty: there is none.
        udp_idle: seconds after which a client's datagrams may go to another member.
    """

    addresses: tuple[str, ...]
    port: int
    haproxy: str
    orphan_after: float
    controller_names: tuple[str, ...]
    privileged_port_offset: int
    namespace: bool
    keepalived: str
    nginx: str = ""
    nft: str = ""
    udp_idle: float = 30.0


def read_local(root: Root) -> Local:
    """Read ROOT/local.json.

    Raises:
        BadBoot: it is missing or wrong.
    """
    path = root.path + "/local.json"
    try:
        with open(path, "rb") as file:
            document = json.load(file)
        addresses = tuple(str(address) for address in document["addresses"])
        if not addresses:
            raise ValueError("no addresses")
        return Local(
            addresses=addresses,
            port=int(document.get("port", 9443)),
            haproxy=str(document["haproxy"]),
            orphan_after=float(document.get("orphan_after", 3600)),
            controller_names=tuple(str(name).lower() for name in document.get("controller_names", ())),
            privileged_port_offset=int(document.get("privileged_port_offset", 8000)),
            namespace=bool(document.get("namespace", False)),
            keepalived=str(document.get("keepalived", "")),
            nginx=str(document.get("nginx", "")),
            nft=str(document.get("nft", "")),
            udp_idle=float(document.get("udp_idle", 30.0)),
        )
    except OSError as error:
        raise BadBoot(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadBoot(f"{path} is wrong: {type(error).__name__}: {error}") from error


class AgentConf:
    """What this agent uses of amphora-agent.conf. Holds the heartbeat key, so it has no repr of its fields.

    Attributes:
        amphora_id: who this is, in heartbeats.
        base_path: upstream's /var/lib/octavia.
        base_cert_dir: where certificates of listeners go.
        server_cert: PEM file the agent shows: certificate, then key.
        client_ca: PEM file of the authority whose client certificates are obeyed.
        controllers: (host, port) of the health managers, in the order they are served.
        interval: seconds between heartbeats; may be fractional.
        key: heartbeat key.
        read_timeout: seconds that reading one request may take.
        topology: SINGLE or ACTIVE_STANDBY.
    """

    def __init__(self, groups: Mapping[str, Mapping[str, str]]) -> None:
        def of(group: str, name: str, default: str) -> str:
            return groups.get(group, {}).get(name, default).strip()

        self.amphora_id = of("amphora_agent", "amphora_id", "")
        self.base_path = of("haproxy_amphora", "base_path", "/var/lib/octavia").rstrip("/")
        self.base_cert_dir = of("haproxy_amphora", "base_cert_dir", "/var/lib/octavia/certs").rstrip("/")
        self.server_cert = of("amphora_agent", "agent_server_cert", "/etc/octavia/certs/server.pem")
        self.client_ca = of("amphora_agent", "agent_server_ca", "/etc/octavia/certs/client_ca.pem")
        self.controllers = _controllers(of("health_manager", "controller_ip_port_list", ""))
        self.interval = max(0.02, float(of("health_manager", "heartbeat_interval", "10")))
        self.key = of("health_manager", "heartbeat_key", "None")  # upstream: str() of an unset option
        self.read_timeout = max(1.0, float(of("amphora_agent", "agent_request_read_timeout", "180")))
        self.topology = of("controller_worker", "loadbalancer_topology", "SINGLE").upper()
        for path in (self.base_path, self.base_cert_dir, self.server_cert, self.client_ca):
            if not path.startswith("/"):
                raise ValueError(f"{path!r} is not an absolute path")


def read_conf(data: bytes) -> AgentConf:
    """Understand amphora-agent.conf (INI, without interpolation).

    Raises:
        BadBoot: it is not INI, or a value is of the wrong kind. The message holds no value of the file.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(data.decode())
        return AgentConf({name: dict(parser[name]) for name in parser.sections()})
    except (configparser.Error, ValueError) as error:  # ValueError: not UTF-8, not a number, not a path
        raise BadBoot(f"the agent's configuration cannot be read ({type(error).__name__})") from error


def _controllers(text: str) -> tuple[tuple[str, int], ...]:
    """`host:port, [ipv6]:port`; as upstream, a malformed entry ends the list."""
    found: list[tuple[str, int]] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = entry.rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            log(f"controller_ip_port_list: {entry!r} is not host:port; it and what follows are left out")
            break
        found.append((host.strip("[]"), int(port)))
    return tuple(found)
