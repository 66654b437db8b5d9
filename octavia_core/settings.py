"""Settings: frozen values in groups, built once and passed down; each value knows where it came from.

Groups and names are upstream Octavia's (`[health_manager] heartbeat_timeout`), so an operator meets nothing new; the
groups `engine` and `local` are ours. A source (octavia.toml in the state directory, octavia.conf) gives a mapping of
group -> name -> value; `Settings.load` converts and checks, and names the file, group and option in every complaint.
Defaults here are those of upstream; `local_defaults` are those of one machine without a cloud.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError

__all__ = [
    "OF_A_PLUGIN",
    "AmphoraAgent",
    "Certificates",
    "Compute",
    "ControllerWorker",
    "Database",
    "Engine",
    "HaproxyAmphora",
    "HealthManager",
    "HouseKeeping",
    "KeepalivedVrrp",
    "Local",
    "Settings",
    "local_defaults",
]

G = TypeVar("G")


OF_A_PLUGIN = "a plugin"
"""Origin of a value that a plugin gave where nobody set one."""


def _option(default: Any, help: str) -> Any:
    return attrs.field(default=default, metadata={"help": help})


@attrs.frozen(kw_only=True)
class ControllerWorker:
    """[controller_worker]"""

    workers: int = _option(1, "worker processes, or threads when embedded")
    amphora_driver: str = _option("amphora_haproxy_rest_driver", "amphora driver")
    compute_driver: str = _option("compute_nova_driver", "compute driver")
    network_driver: str = _option("allowed_address_pairs_driver", "network driver")
    loadbalancer_topology: str = _option("SINGLE", "topology of new load balancers: SINGLE or ACTIVE_STANDBY")
    amp_active_retries: int = _option(30, "looks at a new server before giving up")
    amp_active_wait_sec: int = _option(10, "seconds between those looks")
    client_ca: str = _option("/etc/octavia/certs/ca_01.pem", "authority that signed the controllers' certificates")
    statistics_drivers: tuple[str, ...] = _option(
        ("stats_db",), "where traffic is counted: stats_db (upstream's table), stats_logger, prometheus, a plugin's"
    )


@attrs.frozen(kw_only=True)
class HealthManager:
    """[health_manager]"""

    bind_ip: str = _option("127.0.0.1", "address that receives heartbeats")
    bind_port: int = _option(5555, "UDP port that receives heartbeats; 0 picks a free one")
    heartbeat_key: Secret | None = _option(None, "key that signs heartbeats")
    heartbeat_keys_accepted: tuple[Secret, ...] = _option((), "further keys that heartbeats may be signed with")
    heartbeat_interval: float = _option(10.0, "seconds between the heartbeats of an amphora")
    heartbeat_timeout: float = _option(60.0, "seconds of silence after which an amphora counts as dead")
    health_check_interval: float = _option(3.0, "seconds between two looks for silent amphorae")
    failover_threads: int = _option(
        10,
        "without effect, accepted for upstream's files: a failover that waits holds no thread; [engine] failovers_per_minute"
        " bounds them",
    )
    health_update_threads: int = _option(
        1, "processes of the health manager's daemon that receive and verify heartbeats"
    )
    failover_threshold: int | None = _option(None, "this many silent at once: no failover at all")
    controller_ip_port_list: tuple[str, ...] = _option((), "where amphorae send heartbeats; empty: this controller")
    sock_rlimit: int = _option(0, "receive buffer in bytes, 0 for the system's default")
    metrics_address: str = _option("", "host:port where Prometheus reads the health manager's figures; empty: nowhere")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every key that heartbeats may be signed with: first the one that agents are given."""
        every = (*((self.heartbeat_key,) if self.heartbeat_key else ()), *self.heartbeat_keys_accepted)
        return tuple(dict.fromkeys(key.reveal() for key in every))


@attrs.frozen(kw_only=True)
class HouseKeeping:
    """[house_keeping]"""

    cleanup_interval: float = _option(30.0, "seconds between two purges")
    amphora_expiry_age: int = _option(604800, "seconds that rows of deleted amphorae are kept")
    load_balancer_expiry_age: int = _option(604800, "seconds that rows of deleted load balancers are kept")
    cert_interval: float = _option(3600.0, "seconds between two looks for certificates to rotate")
    cert_expiry_buffer: int = _option(1209600, "rotate certificates that expire within this many seconds")
    cert_rotate_threads: int = _option(10, "rotations at the same time")


@attrs.frozen(kw_only=True)
class HaproxyAmphora:
    """[haproxy_amphora]"""

    base_path: str = _option("/var/lib/octavia", "data directory inside the amphora")
    base_cert_dir: str = _option("/var/lib/octavia/certs", "certificate directory inside the amphora")
    bind_host: str = _option("::", "address the agent listens on")
    bind_port: int = _option(9443, "port the agent listens on")
    haproxy_cmd: str = _option("/usr/sbin/haproxy", "HAProxy inside the amphora")
    connection_logging: bool = _option(True, "log every connection inside the amphora")
    connection_max_retries: int = _option(120, "attempts to reach a freshly booted agent")
    connection_retry_interval: float = _option(5.0, "seconds between them")
    active_connection_max_retries: int = _option(15, "attempts to reach an agent that has served before")
    active_connection_retry_interval: float = _option(2.0, "seconds between them")
    failover_connection_max_retries: int = _option(2, "attempts to ask an amphora of a pair who holds the VIP")
    failover_connection_retry_interval: float = _option(5.0, "seconds between them")
    rest_request_conn_timeout: float = _option(10.0, "seconds to connect to an agent")
    rest_request_read_timeout: float = _option(60.0, "seconds to wait for its answer")
    default_connection_limit: int = _option(50000, "maxconn of a listener that says -1")
    haproxy_stick_size: str = _option("10k", "size of stick tables")
    user_log_format: str = _option(
        "{{ project_id }} {{ lb_id }} %f %ci %cp %t %{+Q}r %ST %B %U %[ssl_c_verify] %{+Q}[ssl_c_s_dn] %b %s %Tt %tsc",
        "log format of HAProxy; the two placeholders are filled in",
    )
    timeout_client_data: int = _option(50000, "client inactivity, ms, of a listener that gives none")
    timeout_member_connect: int = _option(5000, "connect to a member, ms")
    timeout_member_data: int = _option(50000, "member inactivity, ms")
    timeout_tcp_inspect: int = _option(0, "wait for content to inspect, ms")
    client_cert: str = _option("/etc/octavia/certs/client.pem", "certificate and key the controller shows to agents")
    server_ca: str = _option("/etc/octavia/certs/server_ca.pem", "authority that signed the agents' certificates")
    lb_network_interface: str = _option("o-hm0", "scope of IPv6 link-local agents")
    user_log_facility: int = _option(0, "syslog facility of connection logs")
    administrative_log_facility: int = _option(1, "syslog facility of administrative logs")


@attrs.frozen(kw_only=True)
class AmphoraAgent:
    """[amphora_agent]: what agents are told at boot and by `PUT /config`"""

    agent_server_ca: str = _option("/etc/octavia/certs/client_ca.pem", "authority of the controllers, in the amphora")
    agent_server_cert: str = _option("/etc/octavia/certs/server.pem", "the agent's certificate and key, in the amphora")
    agent_server_network_dir: str = _option(
        "", "directory of interface files in the amphora; empty for the agent's own"
    )
    agent_request_read_timeout: int = _option(180, "seconds the agent gives one request")
    agent_tls_protocol: str = _option("TLSv1.2", "lowest TLS version between controller and agent")
    user_log_facility: int = _option(0, "syslog facility of connection logs")
    administrative_log_facility: int = _option(1, "syslog facility of administrative logs")
    admin_log_targets: tuple[str, ...] = _option((), "host:port list that administrative logs are sent to")
    tenant_log_targets: tuple[str, ...] = _option((), "host:port list that connection logs are sent to")
    log_protocol: str = _option("UDP", "how logs are sent: UDP or TCP")
    log_retry_count: int = _option(5, "attempts to reach a log target")
    log_retry_interval: int = _option(2, "seconds between them")
    log_queue_size: int = _option(10000, "messages kept meanwhile")
    forward_all_logs: bool = _option(False, "send the amphora's system logs as well")
    disable_local_log_storage: bool = _option(False, "keep no log file in the amphora")


@attrs.frozen(kw_only=True)
class KeepalivedVrrp:
    """[keepalived_vrrp]"""

    vrrp_advert_int: int = _option(1, "seconds between advertisements")
    vrrp_check_interval: int = _option(5, "seconds between runs of the check script")
    vrrp_fail_count: int = _option(2, "failures until an amphora gives up the VIP")
    vrrp_success_count: int = _option(2, "successes until it may take it")
    vrrp_garp_refresh_interval: int = _option(5, "seconds between gratuitous ARPs")
    vrrp_garp_refresh_count: int = _option(2, "how many each time")


@attrs.frozen(kw_only=True)
class Certificates:
    """[certificates]"""

    cert_manager: str = _option("barbican_cert_manager", "secret store")
    ca_certificate: str = _option("/etc/ssl/certs/ssl-cert-snakeoil.pem", "authority that signs agents")
    ca_private_key: str = _option("/etc/ssl/private/ssl-cert-snakeoil.key", "its key")
    ca_private_key_passphrase: Secret | None = _option(None, "passphrase of that key")
    server_certs_key_passphrase: tuple[Secret, ...] = _option((), "Fernet keys of stored values, first encrypts")
    cert_validity_time: int = _option(2592000, "seconds that issued certificates are valid")
    storage_path: str = _option("/var/lib/octavia/certificates/", "where the file secret store looks")
    cache_seconds: float = _option(60.0, "seconds that a fetched secret is kept in memory")


@attrs.frozen(kw_only=True)
class Compute:
    """[compute]"""

    max_retries: int = _option(15, "attempts of deletes and reads")
    retry_interval: float = _option(1.0, "first pause between them, seconds")
    retry_backoff: float = _option(1.0, "growth of the pause")
    retry_max: float = _option(10.0, "longest pause, seconds")


@attrs.frozen(kw_only=True)
class Nova:
    """[nova]"""

    enable_anti_affinity: bool = _option(False, "keep the two amphorae of a pair on different hosts, by a server group")
    anti_affinity_policy: str = _option(
        "anti-affinity", "policy of that group: anti-affinity, or soft-anti-affinity (on one host rather than none)"
    )


@attrs.frozen(kw_only=True)
class Database:
    """[database]"""

    connection: Secret = _option(Secret("sqlite://"), "SQLAlchemy URL")
    max_pool_size: int = _option(10, "connections kept open")
    max_retries: int = _option(10, "attempts of a transaction before the database counts as away; below 0: the default")
    retry_interval: float = _option(0.5, "longest pause between them, seconds")
    connect_timeout: float = _option(5.0, "seconds to reach the database server")
    answer_timeout: float = _option(
        60.0, "seconds that the database server may say nothing; 0 for as long as it takes; clients wait 10 at most"
    )


@attrs.frozen(kw_only=True)
class Engine:
    """[engine]: operations and flows (ours)"""

    lease: float = _option(10.0, "seconds that a holder may act without renewing")
    poll_interval: float = _option(1.0, "longest pause between two looks at the queue, seconds")
    step_attempts: int = _option(5, "attempts of a step that fails transiently")
    step_retry_first: float = _option(0.2, "first pause between them, seconds")
    step_retry_longest: float = _option(30.0, "longest pause, seconds")
    undo_attempts: int = _option(5, "attempts of an undo before it becomes a cleanup operation")
    boot_deadline: float = _option(600.0, "seconds until a server that was asked for must serve")
    event_timeout: float = _option(5.0, "seconds that a hook may spend on one batch of events")
    failovers_per_minute: float = _option(600.0, "failovers that all health managers together may start in a minute")
    failover_retry_first: float = _option(30.0, "seconds until a failover that failed is tried again; then doubled")
    failover_retry_longest: float = _option(3600.0, "longest pause between two such attempts, seconds")
    threads: int = _option(8, "operations side by side in one worker process")
    grace: float = _option(60.0, "seconds that a worker which is told to end has for what runs; the rest is taken over")
    sweep: str = _option("report", "rows whose request was lost: off, report (say so) or repair (carry them out)")
    sweep_interval: float = _option(60.0, "seconds between two looks for them")


@attrs.frozen(kw_only=True)
class Local:
    """[local]: one machine without a cloud (ours)"""

    network: str = _option("", "the /23 of 127.64.0.0/10 for VIPs (lower half) and agents (upper half); chosen at init")
    haproxy: str = _option("", "path of HAProxy; empty finds the best one")
    orphan_after: int = _option(3600, "seconds without a controller after which an agent reports itself")
    privileged_port_offset: int = _option(8000, "added to listener ports that need privileges")
    amphora: str = _option(
        "process", "what an amphora is: process (on loopback), namespace (a network namespace each), auto (if allowed)"
    )
    namespace_network: str = _option(
        "", "for namespaces: VIPs (lower half) and agents; empty: a free /23 of 198.18.0.0/15"
    )
    namespace_network_ipv6: str = _option("", "for namespaces: the same for IPv6; empty: a unique local /48 of its own")


@attrs.frozen(kw_only=True)
class Settings:
    """All groups. `state_directory` is absolute; `origins` says for "group.name" where a value came from; `files` are
    the settings files that were read, for plugins that find more in them.
    """

    state_directory: str = ""
    files: tuple[str, ...] = ()
    controller_worker: ControllerWorker = attrs.field(factory=ControllerWorker)
    health_manager: HealthManager = attrs.field(factory=HealthManager)
    house_keeping: HouseKeeping = attrs.field(factory=HouseKeeping)
    haproxy_amphora: HaproxyAmphora = attrs.field(factory=HaproxyAmphora)
    amphora_agent: AmphoraAgent = attrs.field(factory=AmphoraAgent)
    keepalived_vrrp: KeepalivedVrrp = attrs.field(factory=KeepalivedVrrp)
    certificates: Certificates = attrs.field(factory=Certificates)
    compute: Compute = attrs.field(factory=Compute)
    nova: Nova = attrs.field(factory=Nova)
    database: Database = attrs.field(factory=Database)
    engine: Engine = attrs.field(factory=Engine)
    local: Local = attrs.field(factory=Local)
    origins: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    @classmethod
    def load(cls, *sources: tuple[str, Mapping[str, Mapping[str, Any]]], state_directory: str = "") -> Settings:
        """Build settings from (name of the source, group -> option -> value), later sources winning.

        Raises:
            ConfigurationError: an unknown group or option (with the nearest known one), or a value of the wrong type.
        """
        values: dict[str, dict[str, Any]] = {}
        origins: dict[str, str] = {}
        groups = _groups()
        for source, content in sources:
            for group, options in content.items():
                if group not in groups:
                    raise ConfigurationError(f"{source}: unknown group [{group}]{_near(group, groups)}")
                if not isinstance(options, Mapping):
                    raise ConfigurationError(f"{source}: [{group}] must be a group of options")
                known = attrs.fields_dict(groups[group])
                hints = typing.get_type_hints(groups[group])
                for name, value in options.items():
                    if name not in known:
                        raise ConfigurationError(f"{source}: unknown option [{group}] {name}{_near(name, known)}")
                    where = f"{source}: [{group}] {name}"
                    values.setdefault(group, {})[name] = _checked(
                        f"{group}.{name}", _convert(value, hints[name], where), where
                    )
                    origins[f"{group}.{name}"] = source
        built = {name: groups[name](**options) for name, options in values.items()}
        return cls(state_directory=state_directory, origins=origins, **built)

    def origin(self, name: str) -> str:
        """Where "group.option" came from: a source's name, or "default"."""
        return self.origins.get(name, "default")

    def __iter__(self) -> Iterator[tuple[str, str, Any, str]]:
        """(group, option, value, help) of every option, in order."""
        for group, kind in _groups().items():
            for field in attrs.fields(kind):
                yield group, field.name, getattr(getattr(self, group), field.name), field.metadata["help"]


_AT_LEAST_ONE = frozenset({"failover_threshold"})
_COUNTS = frozenset({"workers", "threads", "step_attempts", "undo_attempts"})
_RATES = frozenset({"failovers_per_minute"})
_NOT_ZERO = frozenset(
    {"heartbeat_interval", "heartbeat_timeout", "health_check_interval", "lease", "poll_interval"}
) | {"connect_timeout", "failover_retry_first", "failover_retry_longest"}
"""Times that nothing works without."""
LONGEST = 10 * 365 * 86400
"""Seconds, ten years: what is longer is a slip of the pen, and some of it more than clocks and databases can count."""
QUICKEST = 1_000_000
"""Of what is counted by the minute."""


_LAST = 65535
_RANGES = {
    "health_manager.bind_port": range(_LAST + 1),
    "haproxy_amphora.bind_port": range(1, _LAST + 1),
    "local.privileged_port_offset": range(_LAST - 1023 + 1),  # the highest port that needs privileges has one, too
    "health_manager.health_update_threads": range(1025),
    "health_manager.sock_rlimit": range(2**30),  # the kernel doubles it, and counts in 32 bits
}
"""Whole numbers, and what they may be."""
_PLACES = {
    "health_manager.controller_ip_port_list": range(1, _LAST + 1),
    "health_manager.metrics_address": range(_LAST + 1),
    "amphora_agent.admin_log_targets": range(1, _LAST + 1),
    "amphora_agent.tenant_log_targets": range(1, _LAST + 1),
}
"""Texts `host:port`, and the ports that they may name."""


def _checked(option: str, value: Any, where: str) -> Any:
    """Numbers with a point are times, in seconds: not negative, some of them not zero, and none longer than ten years."""
    name = option.partition(".")[2]
    allowed = _RANGES.get(option)
    if allowed is not None and value not in allowed:
        raise ConfigurationError(f"{where} must be a number from {allowed[0]} to {allowed[-1]}, not {value}")
    if option in _PLACES:
        for place in (value,) if isinstance(value, str) else value:
            _check_place(place, _PLACES[option], where)
    if name in _AT_LEAST_ONE and value is not None and value < 1:
        raise ConfigurationError(f"{where} must be at least 1, or absent for no such limit, not {value}")
    if name in _COUNTS and value < 1:
        raise ConfigurationError(f"{where} must be at least 1, not {value}")
    if name in _RATES:
        if not 0 < value <= QUICKEST:
            raise ConfigurationError(
                f"{where} must be a number above 0, not {value:g}; to hold all back: octavia-admin governor pause"
                if not value > 0
                else f"{where} must be a number above 0, {QUICKEST:,} at most, not {value:g}"
            )
        return value
    if name in _NOT_ZERO and value <= 0:
        raise ConfigurationError(f"{where} must be more than 0 seconds, not {value:g}")
    if isinstance(value, float) and not 0 <= value <= LONGEST:
        raise ConfigurationError(
            f"{where} must be a number of seconds from 0 to {LONGEST:,} (ten years), not {value:g}"
        )
    return value


def _check_place(place: str, ports: range, where: str) -> None:
    host, _, port = place.rpartition(":")
    if place and not (host and port.isascii() and port.isdecimal()):
        raise ConfigurationError(f"{where} must be host:port or [ipv6]:port, not {place!r}")
    if place and (len(port) > 5 or int(port) not in ports):
        raise ConfigurationError(f"{where}: there is no port {port:.20}")


def _groups() -> dict[str, type[Any]]:
    return {n: t for n, t in typing.get_type_hints(Settings).items() if attrs.has(t)}


def _near(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(value: Any, hint: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None or value == "":
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        parts = [p.strip() for p in value.split(",") if p.strip()] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise ConfigurationError(f"{where} must be a list")
        return tuple(_convert(part, item, where) for part in parts)
    if hint is Secret:
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return Secret(value)
        raise ConfigurationError(f"{where} must be text")
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false", "1", "0", "yes", "no"):
            return value.lower() in ("true", "1", "yes")
        raise ConfigurationError(f"{where} must be true or false, not {value!r}")
    if hint in (int, float):
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError
            number = hint(value)
        except (ValueError, OverflowError):
            word = "a whole number" if hint is int else "a number"
            raise ConfigurationError(f"{where} must be {word}, not {value!r}") from None
        return number
    if not isinstance(value, str):
        raise ConfigurationError(f"{where} must be text, not {value!r}")
    return value


def local_defaults(state_directory: str) -> dict[str, dict[str, Any]]:
    """What differs from upstream's defaults on one machine without a cloud: drivers, paths and quicker clocks."""
    return {
        "controller_worker": {
            "workers": 4,
            "compute_driver": "local",
            "network_driver": "local",
            "amphora_driver": "haproxy",
            "client_ca": f"{state_directory}/authority/controllers.pem",
        },
        "certificates": {
            "cert_manager": "local",
            "ca_certificate": f"{state_directory}/authority/agents.pem",
            "ca_private_key": f"{state_directory}/authority/agents.key",
            "storage_path": f"{state_directory}/secrets",
        },
        "engine": {"sweep": "repair"},  # nobody else works on this database
        "haproxy_amphora": {
            "client_cert": f"{state_directory}/authority/controller.pem",
            "server_ca": f"{state_directory}/authority/agents.pem",
            "connection_retry_interval": 0.02,
            "connection_max_retries": 1500,
            "active_connection_max_retries": 3,
            "active_connection_retry_interval": 0.2,
            "failover_connection_retry_interval": 0.2,
            "rest_request_conn_timeout": 3.0,
            "rest_request_read_timeout": 15.0,
        },
        "health_manager": {
            "bind_port": 0,
            "heartbeat_interval": 0.2,
            "heartbeat_timeout": 1.0,
            "health_check_interval": 0.2,
        },
        "database": {"connection": f"sqlite:///{state_directory}/octavia.db"},
    }
