"""Looking at silent amphorae from another side: their agents' own interface, and what compute says of their servers.

Questions run beside the look, many at once, each with a short limit; the look takes what answers there are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.errors import AmphoraRefused, OctaviaError
from octavia_core.flows.world import World
from octavia_core.policy.governor import Agent
from octavia_core.ports.compute import ServerState
from octavia_core.ports.hearts import Liveness
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Inquiry"]

log = logging.getLogger("octavia_core.health")

AT_ONCE = 32
"""Agents that are asked at the same time."""
QUEUE = 256
"""Questions that wait at most; the others are asked at a later look."""
LONGEST = 2.0
"""Seconds that a question has at most: an agent that lives answers in milliseconds."""
HOSTS_EVERY, HOSTS_AGAIN = 60.0, 3600.0
"""Seconds between two questions where amphorae run, and until the same amphora is asked about again."""
HOSTS_AT_ONCE = 500
"""Amphorae of one such question at most."""
_ENDED = {
    ServerState.STOPPED: "compute says that its server {} is stopped",
    ServerState.ERROR: "compute says that its server {} failed",
    ServerState.GONE: "compute has no server {} any more",
}


@attrs.frozen
class _Answer:
    """What an agent said, at a monotonic time."""

    agent: Agent
    at: float


class Inquiry:
    """Asks, remembers answers for a while. Safe for threads; no thread exists before the first question.

    Args:
        timeout: the heartbeat timeout, seconds; an answer is good for half of it.
    """

    def __init__(self, storage: Storage, world: World, timeout: float) -> None:
        self._storage, self._world = storage, world
        self._limit, self._good_for = min(LONGEST, timeout / 5), timeout / 2
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._ended: dict[str, str] = {}
        self._asking: set[str] = set()
        self._servers_at: float | None = None
        self._hosts_at: float | None = None
        self._placed: dict[str, float] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._running: set[Future[None]] = set()
        self._closed = False

    def agent(self, amphora_id: str) -> Agent:
        """What its agent said when it was asked last; UNASKED before the first answer."""
        answer = self._answers.get(amphora_id)
        return Agent.UNASKED if answer is None else answer.agent

    def ended(self, amphora_id: str) -> str | None:
        """What compute says of its server, if that proves its end."""
        return self._ended.get(amphora_id)

    @property
    def all_ended(self) -> dict[str, str]:
        """The same of all that were asked about lately and have ended."""
        with self._lock:
            return dict(self._ended)

    def ask(self, hearts: Collection[Liveness]) -> None:
        """See to it that there are answers about these, soon; those of earlier silences are forgotten."""
        now = self._world.clock.monotonic()
        with self._lock:
            ids = {heart.amphora_id for heart in hearts}
            for kept in (self._answers, self._ended):
                for id in [id for id in kept if id not in ids]:
                    del kept[id]
            old = [
                heart
                for heart in hearts
                if heart.amphora_id not in self._asking
                and ((answer := self._answers.get(heart.amphora_id)) is None or now - answer.at > self._good_for)
            ]
            old = old[: max(0, QUEUE - len(self._asking))]
            self._asking |= {heart.amphora_id for heart in old}
        for heart in old:
            self._submit(self._ask_agent, heart)
        if hearts and (self._servers_at is None or now - self._servers_at > self._good_for):
            self._servers_at = now
            self._submit(self._ask_compute, list(hearts))

    def place(self, hearts: Collection[Liveness]) -> None:
        """Ask compute where those run whose rows do not say it: amphorae of upstream's making. Now and then, some at a time;
        health managers take turns.

        Raises:
            TransientError: the database is away.
        """
        now = self._world.clock.monotonic()
        if self._hosts_at is not None and now - self._hosts_at < HOSTS_EVERY:
            return
        self._hosts_at = now
        self._placed = {id: at for id, at in self._placed.items() if now - at < HOSTS_AGAIN}
        unknown = [h for h in hearts if h.compute_id and not h.host and h.amphora_id not in self._placed]
        unknown = unknown[:HOSTS_AT_ONCE]
        if unknown and self._storage.turn("places", 0.9 * HOSTS_EVERY):
            self._placed |= {heart.amphora_id: now for heart in unknown}
            self._submit(self._ask_hosts, unknown)

    def beside(self, work: Callable[..., None], *arguments: object) -> None:
        """Run something else on the same threads."""
        self._submit(work, *arguments)

    def close(self) -> None:
        """Nothing is asked any more. Waits for the questions under way, which are short."""
        with self._lock:
            self._closed = True
            pool, self._pool, running = self._pool, None, set(self._running)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            wait(running, timeout=2 * LONGEST)

    def _submit(self, work: Callable[..., None], *arguments: object) -> None:
        with self._lock:
            if self._closed:
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="octavia-health-ask")
            future = self._pool.submit(work, *arguments)
            self._running.add(future)
        future.add_done_callback(self._over)

    def _over(self, future: Future[None]) -> None:
        self._running.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("asking about a silent amphora failed: %s", error, exc_info=error)

    def _ask_agent(self, heart: Liveness) -> None:
        said = Agent.SILENT
        try:
            amphora = self._storage.read(lambda tx: tx.amphora(heart.amphora_id))
            if amphora is not None and amphora.agent is not None:
                said = self._info(amphora.agent)
        except OctaviaError as error:
            log.warning("the agent of amphora %s could not be asked: %s", heart.amphora_id, error)
            said = Agent.UNASKED
        finally:
            with self._lock:
                self._asking.discard(heart.amphora_id)
                if said is not Agent.UNASKED:
                    self._answers[heart.amphora_id] = _Answer(said, self._world.clock.monotonic())

    def _info(self, at: AgentAddress) -> Agent:
        try:
            self._world.amphora.info(at, limit=self._limit)
        except AmphoraRefused as refused:
            return Agent.ANSWERS if refused.status else Agent.SILENT  # 0: something else than this agent answers there
        except OctaviaError:
            return Agent.SILENT
        return Agent.ANSWERS

    def _ask_hosts(self, hearts: Iterable[Liveness]) -> None:
        owners = {str(heart.compute_id): heart.amphora_id for heart in hearts}
        try:
            servers = self._world.compute.servers(list(owners))
            found = {owners[id]: server.host for id, server in servers.items() if server.host}
            if found:
                self._storage.transaction(lambda tx: _set_hosts(tx, found))
        except OctaviaError as error:
            log.info("compute cannot be asked where amphorae run: %s", error)

    def _ask_compute(self, hearts: Iterable[Liveness]) -> None:
        owners = {heart.compute_id: heart.amphora_id for heart in hearts if heart.compute_id}
        try:
            servers = self._world.compute.servers(list(owners))
        except OctaviaError as error:
            log.info("compute cannot be asked about silent amphorae: %s", error)
            return
        ended = {owners[id]: _ENDED[s.state].format(id) for id, s in servers.items() if s.state in _ENDED}
        with self._lock:
            self._ended |= ended


def _set_hosts(tx: Transaction, hosts: Mapping[str, str]) -> None:
    for amphora_id, host in sorted(hosts.items()):
        tx.set_host(amphora_id, host)
