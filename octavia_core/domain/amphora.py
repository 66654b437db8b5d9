"""An amphora: the machine (or process) that balances, as its row says."""

from __future__ import annotations

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import AmphoraStatus, Role, Topology

__all__ = ["DEFAULT_AGENT_PORT", "AgentAddress", "Amphora", "VrrpGroup"]

DEFAULT_AGENT_PORT = 9443
"""Where upstream's agent listens ([haproxy_amphora] bind_port)."""


@attrs.frozen(kw_only=True)
class AgentAddress:
    """Where an agent is, and the name its certificate must carry (the amphora's id)."""

    amphora_id: str
    host: str
    port: int = DEFAULT_AGENT_PORT


@attrs.frozen(kw_only=True)
class Amphora:
    """One amphora. Fields that its flow has not reached yet are None.

    Attributes:
        lb_network_ip: management address, where its agent answers.
        agent_port: port of the agent on that address.
        vrrp_ip: own address on the VIP subnet; `ha_ip` is the VIP.
        cert_expiration: notAfter of the agent's certificate, seconds since the epoch (UTC).
    """

    id: str
    status: AmphoraStatus
    load_balancer_id: str | None = None
    compute_id: str | None = None
    lb_network_ip: str | None = None
    agent_port: int = DEFAULT_AGENT_PORT
    vrrp_ip: str | None = None
    ha_ip: str | None = None
    vrrp_port_id: str | None = None
    ha_port_id: str | None = None
    role: Role | None = None
    cert_expiration: int | None = None
    cert_busy: bool = False
    vrrp_interface: str | None = None
    vrrp_id: int | None = None
    vrrp_priority: int | None = None
    cached_zone: str | None = None
    image_id: str | None = None
    compute_flavor: str | None = None

    @property
    def topology(self) -> Topology:
        """What its agent has to know: whether it shares a VIP with another one."""
        return Topology.SINGLE if self.role in (None, Role.STANDALONE) else Topology.ACTIVE_STANDBY

    @property
    def agent(self) -> AgentAddress | None:
        """Where its agent is, or None before the management address is known."""
        if self.lb_network_ip is None:
            return None
        return AgentAddress(amphora_id=self.id, host=self.lb_network_ip, port=self.agent_port)


@attrs.frozen(kw_only=True)
class VrrpGroup:
    """What the two amphorae of a pair agree on, as upstream's `vrrp_group` row has it; made once, never changed.

    Attributes:
        name: the load balancer's id without dashes.
        auth_pass: what they prove to each other that they belong together; at most 8 characters count (RFC 2338).
        auth_type: PASS, or AH in rows of old clouds.
        advert_int: seconds between two advertisements.
    """

    load_balancer_id: str
    name: str
    auth_pass: Secret
    auth_type: str = "PASS"
    advert_int: int = 1
