"""The files an amphora boots with: the agent's settings, log forwarding, its certificate and whom it obeys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError
from octavia_core.ports.amphora import BootIdentity
from octavia_core.ports.compute import BootFiles
from octavia_core.settings import AmphoraAgent, Settings
from octavia_haproxy.render.words import has_control

__all__ = ["AGENT_CONF", "RSYSLOG_CONF", "agent_conf", "boot_files", "controllers", "rsyslog_conf"]

AGENT_CONF = "/etc/octavia/amphora-agent.conf"
RSYSLOG_CONF = "/etc/rsyslog.d/10-rsyslog.conf"
SERVER_PEM = "/etc/octavia/certs/server.pem"
CLIENT_CA_PEM = "/etc/octavia/certs/client_ca.pem"
"""Upstream's image expects exactly these paths, whatever [amphora_agent] says inside the INI."""


def boot_files(identity: BootIdentity, settings: Settings) -> BootFiles:
    """All four files.

    Raises:
        ConfigurationError: a setting is missing or cannot stand in such a file.
    """
    return {
        AGENT_CONF: agent_conf(identity, settings),
        RSYSLOG_CONF: Secret(rsyslog_conf(settings.amphora_agent)),
        SERVER_PEM: identity.server_pem,
        CLIENT_CA_PEM: Secret(identity.controller_ca_pem),
    }


def agent_conf(identity: BootIdentity, settings: Settings) -> Secret:
    """The agent's INI, which `PUT /config` takes as well. It holds the heartbeat key, so it is a secret.

    Raises:
        ConfigurationError: there is no heartbeat key, or a value cannot be written.
    """
    amphora, agent, health = settings.haproxy_amphora, settings.amphora_agent, settings.health_manager
    if not health.heartbeat_key:
        raise ConfigurationError("[health_manager] heartbeat_key is not set; amphorae sign their heartbeats with it")
    groups = {
        "DEFAULT": {
            "debug": "False",
            "use_syslog": "True",
            "syslog_log_facility": f"LOG_LOCAL{agent.administrative_log_facility}",
        },
        "haproxy_amphora": {
            "base_cert_dir": amphora.base_cert_dir,
            "base_path": amphora.base_path,
            "bind_host": amphora.bind_host,
            "bind_port": str(amphora.bind_port),
            "haproxy_cmd": amphora.haproxy_cmd,
            "user_log_facility": str(agent.user_log_facility),
            "administrative_log_facility": str(agent.administrative_log_facility),
        },
        "health_manager": {
            "controller_ip_port_list": ", ".join(controllers(settings)),
            "heartbeat_interval": f"{health.heartbeat_interval:g}",
            "heartbeat_key": health.heartbeat_key.reveal().decode(),
        },
        "amphora_agent": {
            "agent_server_ca": agent.agent_server_ca,
            "agent_server_cert": agent.agent_server_cert,
            "agent_server_network_dir": agent.agent_server_network_dir,
            "agent_request_read_timeout": str(agent.agent_request_read_timeout),
            "amphora_id": identity.amphora_id,
            "amphora_udp_driver": "keepalived_lvs",
            "agent_tls_protocol": agent.agent_tls_protocol,
        },
        "controller_worker": {"loadbalancer_topology": identity.topology.value},
    }
    return Secret("\n".join(_ini(groups)))


def controllers(settings: Settings) -> Sequence[str]:
    """Where amphorae send heartbeats: the configured list, or this controller's own address.

    Raises:
        ConfigurationError: neither is known.
    """
    health = settings.health_manager
    if health.controller_ip_port_list:
        return health.controller_ip_port_list
    if not health.bind_port:
        raise ConfigurationError(
            "[health_manager] controller_ip_port_list is empty and bind_port is 0: amphorae would not know where to "
            "send heartbeats"
        )
    host = f"[{health.bind_ip}]" if ":" in health.bind_ip else health.bind_ip
    return (f"{host}:{health.bind_port}",)


def rsyslog_conf(agent: AmphoraAgent) -> str:
    """Log forwarding; an empty text when nothing is forwarded and logs are kept.

    Raises:
        ConfigurationError: a target is not `host:port`.
    """
    lines: list[str] = []
    tenant = f"local{agent.user_log_facility}"
    admin = f"local{agent.administrative_log_facility}.*"
    if agent.forward_all_logs:
        admin = f"*.*;{tenant}.none"
    lines += _forwarding("tenant_forwarding", agent.tenant_log_targets, agent)
    lines += _forwarding("admin_forwarding", agent.admin_log_targets, agent)
    if agent.tenant_log_targets:
        lines.append(f"{tenant}.=info call tenant_forwarding")
    if agent.admin_log_targets:
        lines.append(f"{admin} call admin_forwarding")
    if agent.disable_local_log_storage:
        lines.append("*.* stop")
    return "".join(f"{line}\n" for line in lines)


def _forwarding(name: str, targets: Sequence[str], agent: AmphoraAgent) -> Iterator[str]:
    if not targets:
        return
    yield f'ruleset(name="{name}" queue.type="linkedList" queue.size="{agent.log_queue_size}") {{'
    for index, target in enumerate(targets):
        host, colon, port = target.rpartition(":")
        if not colon or not port.isdecimal() or not host or has_control(host) or '"' in host:
            raise ConfigurationError(f"[amphora_agent] log target {target!r} is not host:port")
        standby = ' action.execOnlyWhenPreviousIsSuspended="on"' if index else ""
        yield (
            f'  action(type="omfwd" target="{host}" port="{port}" protocol="{agent.log_protocol.upper()}"'
            f' action.resumeRetryCount="{agent.log_retry_count}"'
            f' action.resumeInterval="{agent.log_retry_interval}"{standby})'
        )
    yield "}"


def _ini(groups: dict[str, dict[str, str]]) -> Iterator[str]:
    """`name = value` with blanks round the sign: a helper of the image takes the third word. Empty values are left out."""
    for group, options in groups.items():
        yield f"[{group}]"
        for name, value in options.items():
            if has_control(value) or value != value.strip() or "$" in value or value.startswith(("'", '"')):
                # A `$` is interpolation to the agent's parser, and quotes at the ends would be taken off.
                raise ConfigurationError(
                    f"[{group}] {name} cannot be written for the agent: use letters, digits, '_' and '-'"
                )
            if value:
                yield f"{name} = {value}"
        yield ""
