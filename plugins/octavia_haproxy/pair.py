"""What the driver asks of an agent for a pair: the interface of an address, and keepalived that shares the VIP.

An agent cannot be asked which configuration keepalived was given. So its MD5 is kept beside the certificates of the load
balancer, written after keepalived was told to use it and taken away before another one is sent, as it is done for
HAProxy's: content that is there already is not sent again, and a controller that died in between sends it.
"""

from __future__ import annotations

import hashlib

from octavia_core.domain.secret import Secret
from octavia_core.errors import AmphoraRefused, PermanentError
from octavia_core.ports.amphora import VrrpDelivery
from octavia_core.settings import Settings
from octavia_haproxy.client import AgentClient
from octavia_haproxy.render.keepalived import configure_vrrp

__all__ = ["APPLIED_VRRP", "interface_of", "start", "stop"]

APPLIED_VRRP = "octavia-vrrp.pem"
"""The file of ours that holds the MD5 of keepalived's configuration. (The agent takes files of that ending only.)"""

_NOT_THERE = ("not loaded", "not found", "could not be found", "not running")
"""What systemd says, through the agent, of a service that is to be stopped and never was started."""


def interface_of(agent: AgentClient, address: str) -> str | None:
    """See `AmphoraPort.interface`."""
    return agent.interface(address) or None


def start(agent: AgentClient, delivery: VrrpDelivery, settings: Settings) -> None:
    """See `AmphoraPort.start_vrrp`.

    Raises:
        PermanentError: the configuration cannot be written.
    """
    if not delivery.amphora.vrrp_interface:
        raise PermanentError(f"amphora {delivery.amphora.id} has no interface for VRRP yet")
    text = configure_vrrp(delivery, settings)
    id, digest = delivery.load_balancer.id, hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    marker = agent.certificate_md5(id, APPLIED_VRRP)
    if marker != hashlib.md5(digest.encode(), usedforsecurity=False).hexdigest():
        if marker is not None:
            agent.delete_certificate(id, APPLIED_VRRP)
        agent.upload_vrrp(text)
        agent.vrrp("start")
        agent.upload_certificate(id, APPLIED_VRRP, Secret(digest))
    else:
        agent.vrrp("start")  # of one that runs it is a reload, which moves nothing


def stop(agent: AgentClient) -> None:
    """See `AmphoraPort.stop_vrrp`."""
    try:
        agent.vrrp("stop")
    except AmphoraRefused as refused:
        if not any(words in refused.details.lower() for words in _NOT_THERE):
            raise
