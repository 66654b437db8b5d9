"""Every kind of L7 rule that a request without TLS can meet, with a request that it matches and one that it does not."""

from __future__ import annotations

from typing import Any

import attrs

from octavia_core.domain.vocabulary import CompareType, L7RuleType

__all__ = [
    "CASES",
    "COMPARES",
    "CONTAINS",
    "COOKIE",
    "ENDS",
    "EQUAL",
    "HEADER",
    "PATH",
    "REGEX",
    "STARTS",
    "TYPES",
    "Case",
    "request",
]

HOST, PATH, FILE, HEADER, COOKIE = TYPES = (
    L7RuleType.HOST_NAME,
    L7RuleType.PATH,
    L7RuleType.FILE_TYPE,
    L7RuleType.HEADER,
    L7RuleType.COOKIE,
)
REGEX, STARTS, ENDS, CONTAINS, EQUAL = COMPARES = (
    CompareType.REGEX,
    CompareType.STARTS_WITH,
    CompareType.ENDS_WITH,
    CompareType.CONTAINS,
    CompareType.EQUAL_TO,
)


@attrs.frozen
class Case:
    """A rule, a request that it matches, and one next to it that it does not (see `request`)."""

    type: L7RuleType
    compare_type: CompareType
    value: str
    hit: str
    miss: str
    key: str | None = None

    @property
    def rule(self) -> dict[str, Any]:
        """The rule's fields."""
        return {"type": self.type, "compare_type": self.compare_type, "value": self.value, "key": self.key}


def request(part: str, *more: tuple[str, str]) -> dict[str, Any]:
    """How a case says what to ask: a path, or `Name: value`; with further headers."""
    if part.startswith("/"):
        return {"path": part, "headers": list(more)}
    name, _, value = part.partition(": ")
    return {"headers": [(name, value), *more]}


CASES = (
    Case(HOST, EQUAL, "one.example.com", "Host: ONE.example.com", "Host: two.example.com"),
    Case(HOST, STARTS, "api.", "Host: api.example.com", "Host: web.api.example.com"),
    Case(HOST, ENDS, ".example.net", "Host: a.example.net", "Host: a.example.org"),
    Case(HOST, CONTAINS, "internal", "Host: x.internal.y", "Host: x.external.y"),
    Case(HOST, REGEX, r"^v\d+\.example$", "Host: v12.example", "Host: vx.example"),
    Case(PATH, EQUAL, "/exact", "/exact", "/exactly"),
    Case(PATH, STARTS, "/admin", "/admin/x", "/x/admin"),
    Case(PATH, ENDS, "/end", "/the/end", "/end/the"),
    Case(PATH, CONTAINS, "secret", "/a/secret/b", "/a/b"),
    Case(PATH, REGEX, r"^/r/\d{2,3}$", "/r/42", "/r/4"),
    Case(FILE, EQUAL, "jpg", "/picture.jpg", "/picture.png"),
    Case(FILE, REGEX, r"\.(gif|webp)$", "/picture.webp", "/picture.webm"),
    Case(HEADER, EQUAL, "exact value", "X-Equal: exact value", "X-Equal: exact values", "X-Equal"),
    Case(HEADER, STARTS, "-begins", "X-Starts: -begins so", "X-Starts: so -begins", "X-Starts"),
    Case(HEADER, ENDS, "'quoted\"", "X-Ends: a 'quoted\"", "X-Ends: a quoted", "X-Ends"),
    Case(HEADER, CONTAINS, "a # b $HOME \\n", "X-Has: <a # b $HOME \\n>", "X-Has: a", "X-Has"),
    Case(HEADER, CONTAINS, "(KHTML, like", "X-Agent: A (KHTML, like B)", "X-Agent: A (KHTML), like B", "X-Agent"),
    Case(HEADER, EQUAL, "a,b", "X-List: a,b", "X-List: a", "X-List"),
    Case(HEADER, REGEX, r"^(yes|ja)\s?!$", "X-It's: ja !", "X-It's: jah", "X-It's"),
    Case(COOKIE, EQUAL, "1", "Cookie: alpha=2; beta=1", "Cookie: alpha=1; beta=2", "beta"),
    Case(COOKIE, STARTS, "ab", "Cookie: session=abc", "Cookie: session=cab", "session"),
    Case(COOKIE, ENDS, "yz", "Cookie: tail=xyz", "Cookie: tail=yzx", "tail"),
    Case(COOKIE, CONTAINS, "mid", "Cookie: middle=amidst", "Cookie: middle=md", "middle"),
    Case(COOKIE, REGEX, r"^\d+$", "Cookie: number=42", "Cookie: number=4x", "number"),
)
