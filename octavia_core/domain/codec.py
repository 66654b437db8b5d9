"""Domain values to JSON and back, for journals, arguments, revisions and `--json`.

Reading is tolerant of keys it does not know, and uses defaults for keys that are missing, so that the previous and the
next release can read each other. It is strict about the kind of a value: text where a number belongs is refused, since
a silent conversion would turn None into 'None'. No secret passes in either direction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import attrs

from octavia_core.domain.secret import Secret

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["from_json", "to_json"]

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A value as None, bool, int, float, str, list and dict with text keys: what `json.dumps` takes.

    Attrs values become dicts of their fields, enums their values, tuples and sets lists (sets sorted).

    Raises:
        TypeError: something in it is a secret, bytes, not finite, or has no JSON form; the message names the type only.
    """
    return _plain(value)


@overload
def from_json(data: Any, type: type[T]) -> T: ...


@overload
def from_json(data: Any, type: Any) -> Any: ...


def from_json(data: Any, type: Any) -> Any:
    """Build a value of `type` (a class, or a hint such as `tuple[Member, ...]` or `Server | None`) from JSON data.

    Raises:
        ValueError: the data does not fit the type.
        TypeError: the type holds a secret.
    """
    try:
        return _converter().structure(data, type)
    except _SecretError:
        raise
    except Exception as error:  # cattrs raises whatever a hook or a class raised; all of it means the same here
        name = getattr(type, "__name__", str(type))
        raise ValueError(f"cannot read {name} from this JSON: {error!r}") from error


class _SecretError(TypeError):
    """A secret was about to be stored or read."""

    def __init__(self) -> None:
        super().__init__("a secret has no JSON form: hand on its reference")


@functools.cache
def _converter() -> Converter:
    from cattrs import Converter

    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(Secret, _refuse)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _truth)
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(float, _number)
    return converter


def _refuse(*_: Any) -> NoReturn:
    raise _SecretError


def _text(value: Any, kind: Any) -> Any:
    if isinstance(value, str):
        return value if kind is str else kind(value)  # an enum of words is a str too
    raise ValueError(f"expected text, found {type(value).__name__}")


def _truth(value: Any, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, found {type(value).__name__}")


def _whole(value: Any, _: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number, found {type(value).__name__}")


def _number(value: Any, _: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"expected a number, found {type(value).__name__}")


_ATOMS = frozenset({type(None), bool, str, int})
"""Types whose values are JSON already; a subclass, such as an enum of words, is not."""


@functools.cache
def _fields(kind: Any) -> tuple[str, ...] | None:
    """Names of the fields of an attrs class; None for all other classes."""
    return tuple(field.name for field in attrs.fields(kind) if field.init) if attrs.has(kind) else None


def _plain(value: Any) -> Any:
    kind: Any = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        return {key if type(key) is str else _key(key): _plain(item) for key, item in value.items()}
    if kind is tuple or kind is list:
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value._value_)
    if isinstance(value, Secret):
        _refuse()
    names = _fields(kind)
    if names is not None:  # a tree may have thousands
        made: dict[str, Any] = {}
        for name in names:
            item = getattr(value, name)
            made[name] = item if type(item) in _ATOMS else _plain(item)
        return made
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise TypeError("a number that is not finite has no JSON form")
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    raise TypeError(f"a key of a JSON object is text, not {type(key).__name__}")
