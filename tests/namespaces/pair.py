"""A pair of amphorae that serves, and clients of it; for tests and for the benchmark."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import attrs

from octavia_core import AdditionalVip, NewLoadBalancer
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Topology
from tests.main_job.stage import Stage, until
from tests.main_job.stage import http as http_listener
from tests.namespaces.rig import answer_of, inside, member_at

__all__ = ["Client", "Pair", "children_of", "pair_on"]

KEPT = 3.0
"""Seconds after which a client asks again over a new connection: an amphora that is gone resets none of its own."""


@attrs.define
class Pair:
    """A load balancer with two amphorae on a stage, and two VIPs."""

    stage: Stage
    lb: LoadBalancer

    @property
    def url(self) -> str:
        return f"http://{self.vip}:80/"

    @property
    def vip(self) -> str:
        return str(self.lb.vip.ip_address)

    @property
    def vips(self) -> list[str]:
        """All of them, which move together."""
        return [self.vip, *(str(vip.ip_address) for vip in self.lb.additional_vips)]

    def amphorae(self) -> list[Amphora]:
        """Those that serve, or could."""
        return [a for a in self.stage.controller.amphorae(self.lb.id) if a.status is AmphoraStatus.ALLOCATED]

    def agent(self, amphora: Amphora) -> int:
        return self.stage.agent_pid(amphora.id)

    def holders(self) -> list[Amphora]:
        """Whose interface has a VIP now."""
        found = []
        for amphora in self.amphorae():
            with contextlib.suppress(OSError):  # it died this instant
                if self.held_by(amphora):
                    found.append(amphora)
        return found

    def held_by(self, amphora: Amphora) -> list[str]:
        """Which VIPs its interface has now."""
        shown = inside(self.agent(amphora), "ip", "address", "show")
        return [vip for vip in self.vips if f" {vip}/{128 if ':' in vip else 32} " in shown]

    def settled(self) -> Amphora:
        """The one that has the VIPs, when exactly one has them, all, and answers on each."""
        (holder,) = until(
            lambda: (found := self.holders()) and len(found) == 1 and self._answers(found[0]) and found,
            "exactly one amphora has the VIPs",
        )
        return holder

    def _answers(self, holder: Amphora) -> bool:
        places = (f"[{vip}]" if ":" in vip else vip for vip in self.vips)
        return self.held_by(holder) == self.vips and all(answer_of(f"http://{place}:80/") for place in places)

    def healed(self, *without: str, count: int = 2) -> None:
        """Wait until there are so many again, none of them one of these."""
        until(lambda: len([a for a in self.amphorae() if a.id not in without]) == count, "enough amphorae again")
        until(lambda: not self.stage.controller.operations(open_only=True), "nothing left to do")

    def child(self, amphora: Amphora, program: str) -> int:
        """The pid of a program that the agent has started."""
        return self.children(amphora, program)[0]

    def children(self, amphora: Amphora, program: str) -> list[int]:
        """The pids of all of these."""
        found = children_of(self.agent(amphora))
        return [pid for pid, line in found.items() if os.path.basename(line.split(" ")[0]) == program]


@contextlib.contextmanager
def pair_on(stage: Stage) -> Iterator[Pair]:
    """A pair with one member, serving on port 80."""
    with member_at("one") as one:
        wish = NewLoadBalancer(
            listeners=(http_listener(one, port=80),),
            topology=Topology.ACTIVE_STANDBY,
            additional_vips=(AdditionalVip(),),  # of IPv6, where this machine has it
        )
        lb = stage.create(wish)
        pair = Pair(stage, lb)
        pair.settled()
        yield pair


class Client:
    """Asks again and again over one connection that is kept alive, opening another when that is closed.

    A request is repeated once over a new connection when a kept one turns out to be closed, as browsers and libraries
    do (RFC 9112, 9.3.1): only what fails then counts as failed.

    Args:
        address: of the VIP.
        pause: seconds between requests.
        limit: seconds that an answer may take; over a kept connection `KEPT` at most.
    """

    def __init__(self, address: str, *, pause: float = 0.005, limit: float = 1.0) -> None:
        self._address, self._pause, self._limit = address, pause, limit
        self._connection: http.client.HTTPConnection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failures: list[str] = []
        self.gap = 0.0
        """Longest time between two answers, seconds."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, answers: int) -> None:
        """Until so many more requests were answered."""
        known = self.answered
        until(lambda: self.answered >= known + answers, f"{answers} more answers")

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._pause):
            if self._ask():
                now = time.monotonic()
                self.gap, last = max(self.gap, now - last), now
                self.answered += 1
        self._close()

    def _ask(self) -> bool:
        kept = self._connection is not None
        try:
            self._once()
            return True
        except (OSError, http.client.HTTPException) as error:
            self._close()
            first = error
        if kept:
            try:
                self._once()
                return True
            except (OSError, http.client.HTTPException) as error:
                self._close()
                first = error
        self.failures.append(f"{type(first).__name__}: {first}")
        return False

    def _once(self) -> None:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._address, 80, timeout=self._limit)
        self._connection.request("GET", "/")
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
        if answer.will_close:
            self._close()
        else:
            self._connection.sock.settimeout(min(self._limit, KEPT))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def children_of(pid: int) -> dict[int, str]:
    """pid -> command line of the children of a process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found
