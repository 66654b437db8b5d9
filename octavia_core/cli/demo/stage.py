"""What the acts of the demo share: the place, the players, the audience, and the numbers."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Callable

import attrs

from octavia_core.cli.demo.members import MemberServer
from octavia_core.cli.demo.place import ControllerProcess, make_certificate
from octavia_core.cli.demo.timeline import LiveShow, PlainShow, Reading, Show
from octavia_core.cli.demo.traffic import Target, Traffic
from octavia_core.cli.session import Session
from octavia_core.controller.facade import Controller
from octavia_core.domain.operation import Event
from octavia_core.domain.tree import LoadBalancer, Member
from octavia_core.domain.vocabulary import MonitorType, Operating, Provisioning
from octavia_core.domain.wishes import NewHealthMonitor, NewMember
from octavia_core.errors import OctaviaError

__all__ = ["MONITOR", "NAME", "PATIENCE", "NotHeld", "Result", "Stage", "statuses", "wish_of"]

PATIENCE = 60.0
"""Seconds until an act counts as failed."""
MONITOR = NewHealthMonitor(
    type=MonitorType.HTTP, delay=1, timeout=1, max_retries=1, max_retries_down=2, url_path="/health"
)
NAME = "demo"
_BEAT, _USUAL = 0.02, 0.05
"""Seconds between two beats of the metronome, and lateness that counts as none."""


class NotHeld(Exception):
    """Something that the demo promises did not come true."""


@attrs.define(kw_only=True)
class Result:
    """What `--json` prints."""

    load_balancer: dict[str, dict[str, str]] = attrs.field(factory=dict)
    traffic: dict[str, int] = attrs.field(factory=lambda: {"sent": 0, "failed": 0, "unexpected": 0})
    member: dict[str, int | None] = attrs.field(factory=lambda: {"detected_ms": None, "failed_requests": None})
    failover: dict[str, int | None] = attrs.field(
        factory=lambda: {"detected_ms": None, "restored_ms": None, "failed_requests": None}
    )
    resume: dict[str, str | float | None] = attrs.field(factory=lambda: {"status": None, "seconds": None})
    leftovers: list[str] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    seconds: float = 0.0


class Metronome:
    """Beats for as long as the process lives. What it is late by is what this machine stood still, or had no time for us.

    Attributes:
        lost: seconds in all, but for what any machine is late by.
    """

    def __init__(self) -> None:
        self.lost = 0.0
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(_BEAT)
            late = time.monotonic() - before - _BEAT
            if late > _USUAL:
                self.lost += late


class Stage:
    """Built by the first act, cleared by `clear`, whatever happened in between."""

    def __init__(self, state: str, session: Session) -> None:
        self.state, self.session = state, session
        self.result = Result()
        self.members: dict[str, MemberServer] = {}
        self.process: ControllerProcess | None = None
        self.flowing: Traffic | None = None
        self.opened: Controller | None = None
        self.tls: ssl.SSLContext | None = None
        self.network = ""
        self.places: tuple[str, ...] = ()
        self._shown: LoadBalancer | None = None
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self.watch, daemon=True)
        self.metronome = Metronome()
        self.show = self.new_show()

    def new_show(self) -> Show:
        """A picture where there is a terminal to draw on, a log elsewhere."""
        console = self.session.screen.err if self.session.json else self.session.screen.out
        return LiveShow(console, self.reading) if console.is_terminal else PlainShow(console)

    def open(self) -> None:
        """Become a client of the controller, and let the audience see what happens."""
        self.tls = make_certificate(self.state, NAME)
        self.opened = Controller.open(self.state, run=False)
        self.network = self.opened.settings.local.network
        self._watcher.start()

    def begin_traffic(self, targets: dict[str, Target]) -> Traffic:
        """Let it flow, to all members."""
        self.flowing = Traffic(targets)
        for name in self.members:
            self.flowing.allow(name)
        self.flowing.start()
        return self.flowing

    def clear(self) -> None:
        """Stop the traffic, end every process, take the numbers."""
        if self.flowing is not None:
            self.flowing.stop()
            self.result.traffic["sent"], self.result.traffic["failed"] = self.flowing.sent, len(self.flowing.failures)
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join(5)
        if self.process is not None:
            self.process.end()
        if self.opened is not None:
            with contextlib.suppress(OctaviaError, OSError):  # of a story that broke off: no amphora stays
                for server in self.opened.world.compute.list():
                    self.opened.world.compute.destroy(server.id)
            self.opened.close()
        for member in self.members.values():
            member.end()
        self.show.close()

    @property
    def client(self) -> Controller:
        """Of the controller's database; once it is open."""
        assert self.opened is not None
        return self.opened

    @property
    def traffic(self) -> Traffic:
        """Once it flows."""
        assert self.flowing is not None
        return self.flowing

    def start_member(self, name: str) -> MemberServer:
        """Start one more web server."""
        self.members[name] = server = MemberServer(name)
        return server

    def until(self, true: Callable[[], bool], otherwise: str) -> None:
        """Wait until it is true; `otherwise` is what did not hold."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise NotHeld(f"{otherwise} within {PATIENCE:g} s")
            time.sleep(0.01)

    def member(self, port: int) -> Member:
        """The member on that port, as the rows say now."""
        pool = self.client.load_balancer(NAME).pools[0]
        return next(m for m in pool.members if m.protocol_port == port)

    def all_members(self, status: Operating) -> bool:
        """Whether every member has that operating status."""
        tree = self.client.load_balancer(NAME)
        return all(member.operating_status is status for pool in tree.pools for member in pool.members)

    def answers_of_all(self) -> bool:
        """Whether the newest member answers."""
        return self.traffic.by_member["member-5"] > 0

    def nothing_failed(self, mark: int) -> None:
        """No request has failed since a mark."""
        failures = self.traffic.since(mark)
        if failures:
            self.result.traffic["unexpected"] += len(failures)
            raise NotHeld(f"{len(failures)} request(s) failed, the first ({failures[0].client}): {failures[0].why}")

    def healed(self, lb_id: str, amphora_id: str) -> bool:
        """Whether another amphora serves in place of that one, and all is settled."""
        client = self.client
        present = client.amphorae(lb_id)
        if not present or any(a.id == amphora_id for a in present):
            return False
        return client.load_balancer(lb_id).provisioning_status is Provisioning.ACTIVE

    def event_time(self, name: str, after: float) -> float | None:
        """Seconds since the epoch of the first such event after a moment; the database's clock is this machine's."""
        for event in self.client.events(limit=100_000):
            if event.name == name and event.at / 1_000_000 >= after - 0.001:
                return event.at / 1_000_000
        return None

    def note_statuses(self, key: str) -> None:
        """Into the numbers: the load balancer's statuses."""
        self.result.load_balancer[key] = statuses(self.client.load_balancer(NAME))

    def watch(self) -> None:
        """Follow the events and the rows, for the audience."""
        after = 0
        while not self._stopping.wait(0.05):
            with contextlib.suppress(OctaviaError):  # the audience misses a moment, no more
                for event in self.client.events(after=after):
                    after = event.sequence
                    self.show.event(_told(event, self._shown))
                found = [one for one in self.client.load_balancers() if one.name == NAME]
                self._shown = self.client.load_balancer(found[0].id) if found else None

    def reading(self) -> Reading | None:
        """What the picture shows now."""
        traffic, tree = self.flowing, self._shown
        if traffic is None or tree is None:
            return None
        status = {m.protocol_port: m.operating_status for pool in tree.pools for m in pool.members}
        return Reading(
            status=f"{tree.provisioning_status} {tree.operating_status}",
            places=self.places,
            sent=traffic.sent,
            failed=len(traffic.failures),
            spans=[tuple(span) for span in list(traffic.spans)],
            members=[
                (name, traffic.by_member[name], str(status.get(server.port, "gone")))
                for name, server in list(self.members.items())
            ],
            controller=f"process {self.process.pid}" if self.process else "none",
        )


def wish_of(server: MemberServer) -> NewMember:
    return NewMember(server.address, server.port, name=server.name)


def statuses(tree: LoadBalancer | None) -> dict[str, str]:
    if tree is None:
        return {"provisioning_status": "DELETED", "operating_status": "OFFLINE"}
    return {"provisioning_status": str(tree.provisioning_status), "operating_status": str(tree.operating_status)}


_NAMED = re.compile(r" \([0-9a-f]{8}-[0-9a-f-]{27}\)")
_ID = re.compile(r"([0-9a-f]{8})-[0-9a-f-]{27}")


def _told(event: Event, lb: LoadBalancer | None) -> str:
    """An event's text for the audience: names without ids, ids without their tails."""
    text = _NAMED.sub("", event.text)
    if lb is not None:
        text = text.replace(f"load balancer {lb.id}", f"load balancer {lb.name}")
    return _ID.sub(r"\1", text)
