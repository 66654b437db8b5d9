"""What Prometheus reads: the figures of this health manager, and traffic where `statistics_drivers` counts it for that.

A look costs the database nothing and works while it is away. Names and labels are stable; docs/reference/metrics.md has
them all, and a test compares.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from octavia_core.controller.health.scrape import ScrapeServer
from octavia_core.controller.statistics import Totals
from octavia_core.errors import ConfigurationError, DriverUnavailable

__all__ = ["FIGURES", "TRAFFIC", "Figure", "Metrics", "State", "check_metrics"]

log = logging.getLogger("octavia_core.health")


@attrs.frozen
class Figure:
    """A name, its kind ("counter" or "gauge"), its label if it has one, and what it says."""

    name: str
    kind: str
    label: str | None
    words: str


@attrs.frozen(kw_only=True)
class State:
    """What is true of a health manager now.

    Attributes:
        listening: whether heartbeats are heard and written at present, so that silence means something.
        looked: what the last look found, as in the row that it writes; empty before the first.
        datagrams: since the process began, by what became of them.
        declared: amphorae that this one declared dead, by rule of the governor; `held`: those it holds back now.
        undecided: deaths that were told and are not decided about yet.
        uncounted: statistics driver -> batches that it did not take.
        alive: amphorae that are watched, None before the first look.
    """

    listening: bool
    looked: Mapping[str, Any]
    datagrams: Mapping[str, int]
    declared: Mapping[str, int]
    held: Mapping[str, int]
    undecided: int
    uncounted: Mapping[str, int]
    alive: frozenset[str] | None


FIGURES: Sequence[Figure] = (
    Figure("octavia_health_listening", "gauge", None, "1 while heartbeats are heard and written, 0 while it is deaf"),
    Figure("octavia_health_datagrams", "counter", "result", "Datagrams and reports, by what became of them"),
    Figure("octavia_health_lag_seconds", "gauge", None, "Longest time from a datagram's arrival until it was known"),
    Figure("octavia_health_oldest_seconds", "gauge", None, "Longest silence of an amphora that was ever heard"),
    Figure("octavia_health_amphorae", "gauge", "state", "Amphorae: watched, heard by this one, silent, never heard"),
    Figure("octavia_failovers", "counter", "rule", "Amphorae that this one declared dead, by rule of the governor"),
    Figure("octavia_failovers_held", "gauge", "rule", "Amphorae whose failover is held back now, by rule"),
    Figure("octavia_deaths_undecided", "gauge", None, "Proven deaths that are not decided about yet"),
    Figure(
        "octavia_statistics_failures", "counter", "driver", "Batches of traffic that a statistics driver did not take"
    ),
)
"""Always there. Prometheus's client adds `_total` to counters."""
TRAFFIC: Sequence[Figure] = (
    Figure("octavia_listener_bytes_in", "counter", "listener_id", "Bytes from clients"),
    Figure("octavia_listener_bytes_out", "counter", "listener_id", "Bytes to clients"),
    Figure("octavia_listener_connections", "counter", "listener_id", "Connections in all"),
    Figure("octavia_listener_request_errors", "counter", "listener_id", "Requests that were not understood"),
    Figure("octavia_listener_active_connections", "gauge", "listener_id", "Connections that are open"),
)
"""There with `[controller_worker] statistics_drivers = ..., prometheus`."""
_STATES = {"watched": "watched", "hears": "heard", "silent": "silent", "never_heard": "never_heard"}


class Metrics:
    """An HTTP server on a thread of its own.

    Args:
        address: `host:port` or `[ipv6]:port`; port 0 takes a free one.
        state: asked at each look.
        totals: traffic, None where it is not counted for Prometheus.
    """

    def __init__(self, address: str, state: Callable[[], State], totals: Totals | None) -> None:
        self._address, self._state, self._totals = address, state, totals
        self._host, self._port = _parted(address)
        self._server: ScrapeServer | None = None

    @property
    def port(self) -> int | None:
        """Where it answers, None while it does not."""
        return None if self._server is None else self._server.server_port

    def start(self) -> None:
        """Answer from now on.

        Raises:
            ConfigurationError: the address cannot be had.
            DriverUnavailable: Prometheus's client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ImportError:
            raise DriverUnavailable(
                "[health_manager] metrics_address needs prometheus-client: pip install 'octavia-core[prometheus]'"
            ) from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server = ScrapeServer(self._host, self._port, make_wsgi_app(registry))
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            raise ConfigurationError(
                f"[health_manager] metrics_address {self._address} cannot be served:"
                f" {getattr(error, 'strerror', None) or error}"
            ) from error
        log.info("figures for Prometheus: http://%s/metrics", self._address)

    def stop(self) -> None:
        """No more. Twice is harmless."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def collect(self) -> Iterator[Any]:
        """All figures as families of Prometheus's client, which calls this."""
        state = self._state()
        for figure, values in zip(FIGURES, _values(state), strict=True):
            yield _family(figure, values)
        if self._totals is None:
            return
        totals, open_ = self._totals.taken(state.alive)
        columns: tuple[Mapping[str, float], ...] = (
            {id: total.bytes_in for id, total in totals.items()},
            {id: total.bytes_out for id, total in totals.items()},
            {id: total.total_connections for id, total in totals.items()},
            {id: total.request_errors for id, total in totals.items()},
            open_,
        )
        for figure, values in zip(TRAFFIC, columns, strict=True):
            yield _family(figure, values)


def _values(state: State) -> tuple[Mapping[str, float], ...]:
    """In the order of `FIGURES`; what has no label has the label "". What is not known is left out."""
    looked, oldest = state.looked, state.looked.get("oldest") or {}
    return (
        {"": float(state.listening)},
        state.datagrams,
        _known(looked.get("lag")),
        _known(oldest.get("seconds")),
        {word: looked[name] for name, word in _STATES.items() if looked.get(name) is not None},
        state.declared,
        state.held,
        {"": float(state.undecided)},
        state.uncounted,
    )


def _known(value: float | None) -> Mapping[str, float]:
    return {} if value is None else {"": value}


def _family(figure: Figure, values: Mapping[str, float]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    make = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = make(figure.name, figure.words, labels=[figure.label] if figure.label else [])
    for label, value in sorted(values.items()):
        family.add_metric([label] if figure.label else [], value)
    return family


def check_metrics(address: str, totals: Totals | None) -> None:
    """Raises ConfigurationError where traffic is counted for Prometheus (`totals`), which could read it nowhere."""
    if totals is not None and not address:
        raise ConfigurationError(
            "[controller_worker] statistics_drivers counts traffic for prometheus, which can read it nowhere: set"
            " [health_manager] metrics_address"
        )


def _parted(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigurationError: it is neither `host:port` nor `[ipv6]:port`.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not port.isascii() or not port.isdigit():
        raise ConfigurationError(f"[health_manager] metrics_address must be host:port or [ipv6]:port, not {address!r}")
    if int(port) > 65535:
        raise ConfigurationError(f"[health_manager] metrics_address: there is no port {port}")
    return bare, int(port)
