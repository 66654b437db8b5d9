"""The amphorae of a rehearsal: when they are heard, and what their agents answer, in virtual time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from octavia_core.controller.health.ask import AT_ONCE, QUEUE
from octavia_core.policy.governor import Agent
from octavia_core.testing.outages import Outage, Shape

__all__ = ["Beats", "Questions"]


class Beats:
    """When heartbeats of an amphora are heard: by arithmetic, since nobody can wait for ten minutes of them."""

    def __init__(self, outage: Outage, shape: Shape, interval: float) -> None:
        self._outage, self._interval, self._receivers = outage, interval, shape.receivers
        self._count = len(outage.places)

    def last(self, number: int, now: float) -> float:
        """When it was heard last, at most now; all were heard before the beginning."""
        count = math.floor((now - self._phase(number)) / self._interval)
        while True:
            at = self._phase(number) + count * self._interval
            if at < 0 or self._heard(number, count, at):
                return at
            trouble = self._outage.troubles.get(number)
            if trouble is not None and trouble.slow is None and trouble.begin <= at < trouble.end:
                count = min(count - 1, math.ceil((trouble.begin - self._phase(number)) / self._interval) - 1)
            else:
                count -= 1

    def next(self, number: int, now: float, until: float) -> float:
        """When it is heard next, later than now; infinity when not before `until`."""
        count = math.floor((now - self._phase(number)) / self._interval) + 1
        while (at := self._phase(number) + count * self._interval) < until:
            if at > now and self._heard(number, count, at):
                return at
            trouble = self._outage.troubles.get(number)
            if trouble is not None and trouble.slow is None and trouble.begin <= at < trouble.end:
                if trouble.end >= until:
                    return math.inf
                count = max(count + 1, math.ceil((trouble.end - self._phase(number)) / self._interval))
            else:
                count += 1
        return math.inf

    def _phase(self, number: int) -> float:
        return number / self._count * self._interval

    def _heard(self, number: int, count: int, at: float) -> bool:
        window = self._outage.deaf.get(count % self._receivers)
        if window is not None and window[0] <= at < window[1]:
            return False
        trouble = self._outage.troubles.get(number)
        if trouble is None or not trouble.begin <= at < trouble.end:
            return True
        return trouble.slow is not None and count % math.ceil(trouble.slow) == 0


class Questions:
    """Agents under question: so many at once, the silent ones for as long as a question may take."""

    def __init__(self, outage: Outage, limit: float) -> None:
        self._outage, self._limit = outage, limit
        self._lanes = [0.0] * AT_ONCE
        self._under_way: list[tuple[float, int, Agent]] = []
        self._asked: set[int] = set()
        self.answers: dict[int, Agent] = {}

    def ask(self, numbers: Sequence[int], now: float) -> None:
        """Ask those that were not asked; as many as there is room for."""
        room = QUEUE - len(self._under_way)
        for number in numbers:
            if room <= 0:
                return
            if number in self._asked:
                continue
            room -= 1
            trouble = self._outage.troubles.get(number)
            silent = trouble is not None and not trouble.agent
            begin = max(now, heapq.heappop(self._lanes))
            end = begin + (self._limit if silent else 0.0)
            heapq.heappush(self._lanes, end)
            heapq.heappush(self._under_way, (end, number, Agent.SILENT if silent else Agent.ANSWERS))
            self._asked.add(number)

    def take(self, now: float) -> list[int]:
        """Those that there is an answer about by now."""
        found = []
        while self._under_way and self._under_way[0][0] <= now:
            _, number, said = heapq.heappop(self._under_way)
            if number in self._asked:
                self.answers[number] = said
                found.append(number)
        return found

    def forget(self, number: int) -> None:
        """It was heard again."""
        self._asked.discard(number)
        self.answers.pop(number, None)
