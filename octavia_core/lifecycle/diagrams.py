"""The status tables as pictures and tables for people: Mermaid and Markdown, made from the tables themselves.

Pure text in, text out. The page docs/reference/statuses.md holds what `blocks` gives, between markers; a test compares
the two, and `python docs/statuses.py` writes the page anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from octavia_core.lifecycle import amphora, operating, provisioning

__all__ = ["blocks", "filled", "markdown", "matrix", "mermaid"]

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)

_BLOCK = re.compile(r"(<!-- from the tables: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def mermaid(transitions: Mapping[tuple[S, E], S], *, initial: S, final: Iterable[S] = ()) -> str:
    """A Mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[S, S], list[str]] = {}
    for (status, event), becomes in transitions.items():
        arrows.setdefault((status, becomes), []).append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {initial}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    lines += [f"    {status} --> [*]" for status in final]
    return "\n".join(["```mermaid", *lines, "```", ""])


def matrix(transitions: Mapping[tuple[S, E], S], meaning: Mapping[E, str]) -> str:
    """A Markdown table: a row for each event, a column for each status it is allowed in, what follows in the cell."""
    order = list(dict.fromkeys(status for status, _ in transitions))
    events = [event for event in meaning if any(event is listed for _, listed in transitions)]
    rows = [
        [f"`{event}`", meaning[event], *(str(transitions.get((status, event), "")) for status in order)]
        for event in events
    ]
    return markdown(["event", "meaning", *(f"from {status}" for status in order)], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def blocks() -> dict[str, str]:
    """Every generated block of the page, by the name in its marker."""
    return {
        "load-balancer": mermaid(
            provisioning.LOAD_BALANCER, initial=provisioning.INITIAL, final=[provisioning.DELETED]
        ),
        "load-balancer-table": matrix(provisioning.LOAD_BALANCER, provisioning.MEANING),
        "child": mermaid(provisioning.CHILD, initial=provisioning.INITIAL, final=[provisioning.DELETED]),
        "child-table": matrix(provisioning.CHILD, provisioning.MEANING),
        "amphora": mermaid(amphora.TRANSITIONS, initial=amphora.INITIAL, final=[amphora.DELETED]),
        "amphora-table": matrix(amphora.TRANSITIONS, amphora.MEANING),
        "listener-words": _words(operating.LISTENER_WORDS),
        "pool-words": _words(operating.POOL_WORDS),
        "member-words": _words(operating.MEMBER_WORDS),
        "absent": markdown(
            ["not in the heartbeat", "when", "becomes"],
            [[rule.kind.words, rule.when, rule.becomes or "(stays)"] for rule in operating.ABSENT],
        ),
    }


def filled(page: str) -> str:
    """The page with every block made anew. A marker that names no block raises KeyError with its name."""
    made = blocks()
    return _BLOCK.sub(lambda found: f"{found[1]}{made[found[2]]}{found[3]}", page)


def _words(words: Iterable[operating.Word]) -> str:
    rows = [
        [
            f"`{rule.word}`" + (" and longer" if rule.prefix else ""),
            rule.becomes or "(stays)",
            f"at least {rule.pool}" if rule.pool else "",
            f"at least {rule.load_balancer}" if rule.load_balancer else "",
        ]
        for rule in words
    ]
    head = ["word", "becomes", "its pool", "the load balancer"]
    if not any(row[2] for row in rows):
        rows = [[*row[:2], row[3]] for row in rows]
        head.remove("its pool")
    return markdown(head, rows)
