"""Documents (JSON, YAML, or what a program built) into wishes, with errors that name the place in the document."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs

from octavia_core.domain.tree import AdditionalVip
from octavia_core.domain.vocabulary import Kind
from octavia_core.domain.wishes import (
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewLoadBalancer,
    NewMember,
    NewPool,
)
from octavia_core.errors import BadRequest
from octavia_core.policy.changes.converting import convert, default_of, hints, is_optional, listed, mismatch
from octavia_core.policy.changes.names import ALIASES, resolved
from octavia_core.policy.validity.words import show

__all__ = ["tidy", "wish"]

T = TypeVar("T")

_KINDS: dict[type, Kind] = {
    NewLoadBalancer: Kind.LOAD_BALANCER,
    NewListener: Kind.LISTENER,
    NewPool: Kind.POOL,
    NewMember: Kind.MEMBER,
    NewHealthMonitor: Kind.HEALTH_MONITOR,
    NewL7Policy: Kind.L7POLICY,
    NewL7Rule: Kind.L7RULE,
}
_ENVELOPES: dict[type, tuple[str, ...]] = {
    NewLoadBalancer: ("loadbalancer", "load_balancer"),
    NewListener: ("listener",),
    NewPool: ("pool",),
    NewMember: ("member",),
    NewHealthMonitor: ("healthmonitor", "health_monitor"),
    NewL7Policy: ("l7policy",),
    NewL7Rule: ("rule", "l7rule"),
}
"""The single key round the object in the load-balancer API's JSON."""

_NAMED = {"default_pool": "default_pool_id", "redirect_pool": "redirect_pool_id"}
"""Where a document may name a pool (text) in place of describing one (a mapping)."""


def wish(type_: type[T], data: Any, where: str = "") -> T:
    """Build a wish.

    Args:
        type_: a New* class.
        data: nested mappings and lists with names and values as users know them (see `normalised`); a New* value is
            taken too, and its parts are tidied up. A member may be text: `10.0.0.1:80`, `[2001:db8::1]:80`, followed
            by settings such as `weight=5`. `default_pool` and `redirect_pool` may be the name or id of a pool.
        where: what the errors begin with, e.g. a file's name with a colon; empty for the document itself.

    Raises:
        BadRequest: names the place, as in `listeners[0].default_pool.members[2].weight`.
    """
    for envelope in _ENVELOPES.get(type_, ()):
        if isinstance(data, Mapping) and list(data) == [envelope] and isinstance(data[envelope], Mapping):
            return _object(type_, data[envelope], _below(where, envelope))
    return _object(type_, data, where)


def tidy(wanted: T) -> T:
    """The same wish with every value of its right type: text where an enum belongs, lists where tuples do, is mended.

    Raises:
        BadRequest: a value that cannot be read.
    """
    return wish(type(wanted), wanted)


def _below(where: str, name: str) -> str:
    if not where:
        return name
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def _object(cls: type[T], data: Any, where: str) -> T:
    place = where.removesuffix(":") or "document"
    if isinstance(data, str) and cls in _BRIEFLY:
        data = _BRIEFLY[cls](data, place)
    if isinstance(data, cls):
        data = {field.name: getattr(data, field.name) for field in attrs.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise mismatch(place, data, f"a mapping that describes a {_words(cls)}")
    known = hints(typing.cast("type", cls))
    aliases = ALIASES[_KINDS[cls]] if cls in _KINDS else {"address": "ip_address", "subnet": "subnet_id"}
    values: dict[str, Any] = {}
    found = resolved(data, known, aliases, place)
    for name, (written, value) in found.items():
        spot = _below(where, written)
        if name in _NAMED and isinstance(value, str):
            if found.get(_NAMED[name], (None, None))[1] is not None:
                raise BadRequest(f"{spot} names a pool, and so does {_NAMED[name]}: give one of them")
            values[_NAMED[name]] = value
        elif name in _NAMED.values() and name in values:
            continue
        elif value is None and not is_optional(known[name]):
            default = default_of(cls, name)
            if default is attrs.NOTHING:
                raise BadRequest(f"{spot} is missing")
            values[name] = default
        else:
            values[name] = _value(known[name], value, spot)
    for field in attrs.fields(cls):  # type: ignore[arg-type]
        if field.default is attrs.NOTHING and field.name not in values:
            raise BadRequest(f"{_below(where, field.name)} is missing: a {_words(cls)} needs it")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    inner = [one for one in typing.get_args(hint) if one not in (types.NoneType, Ellipsis)]
    if typing.get_origin(hint) is tuple and attrs.has(inner[0]):
        alone = inner[0] in _BRIEFLY and isinstance(value, str) and "," not in value
        items = [value] if alone else listed(value, where)
        return tuple(_object(inner[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if inner and inner[0] in _KINDS and value is not None:
        return _object(inner[0], value, where)
    return convert(hint, value, where)


def _words(cls: type) -> str:
    return "additional VIP" if cls is AdditionalVip else _KINDS[cls].words


def _member(text: str, where: str) -> dict[str, Any]:
    """`ADDRESS:PORT`, IPv6 in brackets, and settings behind it: `10.0.0.1:80 weight=5 backup=true`."""
    place, *settings = text.split()[:20] or [""]
    host, colon, port = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise mismatch(where, text, "ADDRESS:PORT (an IPv6 address in brackets), such as 10.0.0.1:80 weight=5")
    data: dict[str, Any] = {"address": host[1:-1] if bracketed else host, "protocol_port": port}
    return _with_settings(data, settings, where, "a member; write it as weight=5")


def _additional_vip(text: str, where: str) -> dict[str, Any]:
    """An address, or `any`, and settings behind it: `10.0.0.9 subnet_id=ID`."""
    place, *settings = text.split()[:20] or [""]
    if "=" in place:
        settings.insert(0, place)
        place = "any"
    if not place:
        raise mismatch(where, text, "an address, or any; subnet_id=ID may follow")
    data: dict[str, Any] = {} if place == "any" else {"ip_address": place}
    return _with_settings(data, settings, where, "an additional VIP; write it as subnet_id=ID")


def _with_settings(data: dict[str, Any], settings: Sequence[str], where: str, of_what: str) -> dict[str, Any]:
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name in data:
            raise BadRequest(f"{where}: {show(setting)} is no setting of {of_what}")
        data[name] = value
    return data


_BRIEFLY: Final[Mapping[type, Callable[[str, str], dict[str, Any]]]] = {
    NewMember: _member,
    AdditionalVip: _additional_vip,
}
"""What may be written as text: text and its place in the document -> attributes."""
