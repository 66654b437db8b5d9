"""Options made from the attributes of a wish, so that everything that can be asked for can be typed.

`--timeout-client-data 5000` sets `timeout_client_data`; names are those of the load-balancer API.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import attrs
import typer

from octavia_core.domain.tree import AdditionalVip, SessionPersistence
from octavia_core.domain.vocabulary import Algorithm
from octavia_core.errors import BadRequest

__all__ = ["POOL", "Field", "fields_of", "reference", "values_of"]

_HELP: Mapping[str, str] = {
    "name": "A name.",
    "description": "A description.",
    "enabled": "Whether it takes part.",
    "project_id": "Project that owns it.",
    "topology": "SINGLE: one amphora. ACTIVE_STANDBY: a pair.",
    "vip_address": "Address of the VIP; any free one when left out.",
    "vip_port_id": "Existing network port of the VIP.",
    "vip_subnet_id": "Subnet of the VIP.",
    "vip_network_id": "Network of the VIP.",
    "vip_qos_policy_id": "QoS policy of the VIP.",
    "additional_vips": "A further VIP: an address, or any; subnet_id=ID may follow: 'any subnet_id=ID'.",
    "flavor_id": "Flavor.",
    "availability_zone": "Availability zone.",
    "protocol": "Protocol.",
    "lb_algorithm": "How a member is chosen.",
    "session_persistence": "SOURCE_IP, HTTP_COOKIE or APP_COOKIE:NAME; keeps a client with its member.",
    "connection_limit": "Most connections at a time; -1 for the default.",
    "default_pool_id": "Pool that gets the traffic.",
    "insert_headers": "NAME=VALUE, for example X-Forwarded-For=true.",
    "timeout_client_data": "Client inactivity, milliseconds.",
    "timeout_member_connect": "Time to connect to a member, milliseconds.",
    "timeout_member_data": "Member inactivity, milliseconds.",
    "timeout_tcp_inspect": "Wait for content to inspect, milliseconds.",
    "tls_certificate_id": "Certificate with key: a name in the secret store, or a path (./... or /...).",
    "sni_container_ids": "Further certificates, chosen by SNI.",
    "client_ca_tls_certificate_id": "Authority of the clients' certificates.",
    "client_authentication": "Whether clients must show a certificate.",
    "client_crl_container_id": "Revocation list of the clients' certificates.",
    "tls_enabled": "Speak TLS to the members.",
    "ca_tls_certificate_id": "Authority of the members' certificates.",
    "crl_container_id": "Revocation list of the members' certificates.",
    "tls_ciphers": "OpenSSL cipher list.",
    "tls_versions": "TLS versions that are offered.",
    "alpn_protocols": "ALPN protocols, in order.",
    "hsts_max_age": "Strict-Transport-Security: max-age, seconds.",
    "hsts_include_subdomains": "... with includeSubDomains.",
    "hsts_preload": "... with preload.",
    "allowed_cidrs": "Client networks that are let in; all when none is given.",
    "weight": "Share of the traffic, 0 to 256; 0 drains.",
    "subnet_id": "Subnet of the member.",
    "backup": "Only used when no other member works.",
    "monitor_address": "Address that is checked instead.",
    "monitor_port": "Port that is checked instead.",
    "type": "Kind of check.",
    "delay": "Seconds between two checks.",
    "timeout": "Seconds a check may take.",
    "max_retries": "Successes until a member counts as up.",
    "max_retries_down": "Failures until it counts as down.",
    "http_method": "Method of the check.",
    "url_path": "Path of the check.",
    "expected_codes": "Codes that mean up: 200, 200,202 or 200-204.",
    "http_version": "1.0 or 1.1.",
    "domain_name": "Host header of the check.",
    "action": "What is done when all rules match.",
    "position": "Place among the listener's policies, from 1.",
    "redirect_pool_id": "Pool that gets the request.",
    "redirect_url": "URL that the client is sent to.",
    "redirect_prefix": "Prefix of that URL; the path is kept.",
    "redirect_http_code": "301, 302, 303, 307 or 308.",
    "compare_type": "How the value is compared.",
    "value": "Value to compare with.",
    "key": "Name of the header or cookie.",
    "invert": "True when it does not match.",
}

_METAVARS: Mapping[Any, str] = {
    int: "NUMBER",
    float: "NUMBER",
    Mapping[str, str]: "NAME=VALUE",
    tuple[AdditionalVip, ...]: "ADDRESS",
}
_FLAGS: Mapping[str, str] = {"enabled": "--enable/--disable"}
_SHORT: Mapping[str, str] = {"lb_algorithm": "--algorithm", "session_persistence": "--persistence"}
_RENAMED: Mapping[str, str] = {
    "timeout": "--check-timeout",
    "tls_certificate_id": "--cert",
    "sni_container_ids": "--sni",
    "additional_vips": "--additional-vip",
}
_SECRETS = frozenset(
    {
        "tls_certificate_id",
        "sni_container_ids",
        "client_ca_tls_certificate_id",
        "client_crl_container_id",
        "ca_tls_certificate_id",
        "crl_container_id",
    }
)


@attrs.frozen
class Field:
    """One attribute of a wish as an option."""

    name: str
    type: Any
    flag: str
    help: str
    metavar: str | None = None

    @property
    def variable(self) -> str:
        """Name of the parameter of the command's function."""
        return f"field_{self.name}"

    def parameter(self) -> inspect.Parameter:
        """For Typer: the option, absent unless it is given."""
        option = typer.Option(
            self.flag, help=self.help, metavar=self._metavar(), show_default=False, rich_help_panel="What it should be"
        )
        kind = self.type
        if kind in (tuple[str, ...], tuple[AdditionalVip, ...], Mapping[str, str]):
            kind = list[str]
        elif kind is SessionPersistence:
            kind = str
        return inspect.Parameter(
            self.variable, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
        )

    def _metavar(self) -> str | None:
        if self.metavar is not None or self.type is bool:
            return self.metavar
        if isinstance(self.type, type) and issubclass(self.type, StrEnum):
            return "|".join(one.value for one in self.type if one is not Algorithm.SOURCE_IP_PORT)  # no amphora has it
        return _METAVARS.get(self.type, "TEXT")

    def value(self, given: Any) -> Any:
        """What was typed, as the value of a wish."""
        if self.name in _SECRETS:
            return [reference(one) for one in given] if isinstance(given, list) else reference(given)
        if self.type == Mapping[str, str]:
            return dict(_pair(one, self.flag) for one in given)
        if self.type is SessionPersistence:
            kind, _, cookie = str(given).partition(":")
            return {"type": kind.upper(), "cookie_name": cookie} if cookie else {"type": kind.upper()}
        if isinstance(given, StrEnum):
            return given.value
        return given


POOL: tuple[Field, ...] = (
    Field(
        "members",
        tuple[str, ...],
        "--member",
        "A server behind it; settings may follow: '10.0.0.1:80 weight=5'.",
        "ADDRESS:PORT",
    ),
    Field(
        "health_monitor",
        str,
        "--monitor",
        "Check the members: TCP, or HTTP:/healthz; settings may follow: 'HTTP:/ delay=1 timeout=1'.",
        "TYPE[:PATH]",
    ),
    Field("lb_algorithm", str, "--algorithm", "ROUND_ROBIN, LEAST_CONNECTIONS or SOURCE_IP."),
    Field("session_persistence", SessionPersistence, "--persistence", _HELP["session_persistence"]),
)
"""The quick way to describe a pool."""


def fields_of(
    wish: type[Any], *, leave_out: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[Field, ...]:
    """The attributes of a wish that can be typed as one option; nested wishes cannot."""
    hints = typing.get_type_hints(wish)
    found = []
    for attribute in attrs.fields(wish):
        kind = _bare(hints[attribute.name])
        wanted = attribute.name not in leave_out if only is None else attribute.name in only
        if not wanted or not _typeable(kind):
            continue
        flag = _RENAMED.get(attribute.name) or _SHORT.get(attribute.name) or f"--{attribute.name.replace('_', '-')}"
        if kind is bool:
            flag = _FLAGS.get(attribute.name, f"{flag}/--no-{flag.removeprefix('--')}")
        found.append(Field(attribute.name, kind, flag, _HELP[attribute.name]))
    return tuple(found)


def values_of(fields: Sequence[Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were typed, by attribute name."""
    return {field.name: field.value(given[field.variable]) for field in fields if given[field.variable] is not None}


def _bare(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(arm for arm in typing.get_args(hint) if arm is not type(None))
    return hint


def _typeable(kind: Any) -> bool:
    several = (tuple[str, ...], tuple[AdditionalVip, ...], Mapping[str, str])
    if kind in (str, int, float, bool, SessionPersistence, *several):
        return True
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadRequest(f"{flag} takes NAME=VALUE, not {text!r}")
    return name, value


def reference(text: str) -> str:
    """A certificate as it is typed: a path of this machine becomes file:///..., everything else is a name of the store.

    What is meant for another machine is typed as file:///... itself; that is not looked for here.

    Raises:
        BadRequest: there is nothing at the path.
    """
    import os

    if text.startswith("file://") or not text:
        return text
    if text.startswith(("./", "../", "/", "~")):
        from urllib.parse import quote

        path = os.path.abspath(os.path.expanduser(text))
        if not os.path.exists(path):
            raise BadRequest(f"there is no file {path}; a file of the controller's machine is written file://{path}")
        return "file://" + quote(path)
    return text
