"""The options of octavia.conf that upstream's controller processes read: a table (options.txt), made into oslo.config options.

Each line is `name | type | default | meaning` under its [group]; `!` behind the type marks a secret, an empty default
means none, `""` the empty text, `[]` the empty list. Names, types and defaults are those of upstream Octavia 19; a test
compares them with what upstream's own programs say.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import attrs
from oslo_config import cfg, types

__all__ = ["ENVIRONMENT", "LIBRARY_GROUPS", "READ_HERE", "REMOVED", "Line", "lines", "register"]

ENVIRONMENT = {
    "OS_OCTAVIA_TLS_CA_CERT": ("certificates", "ca_certificate"),
    "OS_OCTAVIA_TLS_CA_KEY": ("certificates", "ca_private_key"),
    "OS_OCTAVIA_CA_KEY_PASS": ("certificates", "ca_private_key_passphrase"),
    "OS_OCTAVIA_CA_SIGNING_DIGEST": ("certificates", "signing_digest"),
    "OS_OCTAVIA_TLS_STORAGE": ("certificates", "storage_path"),
}
"""Variables that upstream takes defaults from: a value in a file wins."""

READ_HERE = frozenset({("DEFAULT", "host"), ("controller_worker", "event_notifications")})
"""What this plugin reads itself; the core's settings do not have it."""

REMOVED = frozenset(
    {
        ("house_keeping", "spare_amphora_pool_size"),
        ("house_keeping", "spare_check_interval"),
        ("controller_worker", "amp_image_id"),
        ("controller_worker", "amp_network"),
        ("controller_worker", "cert_generator"),
        ("health_manager", "event_streamer_driver"),
        ("health_manager", "health_update_driver"),
        ("health_manager", "stats_update_driver"),
        ("health_manager", "sync_provisioning_status"),
        ("oslo_messaging", "event_stream_topic"),
    }
)
"""Of older releases; old files may hold them, and nobody needs to be told."""

LIBRARY_GROUPS = frozenset(
    {
        "DEFAULT", "database", "oslo_messaging_rabbit", "oslo_messaging_kafka", "oslo_messaging_notifications",
        "oslo_messaging_metrics", "oslo_middleware", "oslo_policy", "oslo_reports", "oslo_concurrency", "oslo_versionedobjects",
        "keystone_authtoken", "service_auth", "neutron", "api_settings", "driver_agent", "audit", "cors", "healthcheck",
        "key_manager", "barbican", "barbican_service_user", "profiler", "ssl",
    }
)  # fmt: skip
"""Groups with options of libraries or of the API alone: what stands there is theirs to judge."""


@attrs.frozen(kw_only=True)
class Line:
    """One option. `default` is text as in a file, None for none."""

    group: str
    name: str
    type: str
    default: str | None
    help: str
    secret: bool = False


def lines() -> Iterator[Line]:
    """The table."""
    group = ""
    for line in resources.files("octavia_oslo").joinpath("options.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            group = line.strip("[]")
            continue
        name, kind, default, meaning = (part.strip() for part in line.split(" | ", 3))
        yield Line(
            group=group,
            name=name,
            type=kind.rstrip("!"),
            default={"": None, '""': "", "[]": ""}.get(default, default),
            help=meaning,
            secret=kind.endswith("!"),
        )


def register(conf: cfg.ConfigOpts) -> None:
    """Make all options of the table known to an oslo.config object."""
    for line in lines():
        kind = _TYPES[line.type]
        default: Any = None
        if line.default is not None:
            default = line.default if line.type == "str" else kind(line.default)
        option = cfg.Opt(line.name, type=kind, default=default, help=line.help, secret=line.secret)
        conf.register_opt(option, group=None if line.group == "DEFAULT" else line.group)


_TYPES: dict[str, Any] = {
    "str": types.String(),
    "int": types.Integer(),
    "float": types.Float(),
    "bool": types.Boolean(),
    "list": types.List(),
    "dict": types.Dict(),
    "port": types.Port(),
    "ip": types.IPAddress(),
}
