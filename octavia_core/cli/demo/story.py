"""The story of the demo, act by act, and what must be true after each."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from octavia_core.cli.demo.members import MemberServer
from octavia_core.cli.demo.place import SERVER_NAME, ControllerProcess, agent_pid, leftovers, make_certificate
from octavia_core.cli.demo.timeline import LiveShow, PlainShow, Reading, Show
from octavia_core.cli.demo.traffic import Target, Traffic
from octavia_core.cli.session import Session
from octavia_core.controller.facade import Controller
from octavia_core.controller.handle import Operation
from octavia_core.domain.operation import Event, Outcome
from octavia_core.domain.tree import LoadBalancer, Member
from octavia_core.domain.vocabulary import ListenerProtocol, MonitorType, Operating, Provisioning
from octavia_core.domain.wishes import NewHealthMonitor, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.errors import BadRequest, OctaviaError, TransientError

__all__ = ["tell"]

PATIENCE = 30.0
"""Seconds until an act counts as failed."""
MONITOR = NewHealthMonitor(
    type=MonitorType.HTTP, delay=1, timeout=1, max_retries=1, max_retries_down=2, url_path="/health"
)
NAME = "demo"


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


def tell(session: Session, *, keep: bool) -> bool:
    """Play it; True when all of it held."""
    begun = time.monotonic()
    with _state(session) as state:
        story = _Story(state, session, keep=keep)
        try:
            story.play()
        finally:
            story.end()
    result = story.result
    result.seconds = round(time.monotonic() - begun, 1)
    _summary(session, result)
    if session.json:
        session.screen.line(attrs.asdict(result))
    return not result.problems


@contextlib.contextmanager
def _state(session: Session) -> Iterator[str]:
    """A directory for the demo: a temporary one, or the one that was asked for, which must be new or empty."""
    if session.state is None:
        folder = tempfile.mkdtemp(prefix="octavia-demo-")
        try:
            yield os.path.join(os.path.realpath(folder), "state")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    if os.path.isdir(session.path) and os.listdir(session.path):
        raise BadRequest(f"{session.path} is not empty; the demo needs a state directory of its own")
    yield os.path.realpath(session.path)


class _Story:
    def __init__(self, state: str, session: Session, *, keep: bool) -> None:
        self.state, self.session, self.keep = state, session, keep
        self.result = Result()
        self.members: dict[str, MemberServer] = {}
        self.process: ControllerProcess | None = None
        self.traffic: Traffic | None = None
        self.client: Controller | None = None
        self.network = ""
        self.unexpected = 0
        self._shown: LoadBalancer | None = None
        self._places: tuple[str, ...] = ()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self.show = self._new_show()

    def _new_show(self) -> Show:
        console = self.session.screen.err if self.session.json else self.session.screen.out
        return LiveShow(console, self._reading) if console.is_terminal else PlainShow(console)

    # -- the frame -------------------------------------------------------------------------------------------------
    def play(self) -> None:
        """Act after act; the first that does not hold ends the story (it is cleaned up all the same)."""
        acts: list[tuple[str, str, Callable[[], str]]] = [
            ("Three web servers, a controller, a certificate", "", self.prepare),
            ("A load balancer is asked for", "created", self.create),
            ("A member dies", "member_died", self.member_dies),
            ("A member is added", "member_added", self.member_added),
            ("The amphora is killed", "amphora_killed", self.amphora_killed),
            ("The controller is killed in the middle of an update", "controller_killed", self.controller_killed),
        ]
        try:
            for title, key, act in acts:
                self.show.act(title)
                self.show.over(act(), held=True)
                if key:
                    self._note_statuses(key)
            if self.keep:
                self._stay()
            self.show.act("The load balancer is deleted")
            self.show.over(self.deleted(), held=True)
        except (NotHeld, OctaviaError, RuntimeError, OSError) as error:
            self.result.problems.append(str(error))
            self.show.over(str(error), held=False)
        except KeyboardInterrupt:
            self.result.problems.append("interrupted")
            self.show.over("interrupted", held=False)

    def end(self) -> None:
        """Whatever happened: stop the traffic, end every process, take the numbers."""
        if self.traffic is not None:
            self.traffic.stop()
            self.result.traffic["sent"], self.result.traffic["failed"] = self.traffic.sent, len(self.traffic.failures)
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(5)
        with contextlib.suppress(OctaviaError, OSError):
            self._remove_all()
        if self.client is not None:
            self.client.close()
        if self.process is not None:
            self.process.end()
        for member in self.members.values():
            member.end()
        self.show.close()

    def _remove_all(self) -> None:
        """Of a story that broke off: no amphora stays."""
        if self.client is None:
            return
        if self.process is not None:
            self.process.end()
        for server in self.client.world.compute.list():
            self.client.world.compute.destroy(server.id)

    # -- acts ------------------------------------------------------------------------------------------------------
    def prepare(self) -> str:
        self.process = ControllerProcess(self.state)
        for number in (1, 2, 3):
            self._start_member(f"member-{number}")
        self._tls = make_certificate(self.state, "demo")
        self.client = Controller.open(self.state, run=False)
        self.network = self.client.settings.local.network
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        ports = ", ".join(str(member.port) for member in self.members.values())
        return f"members on 127.0.0.1 ports {ports}; controller is process {self.process.pid}"

    def create(self) -> str:
        client = self._client()
        begun = time.monotonic()
        pool = NewPool(name="web", members=[_wish(server) for server in self.members.values()], health_monitor=MONITOR)
        wish = NewLoadBalancer(
            name=NAME,
            pools=(pool,),
            listeners=(
                NewListener(name="plain", protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool_id="web"),
                NewListener(
                    name="secure",
                    protocol=ListenerProtocol.TERMINATED_HTTPS,
                    protocol_port=443,
                    default_pool_id="web",
                    tls_certificate_id="demo",
                ),
            ),
        )
        client.create_load_balancer(wish, actor="demo").wait(PATIENCE)
        took = time.monotonic() - begun
        tree = client.load_balancer(NAME)
        places = [str(client.reachable_at(tree, listener)) for listener in tree.listeners]
        targets = {
            listener.name or listener.id: _target(place, self._tls if listener.tls_certificate_id else None)
            for listener, place in zip(tree.listeners, places, strict=True)
        }
        self._places = tuple(f"{'https' if t.tls else 'http'}://{t.host}:{t.port}" for t in targets.values())
        self.traffic = traffic = Traffic(targets)
        for name in self.members:
            traffic.allow(name)
        traffic.start()
        self._until(lambda: all(traffic.by_member[name] >= 10 for name in self.members), "not every member answers")
        self._until(lambda: self._all_members(Operating.ONLINE), "not every member is ONLINE")
        self._nothing_failed(0)
        return f"ACTIVE after {took * 1000:.0f} ms; plain, TLS, new and kept connections are answered by all members"

    def member_dies(self) -> str:
        traffic, victim = self._traffic(), self.members["member-3"]
        port, mark = victim.port, traffic.mark()
        begun_wall = time.time()
        victim.kill()
        dead = time.monotonic()
        self.show.event(f"{victim.name} (process {victim.pid}) was killed")
        # what HAProxy needs to be sure, one heartbeat to say so, and the writing of it
        heartbeat = self._client().settings.health_manager.heartbeat_interval
        bound = MONITOR.delay * MONITOR.max_retries_down + MONITOR.timeout + heartbeat
        self._until(
            lambda: self._member(port).operating_status is Operating.ERROR, "the dead member is not seen as ERROR"
        )
        seen = time.monotonic() - dead
        at = self._event_time("member.error", begun_wall)
        detected = at - begun_wall if at is not None else seen
        self.result.member["detected_ms"] = round(detected * 1000)
        traffic.wait_for_answers(50, PATIENCE)
        failures = traffic.since(mark)
        late = [f for f in failures if f.began > dead]
        self.result.member["failed_requests"] = len(failures)
        if late:
            raise NotHeld(f"{len(late)} request(s) failed after the member was dead, the first: {late[0].why}")
        if detected > bound + WRITING:
            raise NotHeld(f"the dead member was seen after {detected:.1f} s, later than {bound:.1f} s")
        return f"seen as ERROR after {detected:.1f} s (allowed {bound:.1f} s), {_lost(len(failures))}"

    def member_added(self) -> str:
        traffic, client = self._traffic(), self._client()
        mark = traffic.mark()
        server = self._start_member("member-4")
        traffic.allow(server.name)
        begun = time.monotonic()
        pool = client.load_balancer(NAME).pools[0]
        client.create_member(pool.id, _wish(server), actor="demo", wait=PATIENCE).wait(PATIENCE)
        if not traffic.wait_for_answers(1, PATIENCE, member=server.name):
            raise NotHeld("the new member never answered")
        took = time.monotonic() - begun
        self._nothing_failed(mark)
        return f"answers after {took * 1000:.0f} ms, no request failed"

    def amphora_killed(self) -> str:
        traffic, client = self._traffic(), self._client()
        lb = client.load_balancer(NAME)
        amphora = client.amphorae(lb.id)[0]
        pid, mark = agent_pid(self.state, amphora.id), traffic.mark()
        wall, dead = time.time(), _kill(pid)
        self.show.event(f"the amphora (process {pid}, with its HAProxy) was killed")
        self._until(lambda: self._healed(lb.id, amphora.id), "the amphora is not replaced")
        if not traffic.wait_for_answers(40, PATIENCE):
            raise NotHeld("traffic does not flow after the failover")
        at = self._event_time("amphora.lost", wall)
        failures = traffic.since(mark)
        restored = traffic.answered_after(max((f.began for f in failures), default=dead))
        if at is None or restored is None:
            raise NotHeld("the failover left no trace")
        late = [f for f in failures if f.began > restored]
        self.result.failover = {
            "detected_ms": max(0, round((at - wall) * 1000)),
            "restored_ms": round((restored - dead) * 1000),
            "failed_requests": len(failures),
        }
        if late:
            raise NotHeld(f"{len(late)} request(s) failed after traffic was restored, the first: {late[0].why}")
        numbers = self.result.failover
        return (
            f"seen after {numbers['detected_ms']} ms, served again by a new one after {numbers['restored_ms']} ms; "
            f"{len(failures)} request(s) failed meanwhile"
        )

    def controller_killed(self) -> str:
        traffic, client = self._traffic(), self._client()
        assert self.process is not None
        mark = traffic.mark()
        self._start_member("member-5")
        traffic.allow("member-5")
        operation, pid = self._kill_in_push()
        self.show.event(f"a push has started: the controller (process {pid}) was killed in it")
        flowed = traffic.wait_for_answers(100, PATIENCE)
        if operation.state.final:
            raise NotHeld("the update was over before the controller died")
        begun = time.monotonic()
        self.process = ControllerProcess(self.state)
        self.show.event(f"another controller was started (process {self.process.pid})")
        operation.wait(PATIENCE)
        took = time.monotonic() - begun
        self._until(self._answers_of_all, "not every member answers after the update")
        self._nothing_failed(mark)
        if not flowed:
            raise NotHeld("traffic did not flow without a controller")
        status = client.load_balancer(NAME).provisioning_status
        self.result.resume = {"status": str(status), "seconds": round(took, 2)}
        if status is not Provisioning.ACTIVE:
            raise NotHeld(f"the load balancer is {status} after the update was resumed")
        return f"traffic never stopped; the next controller completed the update after {took:.1f} s"

    def deleted(self) -> str:
        client, lb = self._client(), self._client().load_balancer(NAME)
        if self.traffic is not None:
            self.traffic.stop()
        client.delete_load_balancer(lb.id, actor="demo", wait=PATIENCE).wait(PATIENCE)
        row = client.storage.read(lambda tx: tx.tree(lb.id))
        self.result.load_balancer["deleted"] = _statuses(row)
        if self.process is not None:
            self.process.end()
        self.result.leftovers = leftovers(self.state, self.network, functools.partial(_rows, client, lb))
        if self.result.leftovers:
            raise NotHeld(f"left behind: {'; '.join(self.result.leftovers)}")
        return "no process, port, file or row is left"

    # -- helpers ---------------------------------------------------------------------------------------------------
    def _client(self) -> Controller:
        assert self.client is not None
        return self.client

    def _traffic(self) -> Traffic:
        assert self.traffic is not None
        return self.traffic

    def _start_member(self, name: str) -> MemberServer:
        self.members[name] = server = MemberServer(name)
        return server

    def _until(self, true: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise NotHeld(f"{otherwise} within {PATIENCE:g} s")
            time.sleep(0.01)

    def _member(self, port: int) -> Member:
        pool = self._client().load_balancer(NAME).pools[0]
        return next(m for m in pool.members if m.protocol_port == port)

    def _all_members(self, status: Operating) -> bool:
        tree = self._client().load_balancer(NAME)
        return all(member.operating_status is status for pool in tree.pools for member in pool.members)

    def _answers_of_all(self) -> bool:
        return self._traffic().by_member["member-5"] > 0

    def _nothing_failed(self, mark: int) -> None:
        failures = self._traffic().since(mark)
        if failures:
            self.result.traffic["unexpected"] += len(failures)
            raise NotHeld(f"{len(failures)} request(s) failed, the first ({failures[0].client}): {failures[0].why}")

    def _healed(self, lb_id: str, amphora_id: str) -> bool:
        client = self._client()
        present = client.amphorae(lb_id)
        if not present or any(a.id == amphora_id for a in present):
            return False
        return client.load_balancer(lb_id).provisioning_status is Provisioning.ACTIVE

    def _kill_in_push(self) -> tuple[Operation, int]:
        """Ask for a change that is pushed, and kill the controller as soon as the journal says that a push has begun."""
        client, process = self._client(), self.process
        assert process is not None
        pool = client.load_balancer(NAME).pools[0]
        wishes = [_wish(server) for server in self.members.values() if server.name != "member-3"]
        operation = client.set_members(pool.id, wishes, actor="demo", wait=PATIENCE)
        assert operation is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            journal = client.storage.read(lambda tx: tx.journal(operation.id))
            if any(entry.path.endswith("/push") and entry.outcome is Outcome.INTENT for entry in journal):
                process.kill()
                return operation, process.pid
            if operation.state.final:
                raise NotHeld("the update was over before a push was seen")
        raise NotHeld("no push began")

    def _event_time(self, name: str, after: float) -> float | None:
        """Seconds since the epoch of the first such event after a moment; the database's clock is this machine's."""
        for event in self._client().events(limit=100_000):
            if event.name == name and event.at / 1_000_000 >= after - 0.001:
                return event.at / 1_000_000
        return None

    def _note_statuses(self, key: str) -> None:
        self.result.load_balancer[key] = _statuses(self._client().load_balancer(NAME))

    def _watch(self) -> None:
        """Follow the events and the rows, for the audience."""
        after = 0
        while not self._stopping.wait(0.05):
            with contextlib.suppress(TransientError, OctaviaError):
                for event in self._client().events(after=after):
                    after = event.sequence
                    self.show.event(_told(event, self._shown))
                found = [one for one in self._client().load_balancers() if one.name == NAME]
                self._shown = self._client().load_balancer(found[0].id) if found else None

    def _reading(self) -> Reading | None:
        traffic, tree = self.traffic, self._shown
        if traffic is None or tree is None:
            return None
        status = {m.protocol_port: m.operating_status for pool in tree.pools for m in pool.members}
        return Reading(
            status=f"{tree.provisioning_status} {tree.operating_status}",
            places=self._places,
            sent=traffic.sent,
            failed=len(traffic.failures),
            spans=[tuple(span) for span in list(traffic.spans)],
            members=[
                (name, traffic.by_member[name], str(status.get(server.port, "gone")))
                for name, server in list(self.members.items())
            ],
            controller=f"process {self.process.pid}" if self.process else "none",
        )

    def _stay(self) -> None:
        """--keep: everything runs until Ctrl-C; say what to try."""
        client = self._client()
        amphora = client.amphorae(client.load_balancer(NAME).id)[0]
        say = self.session.screen.note
        self.show.close()
        plain, secure = self._places
        for line in (
            "",
            "It goes on running, with its traffic, until Ctrl-C. In another terminal:",
            f"  export OCTAVIA_STATE={self.state}",
            f"  octavia-admin lb show {NAME}",
            f"  octavia-admin why {NAME}",
            f"  octavia-admin timeline {NAME}",
            "  octavia-admin events --follow",
            f"  octavia-admin member set 127.0.0.1:{self.members['member-1'].port} --weight 0",
            f"  kill -9 {agent_pid(self.state, amphora.id)}   # the amphora",
            f"  curl {plain}/",
            f"  curl -k {secure}/",
            "",
        ):
            say(line)
        ended = threading.Event()
        before = {n: signal.signal(n, lambda *_: ended.set()) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            ended.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.show = self._new_show()


WRITING = 0.3
"""Seconds that reading, judging and writing a heartbeat may take on a busy machine, beyond the bound of the monitor."""


def _wish(server: MemberServer) -> NewMember:
    return NewMember(server.address, server.port, name=server.name)


def _target(place: str, tls: Any) -> Target:
    host, _, port = place.rpartition(":")
    return Target(host=host, port=int(port), name=SERVER_NAME, tls=tls)


def _statuses(tree: LoadBalancer | None) -> dict[str, str]:
    if tree is None:
        return {"provisioning_status": "DELETED", "operating_status": "OFFLINE"}
    return {"provisioning_status": str(tree.provisioning_status), "operating_status": str(tree.operating_status)}


def _kill(pid: int) -> float:
    """SIGKILL; the moment when the process was dead."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(1000)
    finally:
        os.close(fd)
    return time.monotonic()


def _lost(count: int) -> str:
    return f"{count} request(s) that it had already got were lost" if count else "no request failed"


def _rows(client: Controller, lb: LoadBalancer) -> list[str]:
    """Rows that should be gone: of the load balancer, of what was below it, of amphorae, of operations under way."""
    found = [f"row load balancer {one.id}" for one in client.load_balancers()]
    found += [f"row amphora {one.id}" for one in client.amphorae()]
    found += [f"operation {one.id} ({one.flow})" for one in client.operations(open_only=True)]
    for kind, node in lb.nodes():
        if client.storage.read(lambda tx, kind=kind, node=node: tx.owner(kind, node.id)) is not None:  # type: ignore[misc]
            found.append(f"row {kind.words} {node.id}")
    return found + [f"{orphan.kind} {orphan.id}: {orphan.why}" for orphan in client.orphans()]


_NAMED = re.compile(r" \([0-9a-f]{8}-[0-9a-f-]{27}\)")
_ID = re.compile(r"([0-9a-f]{8})-[0-9a-f-]{27}")


def _told(event: Event, lb: LoadBalancer | None) -> str:
    """An event's text for the audience: names without ids, ids without their tails."""
    text = _NAMED.sub("", event.text)
    if lb is not None:
        text = text.replace(f"load balancer {lb.id}", f"load balancer {lb.name}")
    return _ID.sub(r"\1", text)


def _summary(session: Session, result: Result) -> None:
    say = session.screen.note if session.json else session.screen.say
    traffic, failover = result.traffic, result.failover
    say("")
    say(f"{traffic['sent']} requests in {result.seconds:g} s, {traffic['failed']} failed")
    if failover["restored_ms"] is not None:
        say(
            f"amphora killed: seen after {failover['detected_ms']} ms, served again after {failover['restored_ms']} ms, "
            f"{failover['failed_requests']} request(s) failed"
        )
    if result.resume["status"]:
        say(f"controller killed in a push: resumed in {result.resume['seconds']} s, {result.resume['status']}")
    if result.problems:
        say(f"Not held: {'; '.join(result.problems)}")
    else:
        say("left behind: nothing")
        say("all of it held")
