"""A load balancer in upstream's provider format: the form of its notifications. Pure."""

from __future__ import annotations

from typing import Any

from octavia_core.domain.tree import LoadBalancer

__all__ = ["provider_format"]


def provider_format(load_balancer: LoadBalancer) -> dict[str, Any]:
    """What octavia-lib calls a provider load balancer, as a dict, without what hangs below it. Holds no secret."""
    vip = load_balancer.vip
    return {
        "loadbalancer_id": load_balancer.id,
        "name": load_balancer.name,
        "description": load_balancer.description,
        "project_id": load_balancer.project_id,
        "admin_state_up": load_balancer.enabled,
        "availability_zone": load_balancer.availability_zone,
        "vip_address": vip.ip_address,
        "vip_network_id": vip.network_id,
        "vip_port_id": vip.port_id,
        "vip_qos_policy_id": vip.qos_policy_id,
        "vip_subnet_id": vip.subnet_id,
    }
