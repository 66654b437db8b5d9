"""One value, as a user wrote it, into the type that an attribute has. The type comes from the attribute's annotation."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs

from octavia_core.domain.tree import SessionPersistence
from octavia_core.domain.vocabulary import Algorithm
from octavia_core.errors import BadRequest
from octavia_core.policy.validity.words import alternatives, show

__all__ = ["convert", "default_of", "hints", "is_optional", "listed", "mismatch"]

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotation of each attribute, as objects."""
    return typing.get_type_hints(cls)


def is_optional(hint: Any) -> bool:
    """May it be None?"""
    return types.NoneType in typing.get_args(hint) and typing.get_origin(hint) in (typing.Union, types.UnionType)


def default_of(cls: type, name: str) -> Any:
    """What the attribute is when nobody says anything; `attrs.NOTHING` when somebody must."""
    default: Any = getattr(attrs.fields(cls), name).default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def mismatch(where: str, value: object, allowed: str) -> BadRequest:
    """The error of one value; `allowed` continues '... but must be'."""
    return BadRequest(f"{where} is {show(value)}, but must be {allowed}")


def convert(hint: Any, value: Any, where: str) -> Any:
    """The value as `hint` wants it: text is read, an enum's words in any case, comma text as a tuple.

    `hint` is one of the annotations of the tree's attributes that hold no further objects.

    Raises:
        BadRequest: it cannot be read so; the sentence begins with `where`.
    """
    if is_optional(hint):
        if value is None:
            return None
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _word(hint, value, where)
    if hint is SessionPersistence:
        return _persistence(value, where)
    if typing.get_origin(hint) is tuple:
        return tuple(convert(str, item, f"{where}[{index}]") for index, item in enumerate(listed(value, where)))
    reader = _READERS.get(typing.get_origin(hint) or hint)
    assert reader is not None, hint  # every attribute of the tree is of a type above or below
    return reader(value, where)


def listed(value: Any, where: str) -> list[Any]:
    """A list, a tuple, or text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)):
        return list(value)
    raise mismatch(where, value, "a list")


def _text(value: Any, where: str) -> str:
    if isinstance(value, str) and not isinstance(value, Enum):
        return value
    if isinstance(value, int) and not isinstance(value, bool):  # YAML reads `expected_codes: 200` as a number
        return show(value) if value.bit_length() > 64 else str(value)
    raise mismatch(where, value, "text (in a document: in quotes)")


def _flag(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise mismatch(where, value, "true or false")


def _whole(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= 18:
            return int(value)
    raise mismatch(where, value, "a whole number")


def _number(value: Any, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise mismatch(where, value, "a number") from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise mismatch(where, value, "a number")


def _word(enum: type[Enum], value: Any, where: str) -> Enum:
    if isinstance(value, enum):
        return value
    if isinstance(value, str):
        plain = _plain(value)
        for member in enum:
            if _plain(str(member.value)) == plain:
                return member
    # the API has a word for what no pool can have; who writes it is told so by validity
    raise mismatch(where, value, alternatives(one for one in enum if one is not Algorithm.SOURCE_IP_PORT))


def _plain(word: str) -> str:
    return str(word).strip().upper().replace("-", "_")


def _headers(value: Any, where: str) -> dict[str, str]:
    """A mapping, or text such as `X-Forwarded-For=true,X-Forwarded-Port=true`."""
    if isinstance(value, str):
        value = _pairs(value, where)
    if not isinstance(value, Mapping):
        raise mismatch(where, value, 'a mapping of header names to "true" or "false"')
    found = {}
    for name, wanted in value.items():
        if not isinstance(name, str):
            raise mismatch(f"{where} key", name, "the name of a header")
        found[name] = "true" if _flag(wanted, f"{where}.{name}") else "false"
    return found


def _pairs(value: str, where: str) -> dict[str, str]:
    pairs = {}
    for part in listed(value, where):
        name, equals, text = part.partition("=")
        if not equals or not name.strip():
            raise mismatch(where, value, "pairs such as name=value, separated by commas")
        pairs[name.strip()] = text.strip()
    return pairs


def _persistence(value: Any, where: str) -> SessionPersistence:
    """A mapping with a type, or text: `SOURCE_IP`, or `type=APP_COOKIE,cookie_name=JSESSIONID`."""
    if isinstance(value, SessionPersistence):
        value = {field.name: getattr(value, field.name) for field in attrs.fields(SessionPersistence)}
    if isinstance(value, str):
        value = _pairs(value, where) if "=" in value else {"type": value}
    if not isinstance(value, Mapping):
        raise mismatch(where, value, "a session persistence with a type")
    known = hints(SessionPersistence)
    unknown = [name for name in value if name not in known]
    if unknown:
        raise BadRequest(f"{where}: there is no attribute {show(unknown[0])}; known are {', '.join(sorted(known))}")
    if value.get("type") is None:
        raise BadRequest(f"{where}.type is missing")
    return SessionPersistence(**{name: convert(known[name], found, f"{where}.{name}") for name, found in value.items()})


_READERS: dict[Any, Any] = {str: _text, bool: _flag, int: _whole, float: _number, Mapping: _headers}
