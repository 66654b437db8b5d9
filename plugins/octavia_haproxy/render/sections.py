"""What stands before the proxies: global, defaults, peers, and the inner proxies of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, MonitorType, Topology
from octavia_core.settings import Settings
from octavia_haproxy.render.backend import connection_limit
from octavia_haproxy.render.frontend import PROMETHEUS_BACKEND
from octavia_haproxy.render.model import Facts, Served
from octavia_haproxy.render.monitor import active_monitor
from octavia_haproxy.render.names import PEER_PORT, peer_name, peers_section
from octavia_haproxy.render.words import line

__all__ = ["LOG_SOCKET", "defaults", "global_maxconn", "global_section", "peers", "prometheus"]

LOG_SOCKET = "/run/rsyslog/octavia/log"
"""The amphora image brings it (agent API 6.2)."""

_MAXCONN = 1_000_000
"""Upper bound of the global limit, as upstream."""


def global_section(
    load_balancer: LoadBalancer, served: Sequence[Served], settings: Settings, facts: Facts
) -> Iterator[str]:
    """The process. No `group`: the agent brings it in a file of its own."""
    amphora, logs = settings.haproxy_amphora, settings.amphora_agent
    maxconn = global_maxconn(served, settings)
    yield "global"
    yield line("daemon")
    yield line("user", "nobody")
    yield line("log", LOG_SOCKET, f"local{logs.user_log_facility}")
    yield line("log", LOG_SOCKET, f"local{logs.administrative_log_facility}", "notice")
    yield line("stats", "socket", f"{amphora.base_path}/{load_balancer.id}.sock", "mode", "0666", "level", "user")
    if facts.haproxy_version >= (1, 6):
        yield line("server-state-file", f"{amphora.base_path}/{load_balancer.id}/servers-state")
    yield line("maxconn", str(maxconn))
    blocks = _ssl_cache(served, maxconn, facts)
    if blocks:
        yield line("tune.ssl.cachesize", str(blocks))
    if facts.threads:
        yield line("nbthread", str(facts.threads))
        yield line("cpu-map", f"auto:1/1-{facts.threads}", f"1-{facts.threads}")
    if any(_pings(entry) for entry in served):
        yield line("external-check")
        if facts.haproxy_version >= (2, 2):
            yield line("insecure-fork-wanted")


def global_maxconn(served: Sequence[Served], settings: Settings) -> int:
    """Sum of the listeners' limits, within bounds."""
    total = sum(connection_limit(entry.listener.connection_limit, settings.haproxy_amphora) for entry in served)
    return total if 0 < total < _MAXCONN else _MAXCONN


def defaults(settings: Settings) -> Iterator[str]:
    """Defaults of all proxies."""
    yield "defaults"
    yield line("log", "global") if settings.haproxy_amphora.connection_logging else line("no", "log")
    yield line("retries", "3")
    for option in ("redispatch", "splice-request", "splice-response", "http-keep-alive"):
        yield line("option", option)


def peers(load_balancer: LoadBalancer, amphora: Amphora, others: Sequence[Amphora]) -> Iterator[str]:
    """The section through which a pair shares stick tables; nothing for a single amphora or one without VRRP address."""
    if load_balancer.topology is not Topology.ACTIVE_STANDBY or amphora.vrrp_ip is None:
        return
    allocated = [other for other in others if other.status is AmphoraStatus.ALLOCATED and other.id != amphora.id]
    yield f"peers {peers_section(load_balancer.id)}"
    for member in sorted([amphora, *allocated], key=lambda found: found.id):
        if member.vrrp_ip:
            yield line("peer", peer_name(member.id), f"{member.vrrp_ip}:{PEER_PORT}")


def prometheus() -> Iterator[str]:
    """The exporter on 127.0.0.1:9101, and the way to the image's proxy on 9102 that renames its metrics."""
    yield "frontend prometheus-exporter-internal-endpoint"
    yield line("bind", "127.0.0.1:9101")
    yield line("mode", "http")
    yield line("no", "log")
    yield line("http-request", "use-service", "prometheus-exporter", "if", "{", "path", "/metrics", "}")
    yield line("http-request", "reject")
    yield line("timeout", "http-request", "5s")
    yield line("timeout", "client", "5s")
    yield ""
    yield f"backend {PROMETHEUS_BACKEND}"
    yield line("mode", "http")
    yield line("no", "log")
    yield line("balance", "first")
    yield line("timeout", "connect", "5s")
    yield line("timeout", "server", "5s")
    yield line("server", "prometheus-internal", "127.0.0.1:9102")


_MOST_SESSIONS = 2_000_000
"""About 500 MB."""


def _ssl_cache(served: Sequence[Served], maxconn: int, facts: Facts) -> int:
    """Sessions to remember: blocks of about 250 bytes for two fifths of the memory that connections leave free.

    HAProxy fills them all at each check, start and reload (30 million took over a minute), so there is a limit.
    """
    if not any(entry.terminates for entry in served):
        return 0
    if facts.ssl_cache and facts.ssl_cache[0] == maxconn:
        return facts.ssl_cache[1]
    if facts.memory_kb is None:
        return 0
    free = (facts.memory_kb - 32 * maxconn) * 2 // 5
    return min(free * 4, _MOST_SESSIONS) if free > 5000 else 0


def _pings(entry: Served) -> bool:
    monitors = (active_monitor(pool) for pool in entry.pools)
    return any(monitor and monitor.type is MonitorType.PING for monitor in monitors)
