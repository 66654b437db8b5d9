"""Where traffic is counted: upstream's table, a log, the totals that Prometheus reads, and whatever plugins offer.

Counters of a listener only grow, whichever of its amphorae counts, and whenever one is replaced or its HAProxy restarts:
amphorae send differences, and these are added. Those of the oldest releases send totals; these go on from what the rows have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import add

import attrs

from octavia_core.errors import BadRequest, DriverNotFound
from octavia_core.hooks.plugins import ALIASES, Offer, Plugins
from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.hearts import TrafficDelta
from octavia_core.ports.statistics import StatisticsPort
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["InDatabase", "InLog", "Statistics", "Totals", "octavia_statistics_drivers", "places"]

log = logging.getLogger("octavia_core.health")
traffic_log = logging.getLogger("octavia_core.statistics")

_COUNTED = ("bytes_in", "bytes_out", "total_connections", "request_errors")
_NOTHING = (0, 0, 0, 0)
_NAMED = 5
"""Listeners that are named at most when the database refuses their traffic."""
_MANY = 200_000
"""Listeners on old amphorae of which is remembered what they had before; more are looked up again."""
IDLE = 86_400.0
"""Seconds after which the totals of a listener that nobody counts any more are forgotten."""


class InDatabase:
    """Upstream's table `listener_statistics`. The health manager writes it itself, since that needs a transaction."""

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        """Nothing: see above."""

    def close(self) -> None:
        """Nothing."""


class InLog:
    """A line for each listener on each amphora, at level INFO of the logger `octavia_core.statistics`."""

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        """Write them down."""
        if not traffic_log.isEnabledFor(logging.INFO):
            return
        for each in batch:
            traffic_log.info(
                "listener=%s amphora=%s bytes_in=%d bytes_out=%d active_connections=%d total_connections=%d "
                "request_errors=%d counted=%s",
                each.listener_id,
                each.amphora_id,
                each.bytes_in,
                each.bytes_out,
                each.active_connections,
                each.total_connections,
                each.request_errors,
                "in all" if each.absolute else "since the last line",
            )

    def close(self) -> None:
        """Nothing."""


@attrs.define
class Total:
    """What a listener has had in all since this process began; `at`: monotonic seconds of the last change."""

    bytes_in: int = 0
    bytes_out: int = 0
    total_connections: int = 0
    request_errors: int = 0
    at: float = 0.0


class Totals:
    """In memory, for Prometheus: it grows until the process ends, and then begins at nothing, as Prometheus expects.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._lock = now, threading.Lock()
        self._totals: dict[str, Total] = {}
        self._open: dict[tuple[str, str], int] = {}
        self._absolute: dict[tuple[str, str], TrafficDelta] = {}

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        """Add it up. Totals of old agents count from the first that is seen; a smaller one means a restart."""
        with self._lock:
            now = self._now()
            for each in batch:
                key = (each.listener_id, each.amphora_id)
                before = self._absolute.get(key)
                if each.absolute:
                    self._absolute[key] = each
                total = self._totals.setdefault(each.listener_id, Total())
                total.at = now
                self._open[key] = each.active_connections
                if each.absolute and before is None:
                    continue
                for name in _COUNTED:
                    new, old = getattr(each, name), getattr(before, name) if before and each.absolute else 0
                    setattr(total, name, getattr(total, name) + (new - old if new >= old else new))

    def close(self) -> None:
        """Nothing."""

    def taken(self, alive: Collection[str] | None) -> tuple[Mapping[str, Total], Mapping[str, int]]:
        """Listener -> its totals, and listener -> connections that are open on the amphorae that live.

        Args:
            alive: amphorae that exist; what is known of the others' open connections is forgotten. None: not known yet.
        """
        with self._lock:
            if alive is not None:
                for known in (self._open, self._absolute):
                    for key in [key for key in known if key[1] not in alive]:
                        del known[key]
            oldest = self._now() - IDLE
            for listener in [id for id, total in self._totals.items() if total.at < oldest]:
                del self._totals[listener]
            for key in [key for key in self._open if key[0] not in self._totals]:
                del self._open[key]
            open_ = Counter[str]()
            for (listener, _), connections in self._open.items():
                open_[listener] += connections
            return {id: attrs.evolve(total) for id, total in self._totals.items()}, open_


class _Fine(Exception):
    """What was tried can be written; raised so that it is not."""


def _tried(tx: Transaction, batch: Sequence[TrafficDelta]) -> None:
    tx.add_traffic(batch)
    raise _Fine


def _numbers(each: TrafficDelta) -> tuple[int, int, int, int]:
    return each.bytes_in, each.bytes_out, each.total_connections, each.request_errors


@hookimpl
def octavia_statistics_drivers() -> Mapping[str, Callable[[Settings], StatisticsPort]]:
    """Those of the core."""
    return {
        "database": lambda settings: InDatabase(),
        "log": lambda settings: InLog(),
        "prometheus": lambda settings: Totals(time.monotonic),
    }


def places(settings: Settings, plugins: Plugins) -> Mapping[str, StatisticsPort]:
    """The places that the settings list, by name. Listed twice is once.

    Raises:
        DriverNotFound: nobody offers one of them; the message lists what there is.
        DriverUnavailable: one of them lacks something that can be installed.
    """
    own = octavia_statistics_drivers()
    names = dict.fromkeys(ALIASES.get(name, name) for name in settings.controller_worker.statistics_drivers)
    offers = [*plugins.offers("statistics"), *(_own(name, make) for name, make in own.items())]
    made: dict[str, StatisticsPort] = {}
    for name in names:
        found = next((offer for offer in offers if offer.name == name), None)
        if found is None:
            raise DriverNotFound("statistics", name, [(o.name, o.package) for o in offers], plugins.broken)
        made[name] = found.factory(settings)
    return made


def _own(name: str, factory: Callable[[Settings], StatisticsPort]) -> Offer:
    return Offer(kind="statistics", name=name, package="octavia-core", factory=factory)


class Statistics:
    """Hands traffic on to every place. Used by one thread.

    Args:
        places: by name.

    Attributes:
        failures: place -> batches that it did not take, or not wholly.
        refused: listeners on amphorae whose traffic the database refused, for good.
    """

    def __init__(self, storage: Storage, places: Mapping[str, StatisticsPort]) -> None:
        self._storage, self.places = storage, dict(places)
        self._in_database = any(isinstance(place, InDatabase) for place in places.values())
        self.failures = Counter[str]()
        self.refused = 0
        self._had: dict[tuple[str, str], tuple[int, ...]] = {}

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        """Count it everywhere, the database first.

        Raises:
            TransientError: the database is away; nobody has counted it.
        """
        if self._in_database:
            batch = self._in_rows(self._continued(batch))
        for name, place in self.places.items():
            try:
                place.store(batch)
            except Exception as error:  # a plugin may raise anything; it must not hurt anybody else's counters
                self.failures[name] += 1
                log.error("statistics driver %s did not count the traffic of %d listeners: %s", name, len(batch), error)

    def _in_rows(self, batch: Sequence[TrafficDelta]) -> Sequence[TrafficDelta]:
        """Add it to the rows; what of it is in them. One row that can never be stored holds up no other."""
        try:
            self._storage.transaction(lambda tx: tx.add_traffic(batch))
        except BadRequest as error:
            bad = self._refused(batch, error)
            good = [each for each in batch if id(each) not in bad]
            self._storage.transaction(lambda tx: tx.add_traffic(good))
            self.refused += len(bad)
            self.failures.update(name for name, place in self.places.items() if isinstance(place, InDatabase))
            for each, why in [(each, bad[id(each)]) for each in batch if id(each) in bad][:_NAMED]:
                log.error(
                    "traffic of listener %.80r on amphora %.80r is left out: %s", each.listener_id, each.amphora_id, why
                )
            if len(bad) > _NAMED:
                log.error("traffic of %d more listeners is left out", len(bad) - _NAMED)
            return good
        return batch

    def _refused(self, batch: Sequence[TrafficDelta], error: BadRequest) -> dict[int, BadRequest]:
        """id() -> why, of those that the database refuses, found by halves; nothing is written."""
        if len(batch) == 1:
            return {id(batch[0]): error}
        found: dict[int, BadRequest] = {}
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            try:
                self._storage.transaction(lambda tx, half=half: _tried(tx, half))  # type: ignore[misc]
            except _Fine:
                continue
            except BadRequest as why:
                found |= self._refused(half, why)
        return found or {id(each): error for each in batch}  # together only: none can be told from the others

    def _continued(self, batch: Sequence[TrafficDelta]) -> Sequence[TrafficDelta]:
        """The same with totals that go on from the rows: where the first of this process is less than its row, HAProxy began anew
        while nobody listened, or before, and what the row has was before that.
        """
        totals = [each for each in batch if each.absolute]
        if not totals:
            return batch
        if len(self._had) > _MANY:
            self._had.clear()
        new = {each.amphora_id for each in totals if (each.listener_id, each.amphora_id) not in self._had}
        rows = self._storage.read(lambda tx: tx.counted(new)) if new else {}
        for each in totals:
            key = (each.listener_id, each.amphora_id)
            if key not in self._had:
                pairs = list(zip(rows.get(key, _NOTHING), _numbers(each), strict=True))
                began_anew = any(new < old for old, new in pairs)
                self._had[key] = tuple(max(0, old - new) for old, new in pairs) if began_anew else _NOTHING
        return [self._with_had(each) if each.absolute else each for each in batch]

    def _with_had(self, each: TrafficDelta) -> TrafficDelta:
        had = self._had[each.listener_id, each.amphora_id]
        sums = map(add, had, _numbers(each))
        return attrs.evolve(each, **dict(zip(_COUNTED, sums, strict=True))) if any(had) else each

    def close(self) -> None:
        """Close every place."""
        for name, place in self.places.items():
            try:
                place.close()
            except Exception as error:  # as above
                log.error("statistics driver %s could not be closed: %s", name, error)
