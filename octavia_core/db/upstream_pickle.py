"""`listener.insert_headers`: upstream keeps a pickled dict in that column.

Written as the pickle of a plain dict of text, which upstream reads. Read without unpickling: a small machine follows
the few opcodes that build one flat dict of text, numbers, truth values and None, and refuses every other one, so no
class is looked up, nothing is called and no memory is taken beyond the size of the input. The only pickle in the house.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_BYTES", "PickleRefused", "dump", "load"]

MAX_BYTES = 65_535
"""What a BLOB column of MariaDB holds."""

_MAX_OPCODES = 5_000
_MARK = object()

_TEXT = frozenset(
    {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
)
_NUMBER = frozenset({"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1"})
_CONSTANT: dict[str, Any] = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}


class PickleRefused(ValueError):
    """The bytes are not the pickle of a flat dict of plain values."""


def dump(headers: Mapping[str, str]) -> bytes:
    """The bytes that upstream's ORM reads back as `headers` (protocol 4, which every Python 3 it runs on knows)."""
    return pickle.dumps({str(name): str(value) for name, value in headers.items()}, protocol=4)


def load(data: bytes) -> dict[str, str]:
    """The headers in a pickle that upstream or we wrote. True reads as 'true', None as ''.

    Raises:
        PickleRefused: too large, cut off, or anything but a flat dict of text, numbers, truth values and None.
    """
    if len(data) > MAX_BYTES:
        raise PickleRefused(f"{len(data)} bytes are more than the {MAX_BYTES} that the column holds")
    try:
        value = _Machine().run(data)
    except PickleRefused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:  # all that broken bytes can cause
        raise PickleRefused(f"not a pickle: {error}") from error
    if not isinstance(value, dict):
        raise PickleRefused(f"a pickled {type(value).__name__}, not a dict")
    return {_word(name): _word(item) for name, item in value.items()}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, (str, int)):
        return str(value)
    raise PickleRefused(f"a {type(value).__name__} inside the dict")


class _Machine:
    """The stack of a pickle, for the opcodes of one flat dict."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            if count > _MAX_OPCODES:
                raise PickleRefused(f"more than {_MAX_OPCODES} opcodes")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _TEXT or name in _NUMBER:
                self.stack.append(argument)
            elif name in _CONSTANT:
                self.stack.append(_CONSTANT[name])
            elif name not in ("PROTO", "FRAME"):
                self._build(name, argument)
        raise PickleRefused("no end")

    def _build(self, name: str, argument: Any) -> None:
        match name:
            case "EMPTY_DICT":
                self.stack.append({})
            case "MARK":
                self.stack.append(_MARK)
            case "DICT":
                self.stack.append(self._pairs(self._to_mark()))
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self._top().update(self._pairs([key, value]))
            case "SETITEMS":
                items = self._to_mark()
                self._top().update(self._pairs(items))
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                raise PickleRefused(f"opcode {name}")

    def _top(self) -> dict[Any, Any]:
        top = self.stack[-1]
        if isinstance(top, dict):
            return top
        raise PickleRefused(f"items set on a {type(top).__name__}")

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    @staticmethod
    def _pairs(items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            raise PickleRefused("a key without a value")
        if any(item is _MARK or isinstance(item, dict) for item in items):
            raise PickleRefused("a dict inside the dict")
        return dict(zip(items[::2], items[1::2], strict=True))
