"""Rules for single values. A rule takes any Python value and says what is allowed, or None when the value is fine.

What a rule says continues the sentence '... but must be'. No rule raises, whatever it is given.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from octavia_core.policy.validity.words import alternatives, refusal, show

__all__ = [
    "INT",
    "PORT",
    "Rule",
    "address",
    "each",
    "expected_codes",
    "fields",
    "flag",
    "granularity",
    "host_name",
    "http_version",
    "identifier",
    "line",
    "matching",
    "network",
    "one_of",
    "optional",
    "prose",
    "reference",
    "regular_expression",
    "token",
    "url",
    "url_path",
    "whole",
]

Rule = Callable[[Any], str | None]

INT = 2**31 - 1
"""The largest value of an INT column; HAProxy's longest time in milliseconds as well."""

# C0, DEL, C1, the line and paragraph separators, and surrogates, which no database can store.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_VISIBLE = re.compile(r"[!-~]+")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_CODES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_CLASS = re.compile(r"\[:\^?[a-z]+:\]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAMED = re.compile(r"\(\?<(?![=!])")
_SET = re.compile(r"\\.|(\[\^?\]?(?:\\.|[^\]\\])*(?:\]|\\?\Z))", re.DOTALL)
_DOUBTFUL = re.compile(r"(\\.)|(?<!^)(\[)|(?<!^\[)(?<!^\[\^)([-&~|])\3", re.DOTALL)


def fields(owner: str, node: object, rules: Mapping[str, Rule]) -> None:
    """Hold attributes of an object against their rules.

    Raises:
        BadRequest: the first that does not fit.
    """
    for name, rule in rules.items():
        value = getattr(node, name)
        allowed = rule(value)
        if allowed is not None:
            raise refusal(owner, name, value, allowed)


def optional(rule: Rule) -> Rule:
    """None is fine too."""
    return lambda value: None if value is None else rule(value)


def each(rule: Rule, *, most: int, longest: int | None = None) -> Rule:
    """A tuple of at most `most` different values that fit `rule`; `longest` bounds them joined by commas."""

    def check(value: Any) -> str | None:
        if not isinstance(value, tuple):
            return "a list"
        if len(value) > most:
            return f"a list of at most {most} values; this has {len(value)}"
        seen = set()
        for item in value:
            allowed = rule(item)
            if allowed is not None:
                return f"a list in which each value is {allowed}; {show(item)} is not"
            if item in seen:
                return f"a list without repeats; {show(item)} is there twice"
            seen.add(item)
        if longest is not None and len(",".join(map(str, value))) > longest:
            return f"a list of at most {longest} characters in all"
        return None

    return check


def flag(value: Any) -> str | None:
    """True or False."""
    return None if isinstance(value, bool) else "true or false"


def whole(low: int, high: int) -> Rule:
    """A whole number within bounds, both included."""

    def check(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return None
        return f"a whole number from {low} to {high}"

    return check


PORT = whole(1, 65535)


def one_of(*known: object) -> Rule:
    """One of these values; the members of an enum when that is given."""
    members: tuple[object, ...] = known
    if len(known) == 1 and isinstance(known[0], type) and issubclass(known[0], Enum):
        members = tuple(known[0])
    says = alternatives(members)

    def check(value: Any) -> str | None:
        for member in members:
            if type(value) is type(member) and value == member:
                return None
        words = [member.value for member in members if isinstance(member, Enum)]
        if isinstance(value, str) and value in words:
            return f"a value of the enum {type(members[0]).__name__}, not its text"
        return says

    return check


def _text(value: Any, longest: int, forbidden: re.Pattern[str] = _CONTROL) -> str | None:
    if not isinstance(value, str):
        return "text"
    if len(value) > longest:
        return f"at most {longest} characters long; this has {len(value)}"
    if forbidden.search(value):
        return "text without control characters"
    return None


def line(longest: int, *, shortest: int = 0) -> Rule:
    """One line of text."""

    def check(value: Any) -> str | None:
        return _text(value, longest) or ("something other than empty text" if len(value) < shortest else None)

    return check


def prose(longest: int) -> Rule:
    """Text that may have several lines and tabs."""
    return lambda value: _text(value, longest, _CONTROL_BUT_LINES)


def matching(pattern: str, longest: int, says: str) -> Rule:
    """Text that fits a regular expression from end to end."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str | None:
        return _text(value, longest) or (None if compiled.fullmatch(value) else says)

    return check


def identifier(longest: int = 36) -> Rule:
    """An id as OpenStack writes them; it may become a file name or a word of a configuration."""
    return matching(_IDENTIFIER.pattern, longest, "an id of letters, digits, '.', '_' and '-'")


def reference(longest: int = 255) -> Rule:
    """The name or URL under which a secret store knows a secret."""
    return matching(_VISIBLE.pattern, longest, "the name or URL of a secret, without blanks")


def token(longest: int = 255) -> Rule:
    """The name of a header or cookie."""
    return matching(_TOKEN.pattern, longest, "a name of letters, digits and !#$%&'*+-.^_`|~, without blanks")


def address(value: Any) -> str | None:
    """An IPv4 or IPv6 address literal that a server can have."""
    says = "an IPv4 or IPv6 address"
    allowed = _text(value, 64)
    if allowed is not None:
        return says if allowed == "text" else allowed
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return _not_an_address(value, says)
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id:
        return f"{says} without a zone (drop '%{found.scope_id}')"
    if found.is_unspecified or found.is_multicast or value == "255.255.255.255":
        return f"{says} of one host"
    return None


def _not_an_address(value: str, says: str) -> str:
    if "/" in value:
        return f"{says}, not a network"
    if value.startswith("["):
        return f"{says} without brackets and port"
    host, _, port = value.rpartition(":")
    if port.isdigit() and host and ":" not in host:
        return f"{says} without a port"
    if any(letter.isalpha() for letter in value) and ":" not in value:
        return f"{says}; a host name is not resolved"
    return says


def network(value: Any) -> str | None:
    """A network in CIDR notation."""
    says = "a network such as 10.0.0.0/8 or 2001:db8::/32"
    allowed = _text(value, 64)
    if allowed is not None or "/" not in value or "%" in value:
        return says
    try:
        found = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return says
    if str(found.network_address) != str(ipaddress.ip_address(value.partition("/")[0])):
        return f"a network whose host bits are zero: {found}"
    return None


def granularity(value: Any) -> str | None:
    """persistence_granularity: an IPv4 mask, or the length of an IPv6 prefix."""
    says = "an IPv4 netmask such as 255.255.255.0 or an IPv6 prefix length from 1 to 128"
    if _text(value, 64) is not None:
        return says
    if value.isascii() and value.isdigit():
        return None if len(value) < 4 and 1 <= int(value) <= 128 else says
    try:
        mask = int(ipaddress.IPv4Address(value)) ^ 0xFFFFFFFF
    except ValueError:
        return says
    return None if mask & (mask + 1) == 0 and mask != 0xFFFFFFFF else says


def host_name(value: Any) -> str | None:
    """A DNS name; an address literal is one too as far as a Host header goes."""
    return _text(value, 255) or (None if _HOST.fullmatch(value) else "a host name such as www.example.com")


def url(value: Any) -> str | None:
    """An absolute http or https URL."""
    says = "a URL that begins with http:// or https:// and holds no blanks"
    allowed = _text(value, 255)
    if allowed is not None:
        return says if allowed == "text" else allowed
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError:
        return says
    if parts.scheme not in ("http", "https") or not _VISIBLE.fullmatch(value) or not host or port == 0:
        return says
    if ":" in host:
        return None if address(host) is None else says
    return None if _HOST.fullmatch(host) else says


def url_path(value: Any) -> str | None:
    """The path (and query) of a request."""
    allowed = _text(value, 255)  # the column; the API's own limit is larger
    if allowed is not None:
        return allowed
    if not value.startswith("/") or not _VISIBLE.fullmatch(value):
        return "a path that begins with / and holds no blanks"
    return None


def expected_codes(value: Any) -> str | None:
    """Status codes of HTTP: `200`, `200,202` or `200-204`; blanks after a comma are fine."""
    says = "status codes from 100 to 599 such as 200, 200,202 or 200-204"
    allowed = _text(value, 64)
    if allowed is not None:
        return says if allowed == "text" else allowed
    for part in value.split(","):
        found = _CODES.fullmatch(part.strip(" "))
        if not found:
            return says
        if found[2] and int(found[2]) < int(found[1]):
            return f"{says}; a range begins with its lower end"
    return None


def http_version(value: Any) -> str | None:
    """1.0 or 1.1."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value in (1.0, 1.1)
    return None if good else "1.0 or 1.1"


def regular_expression(value: Any) -> str | None:
    """A pattern for HAProxy. Python's grammar stands in for PCRE's, with what only PCRE knows smoothed over first."""
    allowed = _text(value, 255)
    if allowed is not None:
        return allowed
    smooth = _ESCAPE.sub(lambda m: "a" if m[1] in "hHRKGNXQECvVzZpPgko" else m[0], value)
    smooth = _NAMED.sub("(?P<", _CLASS.sub("a", smooth))
    try:
        re.compile(_SET.sub(_undoubted, smooth))
    except (re.error, OverflowError, RecursionError) as error:
        return f"a regular expression ({error})"
    return None


def _undoubted(found: re.Match[str]) -> str:
    """A set without what Python may read as sets in sets some day: it warns of that on standard error."""
    return found[0] if found[1] is None else _DOUBTFUL.sub(_plainly, found[1])


def _plainly(found: re.Match[str]) -> str:
    return found[1] or (r"\[" if found[2] else rf"{found[3]}\{found[3]}")
