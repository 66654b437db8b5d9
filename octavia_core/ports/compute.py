"""Where amphorae come from: a virtual machine, a container, a device, a local process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import attrs

from octavia_core.domain.amphora import DEFAULT_AGENT_PORT
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Topology

__all__ = ["BootFiles", "ComputePort", "Death", "Server", "ServerSpec", "ServerState", "Watch"]

BootFiles = Mapping[str, Secret]
"""Absolute path in the amphora -> content. The compute driver carries them and never looks inside."""


class ServerState(StrEnum):
    """What compute says of a server."""

    BUILDING = "BUILDING"
    ACTIVE = "ACTIVE"
    STOPPED = "STOPPED"
    """Known to be not running (exited, shut off): positive evidence of death."""
    ERROR = "ERROR"
    GONE = "GONE"
    """Compute has no such server."""


@attrs.frozen(kw_only=True)
class ServerSpec:
    """What to boot. `name` (`amphora-<id>`) identifies it; everything else is a wish about placement."""

    name: str
    amphora_id: str
    load_balancer_id: str | None = None
    topology: Topology = Topology.SINGLE
    flavor: Mapping[str, Any] = attrs.field(factory=dict)
    availability_zone: Mapping[str, Any] = attrs.field(factory=dict)
    server_group_id: str | None = None


@attrs.frozen(kw_only=True)
class Server:
    """A server that exists. `management_ip` is None until it has one; `host` is the machine that it runs on, None where the
    cloud does not say.
    """

    id: str
    name: str
    state: ServerState
    management_ip: str | None = None
    agent_port: int = DEFAULT_AGENT_PORT
    zone: str | None = None
    host: str | None = None
    image_id: str | None = None
    flavor: str | None = None
    fault: str | None = None
    """Why it is STOPPED or in ERROR, in the words of compute or of the server's own log, where they are known."""


@attrs.frozen(kw_only=True)
class Death:
    """Positive evidence that a server is not running any more. `at` is seconds since the epoch."""

    server_id: str
    at: float
    evidence: str


class Watch(Protocol):
    """A running watch over servers; `close()` ends it and returns when no callback runs any more."""

    def close(self) -> None:
        """End it. Twice is harmless."""


class ComputePort(Protocol):
    """Servers, by name and id."""

    time_limit: float
    """Seconds within which each call returns or raises."""

    poll_interval: float
    """Seconds between two looks at servers that are being built (0.02 for a local process, 10 for a cloud)."""

    def boot(self, spec: ServerSpec, files: Callable[[], BootFiles]) -> Server:
        """Ask for a server and return at once, usually BUILDING.

        The same `spec.name` twice returns the server that exists, and then `files` is not called: the server keeps
        the certificate it has. `files` makes secrets; it is called at most once, just before they are needed.

        Raises:
            TransientError: the cloud is busy or unreachable.
            PermanentError: the cloud refuses (quota, unknown flavor or image).
        """

    def find(self, name: str) -> Server | None:
        """The server of that name, or None."""

    def servers(self, ids: Sequence[str]) -> Mapping[str, Server]:
        """The present state of many servers with as few requests as possible; one that is gone has state GONE."""

    def list(self) -> Sequence[Server]:
        """Every server that looks like ours (named `amphora-*`), wanted or not: what `orphans` compares with the rows."""

    def destroy(self, id_or_name: str) -> None:
        """Remove the server, running, frozen or half built, with all that the driver made for it. Absent is success."""

    def server_group(self, name: str, policy: str) -> str | None:
        """The id of the server group of that name, made if there is none: `ServerSpec.server_group_id` of servers that the
        policy (`anti-affinity`, `soft-anti-affinity`) keeps apart. The same name twice is the same group.

        None: this compute keeps nothing apart, as on a single machine.

        Raises:
            TransientError: the cloud is busy or unreachable.
            PermanentError: the cloud refuses (quota, unknown policy).
        """

    def remove_server_group(self, id_or_name: str) -> None:
        """Remove a server group; servers of it stay. Absent is success."""

    def watch(self, on_death: Callable[[Death], None]) -> Watch | None:
        """Report deaths of all servers at once, from a thread of the driver, or None when it cannot do better than polling.

        Servers that were booted or found before or after the call are all watched. A death is reported once.
        """
