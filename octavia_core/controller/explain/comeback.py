"""What a failover that failed waits for: its next attempt, or an operator who has paused all of them."""

from __future__ import annotations

from collections.abc import Collection

import attrs

from octavia_core.controller.explain.facts import Facts, seconds
from octavia_core.controller.explanation import Explanation
from octavia_core.controller.governing import pause_words

__all__ = ["coming_back", "paused"]


def paused(facts: Facts) -> str | None:
    """In words: "failovers are paused by X since T because R"; None while they are not."""
    words = pause_words(facts.tx.governing())
    return None if words is None else f"failovers are {words}"


def coming_back(facts: Facts, said: Explanation, amphora_ids: Collection[str]) -> Explanation:
    """The answer about what was not replaced, with when that is tried again; unchanged where nothing is planned."""
    rows = facts.tx.comebacks(amphora_ids)
    pause = paused(facts)
    if pause is not None:
        return attrs.evolve(
            said,
            next=f"nothing by itself until they are resumed: {pause}",
            advice=(*said.advice, "let failovers go again: octavia-admin governor resume"),
        )
    if not rows:
        return said
    row = rows[0]
    due = max(0.0, seconds(row.next_at - facts.now))
    if facts.unheard is not None:  # it is for health managers to ask for it
        why = ", and ".join(words for words, _ in facts.missing)
        again = f"nothing until that is mended: {why}; then its failover is tried again"
        return facts.advised(attrs.evolve(said, cause=said.cause or row.reason, next=again))
    tried = f"{row.attempts} of them so far" if row.attempts else "the first of them"
    return facts.next(
        attrs.evolve(said, next_attempt=due, cause=said.cause or row.reason),
        f"tries its failover again, and goes on trying with growing pauses ({tried})",
    )
