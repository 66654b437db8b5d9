"""What callers without a type checker hand over: said in a sentence before anything looks at it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from octavia_core.errors import BadRequest

__all__ = ["sensible"]

P = ParamSpec("P")
T = TypeVar("T")

_TEXTS = ("actor", "request_id", "name_or_id")


def sensible(wish: type[object] | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a method refuse names and ids that are no text, and wishes that are no `wish`.

    Names and ids are the parameters `id`, `..._id`, `name_or_id` and `actor`; None is one where it is the default.
    Wishes are `wish`, and each of `wishes`. The method then raises BadRequest, and nothing was asked or stored.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(method)
        texts = {
            name: parameter.default is None
            for name, parameter in signature.parameters.items()
            if name in _TEXTS or name == "id" or name.endswith("_id")
        }

        @functools.wraps(method)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs).arguments
            for name, optional in texts.items():
                if name in given and not (optional and given[name] is None):
                    _text(name, given[name])
            if wish is not None:
                if "wish" in given:
                    _wish("wish", given["wish"], wish)
                for one in _several(given["wishes"]) if "wishes" in given else ():
                    _wish("one of wishes", one, wish)
            return method(*args, **kwargs)

        return checked

    return decorate


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {_shown(value)}, but must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name} is {value!a}, which no UTF-8 can express") from None
    if "\0" in value:
        raise BadRequest(f"{name} is {value!a}, but must not contain a zero character")


def _wish(name: str, value: object, kind: type[object]) -> None:
    if not isinstance(value, kind):
        raise BadRequest(f"{name} is {_shown(value)}, but must be a {kind.__name__}")


def _several(value: Any) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadRequest(f"wishes is {_shown(value)}, but must be a list")
    return value


def _shown(value: object) -> str:
    """The kind of the value and not itself: that may be endless, or secret."""
    return "None" if value is None else f"of type {type(value).__name__}"
