"""Certificates by reference, kept for a short time, so that many listeners on one secret cost one fetch.

Rules: 1. A value is given out for `[certificates] cache_seconds` after its fetch. 2. Older, it is given out only when the
store has just failed to answer, for at most `longest_stale` seconds after its fetch, and it is named in `stale` and in
the log. 3. That the store has no such secret is never overridden by an old value. 4. Who misses while another thread
fetches the same gets what that thread gets. 5. Who says how young a value has to be gets none that is older, by rule 1, 2
or 4: a wish about a certificate is carried out with what the store has held since it was asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

import attrs

from octavia_core.certs.bundles import read_bundle, read_payload
from octavia_core.domain.secret import CertificateBundle, PublicSecret, Secret
from octavia_core.errors import OctaviaError, TransientError
from octavia_core.ports.clock import Clock, SystemClock
from octavia_core.ports.secrets import SecretStorePort

__all__ = ["LONGEST_STALE", "Certificates"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_STALE = 600.0
"""Seconds after its fetch beyond which a value is not used even when the store is away."""

_PAUSE = 5.0
"""Seconds that an old value is given out without asking a store again that has just failed to answer."""


class Certificates:
    """CertificatesPort: a store's payloads as bundles, with a cache in memory.

    Args:
        store: gives raw payloads.
        seconds: how long a fetched value is good; 0 keeps nothing, concurrent misses are shared all the same.
        clock: its monotonic reading decides.
        longest_stale: seconds after its fetch that a value may be used while the store is away.
    """

    def __init__(
        self,
        store: SecretStorePort,
        *,
        seconds: float = 60.0,
        clock: Clock | None = None,
        longest_stale: float = LONGEST_STALE,
    ) -> None:
        clock = clock or SystemClock()
        self._bundles = _Cache(store, read_bundle, seconds, clock, longest_stale)
        self._payloads = _Cache(store, read_payload, seconds, clock, longest_stale)

    def bundle(self, ref: str, *, younger_than: float | None = None) -> CertificateBundle:
        return self._bundles.get(ref, younger_than)

    def payload(self, ref: str, *, younger_than: float | None = None) -> PublicSecret:
        return self._payloads.get(ref, younger_than)

    def stale(self) -> Mapping[str, float]:
        """References that are served from an old value because the store is away, and the value's age in seconds."""
        return {**self._bundles.stale(), **self._payloads.stale()}

    def forget(self) -> None:
        """Drop every value that may not be used any more; done at each call anyhow, this is for quiet times."""
        self._bundles.forget()
        self._payloads.forget()

    def __repr__(self) -> str:
        return f"<Certificates, {len(self._bundles)} bundles and {len(self._payloads)} payloads in memory>"


@attrs.frozen(repr=False)
class _Entry(Generic[T]):
    value: T
    fetched: float
    """Monotonic seconds before the fetch began: the value may be as old as that."""
    ask_again: float
    """Until then an old value is given out without asking; only set while the store is away."""


class _Cache(Generic[T]):
    def __init__(
        self,
        store: SecretStorePort,
        read: Callable[[str, Mapping[str, Secret]], T],
        seconds: float,
        clock: Clock,
        longest_stale: float,
    ) -> None:
        self._store = store
        self._read = read
        self._seconds = seconds
        self._clock = clock
        self._longest_stale = max(longest_stale, seconds)
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry[T]] = {}
        self._fetching: dict[str, tuple[Future[T], float]] = {}
        """Who fetches now, and since when."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, ref: str, younger_than: float | None = None) -> T:
        since = None if younger_than is None else self._clock.monotonic() - younger_than
        while True:
            with self._lock:
                now = self._clock.monotonic()
                self._forget(now)
                entry = self._entries.get(ref)
                usable = entry is not None and (now - entry.fetched < self._seconds or now < entry.ask_again)
                if entry is not None and usable and (since is None or entry.fetched >= since):
                    return entry.value
                mine: Future[T] = Future()
                shared, begun = self._fetching.setdefault(ref, (mine, now))
            if shared is mine:
                return self._lead(ref, mine, now, stale_too=since is None)
            if since is None or begun >= since:
                return self._join(ref, shared)
            self._let_end(ref, shared)  # it may bring what was there before

    def stale(self) -> dict[str, float]:
        now = self._clock.monotonic()
        with self._lock:
            return {ref: now - entry.fetched for ref, entry in self._entries.items() if now < entry.ask_again}

    def forget(self) -> None:
        with self._lock:
            self._forget(self._clock.monotonic())

    def _forget(self, now: float) -> None:
        # kept past `seconds` for the one use that rule 2 allows
        for ref in [ref for ref, entry in self._entries.items() if now - entry.fetched >= self._longest_stale]:
            del self._entries[ref]

    def _lead(self, ref: str, mine: Future[T], now: float, *, stale_too: bool) -> T:
        """Fetch for all that want this reference now."""
        try:
            value = self._fetch(ref, now, stale_too=stale_too)
        except OctaviaError as error:
            self._settle(ref)
            mine.set_exception(error)
            raise
        except BaseException:  # those who wait for it must not wait for ever, Ctrl-C included
            self._settle(ref)
            mine.set_exception(TransientError(f"fetching secret {ref!r} was broken off; try again"))
            raise
        self._settle(ref)
        mine.set_result(value)
        return value

    def _settle(self, ref: str) -> None:
        with self._lock:
            del self._fetching[ref]

    def _fetch(self, ref: str, now: float, *, stale_too: bool) -> T:
        try:
            value = self._read(ref, self._store.fetch(ref))
        except TransientError as error:
            old = self._stale_entry(ref) if stale_too else None
            if old is None:
                raise
            _log.warning("%s; secret %r, %.0f s old, goes on being used", error, ref, now - old.fetched)
            return old.value
        except OctaviaError:
            with self._lock:
                self._entries.pop(ref, None)
            raise
        if self._seconds > 0:
            with self._lock:
                self._entries[ref] = _Entry(value, now, 0.0)
        return value

    def _stale_entry(self, ref: str) -> _Entry[T] | None:
        """The old value, marked as stale, if it is young enough."""
        with self._lock:
            now = self._clock.monotonic()
            old = self._entries.get(ref)
            if old is None or now - old.fetched >= self._longest_stale:
                return None
            ask_again = min(now + _PAUSE, old.fetched + self._longest_stale)
            self._entries[ref] = attrs.evolve(old, ask_again=ask_again)
            return old

    def _let_end(self, ref: str, shared: Future[T]) -> None:
        """Wait until a fetch that began too early is over, however it ends."""
        if not wait_for([shared], self._store.time_limit + 1.0).done:
            raise TransientError(f"secret {ref!r} is being fetched for too long; try again")

    def _join(self, ref: str, shared: Future[T]) -> T:
        """Wait for the thread that fetches. Each waiting thread raises an error of its own."""
        try:
            return shared.result(self._store.time_limit + 1.0)
        except FutureTimeout:
            raise TransientError(f"secret {ref!r} is being fetched for too long; try again") from None
        except OctaviaError as error:
            raise type(error)(*error.args) from error
