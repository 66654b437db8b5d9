"""Changes of an object that exists, as `octavia-admin` and programs give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import BadRequest
from octavia_core.policy.changes.converting import convert, default_of, hints, is_optional, mismatch
from octavia_core.policy.changes.names import ALIASES, CHANGEABLE, FIXED, resolved
from octavia_core.policy.validity.l7 import TARGETS
from octavia_core.policy.validity.words import KIND_OF, show

__all__ = ["normalised"]

_CLASSES = {kind: cls for cls, kind in KIND_OF.items()}
_CHILDREN = ("listeners", "pools", "members", "health_monitor", "l7policies", "rules")
_POOLS = {"default_pool": "default_pool_id", "redirect_pool": "redirect_pool_id"}


def normalised(kind: Kind, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as attributes of the tree, with values of their types.

    Names: the tree's and the load-balancer API's, in any case. Values: of the right type, or text that can be read so
    (`"5"`, `"true"`, `"round_robin"`, `"h2,http/1.1"`). None or the text `none` clears what can be empty, and gives
    back the default of what cannot. An L7 policy that gets another action loses the targets of other actions, as in
    the load-balancer API.

    Raises:
        BadRequest: nothing to change; an unknown attribute (with the nearest known one); one that is fixed for the
            object's life; a value that cannot be read.
    """
    if kind not in CHANGEABLE:
        raise BadRequest(f"an {kind.words} has no attributes that can be changed")
    words, changeable = kind.words, CHANGEABLE[kind]
    if not isinstance(changes, Mapping):
        raise mismatch(f"changes of a {words}", changes, "a mapping of attributes to values")
    if not changes:
        raise BadRequest(f"nothing to change: name at least one of {', '.join(changeable)}")
    cls = _CLASSES[kind]
    _refuse_fixed(kind, changes)
    found = resolved(changes, changeable, ALIASES[kind], words, FIXED[kind])
    values = {name: _value(cls, name, value, f"{words}: {written}") for name, (written, value) in found.items()}
    if kind is Kind.L7POLICY and "action" in values:
        _clear_targets(values)
    return values


def _refuse_fixed(kind: Kind, changes: Mapping[Any, Any]) -> None:
    attributes = {field.name for field in attrs.fields(_CLASSES[kind])}
    for written in changes:
        if not isinstance(written, str):
            continue  # told by its name below
        plain = written.strip().lower().replace("-", "_")
        name = plain if plain in CHANGEABLE[kind] else ALIASES[kind].get(plain, plain)
        if name in CHANGEABLE[kind]:
            continue
        if name in FIXED[kind]:
            way = "make another load balancer" if kind is Kind.LOAD_BALANCER else "delete it and make a new one"
            raise BadRequest(f"{name} of {_an(kind)} {kind.words} cannot be changed during its life; {way}")
        if _POOLS.get(name) in CHANGEABLE[kind]:
            raise BadRequest(f"{name} of {_an(kind)} {kind.words} is chosen with {_POOLS[name]}, the id of a pool")
        if name in _CHILDREN and name in attributes:
            raise BadRequest(
                f"{name} cannot be set on {_an(kind)} {kind.words}; create, change or delete each by itself"
            )
        if name in attributes:
            raise BadRequest(f"{name} of {_an(kind)} {kind.words} is kept by the controller and cannot be set")


def _an(kind: Kind) -> str:
    return "an" if kind in (Kind.L7POLICY, Kind.L7RULE) else "a"


def _value(cls: type, name: str, value: Any, where: str) -> Any:
    hint = hints(cls)[name]
    none = isinstance(value, str) and value.strip().lower() == "none"
    literal = hint is str or (isinstance(hint, type) and "NONE" in getattr(hint, "__members__", ()))
    if value is None or (none and not literal):
        return _cleared(cls, name, hint, value, where)
    return convert(hint, value, where)


def _cleared(cls: type, name: str, hint: Any, value: Any, where: str) -> Any:
    if is_optional(hint):
        return None
    default = default_of(cls, name)
    if default is attrs.NOTHING or name == "position":
        raise mismatch(where, value, "a value: it cannot be empty")
    return default


def _clear_targets(values: dict[str, Any]) -> None:
    own = TARGETS[values["action"]]
    for name in ("redirect_url", "redirect_prefix", "redirect_pool_id"):
        if name != own:
            if values.get(name) is not None:
                action = values["action"]
                raise BadRequest(
                    f"L7 policy: {name} is {show(values[name])}, but must be left out: the action is {action}"
                )
            values[name] = None
    if own not in ("redirect_url", "redirect_prefix"):
        values.setdefault("redirect_http_code", None)
