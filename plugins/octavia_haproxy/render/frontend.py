"""Frontends: one per listener."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import ListenerProtocol
from octavia_core.errors import PermanentError
from octavia_core.settings import HaproxyAmphora
from octavia_haproxy.render import check
from octavia_haproxy.render.backend import connection_limit, manifest
from octavia_haproxy.render.l7 import policy_lines
from octavia_haproxy.render.model import Facts, Served
from octavia_haproxy.render.names import backend_name
from octavia_haproxy.render.words import line, log_format

__all__ = ["PROMETHEUS_BACKEND", "addresses", "frontend"]

PROMETHEUS_BACKEND = "prometheus-exporter-internal"
_LET_IN = "let-in"
"""Name of the ACL of allowed clients; those of rules are UUIDs."""
_WORDS = 32
"""Networks on one line: HAProxy takes 64 words."""
_REQUEST_ONLY = ("%{+Q}r", "%r", "%{+Q}ST", "%ST")
_HTTP_LOGS = (ListenerProtocol.HTTP, ListenerProtocol.TERMINATED_HTTPS)


def frontend(
    served: Served, load_balancer: LoadBalancer, vips: Sequence[str], settings: HaproxyAmphora, facts: Facts
) -> Iterator[str]:
    """The lines of one frontend, its header first. The agent reads some of them: agent API 6.3.

    Raises:
        PermanentError: a field cannot be written.
    """
    listener = served.listener
    yield f"frontend {check.identifier('listener', listener.id)}"
    yield from manifest(served.bind_tls)
    yield line("maxconn", str(connection_limit(listener.connection_limit, settings)))
    yield from _allowed_clients(listener)
    if listener.protocol is ListenerProtocol.TERMINATED_HTTPS:
        yield line("redirect", "scheme", "https", "if", "!{", "ssl_fc", "}")
        yield from _hsts(served)
    for vip in vips:
        yield line("bind", f"{vip}:{listener.protocol_port}", *served.bind_tls.words)
    yield line("mode", "http" if served.http else "tcp")
    for policy in served.policies:
        yield from policy_lines(policy, listener.id)
    if served.default_pool:
        yield line("default_backend", backend_name(served.default_pool.id, listener.id))
    yield line("timeout", "client", str(listener.timeout_client_data or settings.timeout_client_data))
    inspect = listener.timeout_tcp_inspect or settings.timeout_tcp_inspect
    if inspect:
        yield line("tcp-request", "inspect-delay", str(inspect))
    if listener.protocol is ListenerProtocol.PROMETHEUS and facts.haproxy_version >= (2, 0):
        yield line("default_backend", PROMETHEUS_BACKEND)
    if settings.connection_logging:
        yield line("log-format", _log_format(served, load_balancer, settings))


def addresses(load_balancer: LoadBalancer) -> list[str]:
    """The VIP and the additional VIPs, in that order.

    Raises:
        PermanentError: one is not allocated, or is no address.
    """
    owner = f"load balancer {load_balancer.id}"
    if not load_balancer.vip.ip_address:
        raise PermanentError(f"{owner} has no VIP address yet")
    found = [check.address(owner, "vip_address", load_balancer.vip.ip_address)]
    found += [check.address(owner, "additional VIP", vip.ip_address) for vip in load_balancer.additional_vips]
    return list(dict.fromkeys(found))


def _allowed_clients(listener: Listener) -> Iterator[str]:
    """Clients of other networks are turned away. Where the network has security groups they do not get here; elsewhere, as
    on one machine, this is what keeps them out.
    """
    owner = f"listener {listener.id}"
    networks = sorted({check.network(owner, "allowed_cidrs", cidr) for cidr in listener.allowed_cidrs})
    for first in range(0, len(networks), _WORDS):
        yield line("acl", _LET_IN, "src", *networks[first : first + _WORDS])
    if networks:
        yield line("tcp-request", "connection", "reject", "unless", _LET_IN)


def _hsts(served: Served) -> Iterator[str]:
    listener = served.listener
    if listener.hsts_max_age is not None:
        parts = [f"max-age={int(listener.hsts_max_age)};"]
        parts += ["includeSubDomains;"] * listener.hsts_include_subdomains + ["preload;"] * listener.hsts_preload
        yield line("http-response", "set-header", "Strict-Transport-Security", " ".join(parts))


def _log_format(served: Served, load_balancer: LoadBalancer, settings: HaproxyAmphora) -> str:
    found = settings.user_log_format
    if served.listener.protocol not in _HTTP_LOGS:
        for part in _REQUEST_ONLY:
            found = found.replace(part, "-")
    owner = f"load balancer {load_balancer.id}"
    project = check.text(owner, "project_id", load_balancer.project_id) if load_balancer.project_id else "-"
    found = found.replace("{{ project_id }}", log_format(project))
    found = found.replace("{{ lb_id }}", log_format(load_balancer.id))
    return check.text("settings", "[haproxy_amphora] user_log_format", found)
