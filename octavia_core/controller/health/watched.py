"""The amphorae that are judged, with what a look must know of all of them: counted when a row changes, not at each look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from octavia_core.controller.health.places import domains
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.hearts import Liveness

__all__ = ["Watched"]


class Watched:
    """Changed by one thread at a time.

    Attributes:
        hearts: by amphora.
        servers: compute's id of a server -> its amphora.
        places: how many there are in each place, see `places.domains`.
        stopped: those that are FAILOVER_STOPPED.
        unwritten: those whose rows do not say that they were ever heard.
        strangers: those that nobody has heard here yet; whoever looks takes out whom memory knows.
    """

    def __init__(self) -> None:
        self.hearts: dict[str, Liveness] = {}
        self.servers: dict[str, str] = {}
        self.places: Counter[tuple[str, str]] = Counter()
        self.stopped: set[str] = set()
        self.unwritten: set[str] = set()
        self.strangers: set[str] = set()
        self._heard_by: dict[str, dict[str, int]] = {}

    def put(self, hearts: Iterable[Liveness]) -> None:
        """These are as their rows say now."""
        for heart in hearts:
            id = heart.amphora_id
            old = self.hearts.get(id)
            if old == heart:
                continue
            if old is None:
                self.strangers.add(id)
            else:
                self._uncount(old)
            self.hearts[id] = heart
            self._count(heart)

    def drop(self, ids: Iterable[str]) -> None:
        """These are not judged any more. Unknown ones are passed over."""
        for id in ids:
            heart = self.hearts.pop(id, None)
            if heart is not None:
                self._uncount(heart)
                self.strangers.discard(id)

    def heard_by(self, since: int, *, but: str) -> Mapping[str, tuple[int, int]]:
        """Health manager -> how many it heard last, by the rows, and how many of them at that time (microseconds) or later."""
        return {
            name: (len(heard), sum(at >= since for at in heard.values()))
            for name, heard in self._heard_by.items()
            if heard and name != but
        }

    def _count(self, heart: Liveness) -> None:
        id = heart.amphora_id
        self.places.update(domains(heart).items())
        if heart.compute_id:
            self.servers[heart.compute_id] = id
        if heart.status is AmphoraStatus.FAILOVER_STOPPED:
            self.stopped.add(id)
        if heart.last_heard is None:
            self.unwritten.add(id)
        if heart.observer:
            self._heard_by.setdefault(heart.observer, {})[id] = heart.last_heard or 0

    def _uncount(self, heart: Liveness) -> None:
        id = heart.amphora_id
        for place in domains(heart).items():
            self.places[place] -= 1
            if not self.places[place]:
                del self.places[place]
        if heart.compute_id and self.servers.get(heart.compute_id) == id:
            del self.servers[heart.compute_id]
        self.stopped.discard(id)
        self.unwritten.discard(id)
        if heart.observer:
            self._heard_by[heart.observer].pop(id, None)
