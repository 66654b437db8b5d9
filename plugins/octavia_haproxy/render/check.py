"""What may be written at all. Each refusal is a PermanentError that names the object, the field and what is wrong."""

from __future__ import annotations

import ipaddress
import re
import socket

from octavia_core.errors import PermanentError
from octavia_haproxy.render.words import has_control

__all__ = ["address", "codes", "identifier", "name", "network", "number", "plain", "refuse", "text"]

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLANK = re.compile(r"\s")
_CODES = re.compile(r"[1-9][0-9]{2}|[1-9][0-9]{2}-[1-9][0-9]{2}")


def refuse(owner: str, field: str, why: str) -> PermanentError:
    """The refusal of a field; `owner` is the object as a person says it, kind and id."""
    return PermanentError(f"{owner}: {field} {why}")


def identifier(kind: str, id: str) -> str:
    """An id that may become the name of a section, a server or a file."""
    if not _IDENTIFIER.fullmatch(id):
        raise refuse(f"{kind} {id!r}", "id", "may hold only letters, digits, '.', '_' and '-'")
    return id


def text(owner: str, field: str, value: str | None) -> str:
    """Some text without control characters."""
    if not value:
        raise refuse(owner, field, "is empty")
    if has_control(value):
        raise refuse(owner, field, "holds a control character")
    return value


def plain(owner: str, field: str, value: str | None) -> str:
    """Text without blanks and control characters: a URL, a path, a host name."""
    checked = text(owner, field, value)
    if _BLANK.search(checked):
        raise refuse(owner, field, "holds a blank")
    return checked


def name(owner: str, field: str, value: str | None) -> str:
    """The name of a header or cookie: a token of RFC 9110 section 5.6.2."""
    if not value or not _NAME.fullmatch(value):
        raise refuse(owner, field, f"{value!r} is not a valid name of a header or cookie")
    return value


def address(owner: str, field: str, value: str | None) -> str:
    """An IPv4 or IPv6 address, without brackets and zone, as it was written."""
    text = value or ""
    try:
        # Ten times as quick as the ipaddress module, and a pool may have thousands.
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise refuse(owner, field, f"{value!r} is not an IP address") from None
    return text


def network(owner: str, field: str, value: str) -> str:
    """An IPv4 or IPv6 network in its usual form, bits of hosts left out. A zone may be any text, so there is none."""
    try:
        if "%" in value:
            raise ValueError(value)
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise refuse(owner, field, f"{value!r} is not a network") from None


def number(owner: str, field: str, value: object, *, low: int, high: int) -> str:
    """A whole number within bounds."""
    try:
        found = int(str(value))
    except ValueError:
        raise refuse(owner, field, f"{value!r} is not a whole number") from None
    if not low <= found <= high:
        raise refuse(owner, field, f"{found} is not between {low} and {high}")
    return str(found)


def codes(owner: str, field: str, value: str | None) -> list[str]:
    """HTTP status codes: `200`, `200,202` or `200-204`, expanded, sorted, without repeats; 200 when none are given."""
    found: set[int] = set()
    for part in (value or "200").split(","):
        if not _CODES.fullmatch(part.strip()):
            raise refuse(owner, field, f"{value!r} is not a list or range of HTTP status codes")
        low, _, high = part.strip().partition("-")
        if high and int(high) < int(low):
            raise refuse(owner, field, f"{value!r} is a range that ends before it begins")
        found |= set(range(int(low), int(high or low) + 1))
    return [str(code) for code in sorted(found)]
