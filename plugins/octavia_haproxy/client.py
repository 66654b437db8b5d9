"""The agent's REST API, version 1.0, as typed calls (agent API reference, section 4)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from octavia_core.errors import AmphoraNotReady, AmphoraRefused
from octavia_core.ports.amphora import AgentInfo
from octavia_haproxy.transport import Answer, HttpRequest, Transport

__all__ = [
    "APPLY",
    "FENCE_HEADER",
    "About",
    "AgentClient",
    "AgentListener",
    "Applied",
    "Details",
    "InterfaceRule",
    "VrrpAction",
    "complaints",
    "condensed",
]

VrrpAction = Literal["start", "stop", "reload"]
"""What the agent does to keepalived; it knows no `restart` here (400)."""

FENCE_HEADER = "X-Octavia-Fence"
"""`<operation>:<fence>`: our own agent refuses an older holder of the same operation; upstream's ignores it."""

APPLY = "apply"
"""What our own agent offers beyond upstream's: a configuration sent, run, read back and noted in one request."""

_PASSED_BY = (404, 405, 412)
"""Answers to `apply` that mean: another agent than was thought, or it holds something else."""

_MEANING = {
    400: "found the request wrong",
    401: "does not know this controller",
    403: "forbids the request",
    404: "knows no such thing",
    405: "does not offer the request",
    409: "is in conflict with the request",
    500: "failed",
    503: "is not available",
}
_NO_NIC = "No suitable network interface found"
_LONGEST_DETAILS = 4000  # of HAProxy's complaints: enough for the first dozen
_SEVERITY = re.compile(r"^\[(NOTICE|WARNING|ALERT|EMERG|DIAG)\]\s*(?:\S+\s*)?\(\d+\)\s*:\s*")
"""How HAProxy begins a line; before 2.3 with day and time before the process id."""
_PLACE = re.compile(r"^(?:config\s*:\s*)?(?:parsing\s*)?(?:\[[^\]\s]*:\d+\]\s*:\s*)?")
_CLOSING = re.compile(r"^(?:Error\(s\)|Fatal errors) found in configuration")


@attrs.frozen(kw_only=True)
class Details:
    """What shapes the configuration, from `GET /details`."""

    cpu_count: int = 0
    tuned_profiles: str = ""
    free_memory_kb: int | None = None


@attrs.frozen(kw_only=True)
class About:
    """Who an agent is, and which calls beyond upstream's it offers.

    Attributes:
        datagram_listeners: how many UDP and SCTP listeners it has; None when it does not say so here, as upstream's.
    """

    info: AgentInfo
    offers: frozenset[str] = frozenset()
    datagram_listeners: int | None = None


@attrs.frozen(kw_only=True)
class Applied:
    """What an agent holds after `apply`, read from its disk; `changed` is False when it held it before."""

    etag: str
    changed: bool


@attrs.frozen(kw_only=True)
class AgentListener:
    """One entry of `GET /listeners`. The agent calls SCTP listeners UDP; a UDP listener that does not run is OFFLINE."""

    uuid: str
    status: str
    type: str


@attrs.frozen(kw_only=True)
class InterfaceRule:
    """Packets that are let in. `cidr` None: from everywhere; for `vrrp` the port does not count, upstream sends 112."""

    protocol: Literal["TCP", "UDP", "SCTP", "vrrp"]
    port: int
    cidr: str | None = None


@attrs.frozen
class AgentClient:
    """Calls of one agent. Every call may raise AmphoraUnreachable (no answer, not ready) and AmphoraRefused (it said no).

    Attributes:
        transport: the connections.
        at: the agent.
        fence: (operation id, fence) to send along.
        deadline: monotonic time by which a series of calls has to be over.
        beside: not to wait for other requests to this agent: for questions that change nothing.
    """

    transport: Transport
    at: AgentAddress
    fence: tuple[str, int] | None = None
    deadline: float = math.inf
    beside: bool = False

    def version(self) -> str:
        """The newest API version of the agent.

        Raises:
            AmphoraRefused: it is too old to be driven.
        """
        answer = self._send("GET", "/")
        older_than_discovery = answer.status == 404
        found = "0.5" if older_than_discovery else str(_json(self._checked(answer, "GET /")).get("api_version", ""))
        if found.partition(".")[0] in ("", "0"):
            raise AmphoraRefused(
                f"the agent of amphora {self.at.amphora_id} speaks API version {found or 'unknown'}, 1.0 is needed; "
                f"replace it: octavia-admin amphora failover {self.at.amphora_id}",
                status=answer.status,
            )
        return found

    def info(self) -> AgentInfo:
        """Versions and host name."""
        return self.about().info

    def about(self) -> About:
        """Versions and host name, and what it offers beyond upstream's agent."""
        found = _json(self._call("GET", "info"))
        info = AgentInfo(
            api_version=str(found.get("api_version", "")),
            hostname=str(found.get("hostname", "")),
            haproxy_version=str(found.get("haproxy_version", "")),
        )
        offers, count = found.get("offers"), found.get("datagram_listeners")
        return About(
            info=info,
            offers=frozenset(map(str, offers)) if isinstance(offers, list) else frozenset(),
            datagram_listeners=count if isinstance(count, int) else None,
        )

    def details(self) -> Details:
        """Processors, tuning profile and memory. An agent that fails here (500 before its network namespace exists) has none."""
        try:
            found = _json(self._call("GET", "details"))
        except AmphoraRefused as refused:
            if refused.status != 500:
                raise
            return Details()
        memory = found.get("memory")
        free = None
        if isinstance(memory, dict):
            free = sum(_number(memory.get(name)) for name in ("free", "buffers", "cached"))
        profiles = str(found.get("active_tuned_profiles") or "")
        return Details(cpu_count=_number(found.get("cpu_count")), tuned_profiles=profiles, free_memory_kb=free)

    def configuration(self, id: str) -> tuple[str, str] | None:
        """(text, ETag) of the HAProxy configuration of a load balancer, or None when it has none."""
        answer = self._call("GET", f"loadbalancer/{_part(id)}/haproxy", absent=True)
        return None if answer.status == 404 else (answer.body.decode("utf-8", "replace"), answer.etag)

    def upload_configuration(self, id: str, text: str) -> None:
        """Send a configuration, which the agent checks. `reload` makes it effective."""
        path = f"loadbalancer/{_part(self.at.amphora_id)}/{_part(id)}/haproxy"
        self._call("PUT", path, body=text.encode())

    def reload(self, id: str) -> None:
        """Run the configuration it has; the agent starts a process that does not run."""
        self._call("PUT", f"loadbalancer/{_part(id)}/reload")

    def apply(self, id: str, text: str, *, instead_of: str | None = None, version: str | None = None) -> Applied | None:
        """`upload_configuration`, `reload` and `configuration` in one request, of an agent that offers it; the file that
        notes the ETag of what runs is written by the agent.

        Args:
            id: the load balancer's.
            text: its configuration.
            instead_of: ETag of what has to run there now, None for anything.
            version: of HAProxy, which has to be there; None for any.

        Returns:
            None when that is not so, or when the agent knows no such call; nothing was done.
        """
        conditions = {"If-Match": instead_of, "X-Octavia-Haproxy": version}
        headers = {name: value for name, value in conditions.items() if value is not None}
        path = f"/1.0/loadbalancer/{_part(self.at.amphora_id)}/{_part(id)}/{APPLY}"
        answer = self._send("PUT", path, text.encode(), headers=headers)
        if answer.status in _PASSED_BY:
            return None
        answer = self._checked(answer, f"PUT {path}")
        return Applied(etag=answer.etag, changed=_json(answer).get("changed") is not False)

    def start(self, id: str) -> None:
        """Run a load balancer, or a UDP listener, that was stopped."""
        self._call("PUT", f"loadbalancer/{_part(id)}/start")

    def stop(self, id: str) -> None:
        """Stop a load balancer, or a UDP listener; its files stay."""
        self._call("PUT", f"loadbalancer/{_part(id)}/stop")

    def remove(self, id: str) -> None:
        """Stop a load balancer and delete its files. Absent is success."""
        self._call("DELETE", f"listeners/{_part(id)}", absent=True)

    def certificate_md5(self, id: str, name: str) -> str | None:
        """MD5 of a PEM file, or None when the amphora has no such file."""
        answer = self._call("GET", _pem(id, name), absent=True)
        return None if answer.status == 404 else str(_json(answer).get("md5sum", ""))

    def upload_certificate(self, id: str, name: str, content: Secret) -> None:
        """Store a PEM file."""
        self._call("PUT", _pem(id, name), body=content.reveal())

    def delete_certificate(self, id: str, name: str) -> None:
        """Delete a PEM file. Absent is success."""
        self._call("DELETE", _pem(id, name), absent=True)

    def plug_vip(self, vip: str, body: dict[str, Any]) -> None:
        """Configure the VIP interface. Already configured is success; an interface that is not there yet is unreachable."""
        try:
            self._call("POST", f"plug/vip/{_part(vip)}", json=body)
        except AmphoraRefused as refused:
            if refused.status != 409:
                raise

    def plug_network(self, body: dict[str, Any]) -> None:
        """Configure a member interface; errors as `plug_vip`."""
        try:
            self._call("POST", "plug/network", json=body)
        except AmphoraRefused as refused:
            if refused.status != 409:
                raise

    def upload_vrrp(self, text: str) -> None:
        """Store keepalived's configuration for VRRP, which the agent does not check.

        From now on it sends heartbeats only while keepalived runs, so `vrrp("start")` belongs to it.
        """
        self._call("PUT", "vrrp/upload", body=text.encode())

    def vrrp(self, action: VrrpAction) -> None:
        """Start, stop or reload keepalived for VRRP; `start` of one that runs reloads it."""
        self._call("PUT", f"vrrp/{action}")

    def interface(self, ip: str) -> str | None:
        """Name of the interface that has that address inside the amphora's network namespace, or None."""
        answer = self._call("GET", f"interface/{_part(ip)}", absent=True)
        return None if answer.status == 404 else str(_json(answer).get("interface", ""))

    def upload_rules(self, ip: str, rules: Sequence[InterfaceRule]) -> bool:
        """Replace the packets that the interface with that address lets in; all others are dropped.

        Returns:
            False when the agent is too old for this call, or has no such interface.
        """
        body = [attrs.asdict(rule) for rule in rules]
        return self._call("PUT", f"interface/{_part(ip)}/rules", json=body, absent=True).status != 404

    def udp_listener(self, id: str) -> str | None:
        """What keepalived was given for a UDP or SCTP listener, or None."""
        answer = self._call("GET", f"listeners/{_part(id)}/udp_listener", absent=True)
        return None if answer.status == 404 else answer.body.decode("utf-8", "replace")

    def upload_udp_listener(self, id: str, text: str) -> None:
        """Store keepalived's configuration of a UDP or SCTP listener, which the agent does not check; then `reload`."""
        self._call("PUT", f"listeners/{_part(self.at.amphora_id)}/{_part(id)}/udp_listener", body=text.encode())

    def listeners(self) -> tuple[AgentListener, ...]:
        """What the agent says it serves, LVS listeners included."""
        found = _parsed(self._call("GET", "listeners"))
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        return tuple(AgentListener(**{n: str(e.get(n, "")) for n in ("uuid", "status", "type")}) for e in entries)

    def rotate_certificate(self, server_pem: Secret) -> None:
        """Replace the agent's own certificate."""
        self._call("PUT", "certificate", body=server_pem.reveal())

    def update_agent(self, content: Secret) -> None:
        """Replace the agent's configuration file."""
        self._call("PUT", "config", body=content.reveal())

    def _call(
        self, method: str, path: str, *, body: bytes | None = None, json: object = None, absent: bool = False
    ) -> Answer:
        if json is not None:
            body = _encoded(json)
        answer = self._send(method, f"/1.0/{path}", body, is_json=json is not None)
        return self._checked(answer, f"{method} /1.0/{path}", absent=absent)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        is_json: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"User-Agent": "octavia-core", "Accept": "application/json, text/plain", **(headers or {})}
        if is_json:  # upstream's agent finds no JSON in what is not called so (400)
            sent["Content-Type"] = "application/json"
        if self.fence is not None:
            sent[FENCE_HEADER] = f"{self.fence[0]}:{self.fence[1]}"
        request = HttpRequest(method=method, path=path, body=body, headers=sent)
        return self.transport.send(self.at, request, deadline=self.deadline, beside=self.beside)

    def _checked(self, answer: Answer, asked: str, *, absent: bool = False) -> Answer:
        if 200 <= answer.status < 300:
            return answer
        details = _words(answer)
        if answer.status == 404 and (answer.content_type != "application/json" or _NO_NIC in details):
            raise AmphoraNotReady(
                f"the agent of amphora {self.at.amphora_id} is not ready for {asked}: {details or 404}"
            )
        if answer.status == 404 and absent:
            return answer
        meaning = _MEANING.get(answer.status, "gave an answer that was not expected")
        said = f": {condensed(details)}" if details else ""
        raise AmphoraRefused(
            f"the agent of amphora {self.at.amphora_id} {meaning} ({answer.status} to {asked}){said}",
            status=answer.status,
            details=details,
        )


def _part(text: str) -> str:
    """One part of a path: ids and addresses."""
    return quote(text, safe=":")


def _pem(id: str, name: str) -> str:
    return f"loadbalancer/{_part(id)}/certificates/{_part(name)}"


def _encoded(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _parsed(answer: Answer) -> object:
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def _json(answer: Answer) -> dict[str, Any]:
    found = _parsed(answer)
    return found if isinstance(found, dict) else {}


def _words(answer: Answer) -> str:
    """The agent's own words about a refusal."""
    found = _json(answer)
    parts = [str(found[name]) for name in ("details", "error") if found.get(name)] or [str(found.get("message", ""))]
    words = " ".join(parts).strip()
    if len(words) <= _LONGEST_DETAILS:
        return words
    whole, _, cut = words[:_LONGEST_DETAILS].rpartition("\n")  # half a sentence would be another one than its like
    return whole or cut


def condensed(details: str) -> str:
    """One readable line of what an agent said: its `complaints`, joined by "; "."""
    return "; ".join(complaints(details))


def complaints(details: str) -> list[str]:
    """What an agent said, each sentence once: of HAProxy's output only what its alerts complain of.

    Notices, warnings, the place in a file that nobody sees, and the last words that something was wrong are left out.
    """
    lines = [line.strip() for line in details.splitlines() if line.strip()]
    alerts = [_SEVERITY.sub("", line) for line in lines if (begin := _SEVERITY.match(line)) and begin[1] == "ALERT"]
    said = [_PLACE.sub("", alert).rstrip(" :.") for alert in alerts]  # a colon: lines that quote the file follow
    telling = [complaint for complaint in said if not _CLOSING.match(complaint)]
    return list(dict.fromkeys(telling or said or lines))


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
