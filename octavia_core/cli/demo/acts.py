"""The acts of the demo: each makes something happen, checks what was promised, and says how it went."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

from octavia_core.cli.demo.place import SERVER_NAME, ControllerProcess, agent_pid, leftovers
from octavia_core.cli.demo.stage import MONITOR, NAME, PATIENCE, NotHeld, Stage, statuses, wish_of
from octavia_core.cli.demo.traffic import Target
from octavia_core.controller.facade import Controller
from octavia_core.controller.handle import Operation
from octavia_core.domain.operation import Outcome
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import ListenerProtocol, Operating, Provisioning
from octavia_core.domain.wishes import NewListener, NewLoadBalancer, NewPool

__all__ = ["ACTS", "deleted"]

WRITING = 0.3
"""Seconds that reading, judging and writing a heartbeat may take on a busy machine, beyond the bound of the monitor."""


def prepare(stage: Stage) -> str:
    """Start what the story needs."""
    stage.process = ControllerProcess(stage.state)
    for number in (1, 2, 3):
        stage.start_member(f"member-{number}")
    stage.open()
    ports = ", ".join(str(member.port) for member in stage.members.values())
    return f"members on 127.0.0.1 ports {ports}; controller is process {stage.process.pid}"


def create(stage: Stage) -> str:
    """One wish, two listeners, three members; then traffic."""
    client = stage.client
    begun = time.monotonic()
    pool = NewPool(name="web", members=[wish_of(server) for server in stage.members.values()], health_monitor=MONITOR)
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
        listener.name or listener.id: _target(place, stage.tls if listener.tls_certificate_id else None)
        for listener, place in zip(tree.listeners, places, strict=True)
    }
    stage.places = tuple(f"{'https' if t.tls else 'http'}://{t.host}:{t.port}" for t in targets.values())
    traffic = stage.begin_traffic(targets)
    stage.until(lambda: all(traffic.by_member[name] >= 10 for name in stage.members), "not every member answers")
    stage.until(lambda: stage.all_members(Operating.ONLINE), "not every member is ONLINE")
    stage.nothing_failed(0)
    return f"ACTIVE after {took * 1000:.0f} ms; plain, TLS, new and kept connections are answered by all members"


def member_dies(stage: Stage) -> str:
    """SIGKILL for a web server: seen in time, and only requests it had got are lost."""
    traffic, victim = stage.traffic, stage.members["member-3"]
    port, mark = victim.port, traffic.mark()
    begun_wall = time.time()
    victim.kill()
    dead, lost = time.monotonic(), stage.metronome.lost
    stage.show.event(f"{victim.name} (process {victim.pid}) was killed")
    # what HAProxy needs to be sure, one heartbeat to say so, and the writing of it
    heartbeat = stage.client.settings.health_manager.heartbeat_interval
    allowed = MONITOR.delay * MONITOR.max_retries_down + MONITOR.timeout + heartbeat
    stage.until(lambda: stage.member(port).operating_status is Operating.ERROR, "the dead member is not seen as ERROR")
    seen = time.monotonic() - dead
    at = stage.event_time("member.error", begun_wall)
    detected = at - begun_wall if at is not None else seen
    stage.result.member["detected_ms"] = round(detected * 1000)
    traffic.wait_for_answers(50, PATIENCE)
    traffic.wait_for_begun(PATIENCE)
    failures = traffic.since(mark)
    late = [f for f in failures if f.began > dead]
    stage.result.member["failed_requests"] = len(failures)
    if late:
        raise NotHeld(f"{len(late)} request(s) failed after the member was dead, the first: {late[0].why}")
    allowed += stage.metronome.lost - lost  # while this machine stood still, nobody could see anything
    if detected > allowed + WRITING:
        raise NotHeld(f"the dead member was seen after {detected:.1f} s, later than {allowed:.1f} s")
    return f"seen as ERROR after {detected:.1f} s (allowed {allowed:.1f} s), {_lost(len(failures))}"


def member_added(stage: Stage) -> str:
    """A new web server gets its share."""
    traffic, client = stage.traffic, stage.client
    mark = traffic.mark()
    server = stage.start_member("member-4")
    traffic.allow(server.name)
    begun = time.monotonic()
    pool = client.load_balancer(NAME).pools[0]
    client.create_member(pool.id, wish_of(server), actor="demo", wait=PATIENCE).wait(PATIENCE)
    if not traffic.wait_for_answers(1, PATIENCE, member=server.name):
        raise NotHeld("the new member never answered")
    took = time.monotonic() - begun
    stage.nothing_failed(mark)
    return f"answers after {took * 1000:.0f} ms, no request failed"


def amphora_killed(stage: Stage) -> str:
    """SIGKILL for the process that balances: another one takes its place by itself."""
    traffic, client = stage.traffic, stage.client
    lb = client.load_balancer(NAME)
    amphora = client.amphorae(lb.id)[0]
    pid, mark = agent_pid(stage.state, amphora.id), traffic.mark()
    wall, begun = time.time(), time.monotonic()
    dead = _kill(pid)
    stage.show.event(f"the amphora (process {pid}, with its HAProxy) was killed")
    stage.until(lambda: stage.healed(lb.id, amphora.id), "the amphora is not replaced")
    if not traffic.wait_for_answers(40, PATIENCE):
        raise NotHeld("traffic does not flow after the failover")
    traffic.wait_for_begun(PATIENCE)
    at = stage.event_time("amphora.lost", wall)
    failures = traffic.since(mark)
    restored = traffic.answered_after(max((f.began for f in failures), default=dead))
    if at is None or restored is None:
        raise NotHeld("the failover left no trace")
    late = [f for f in failures if f.began > restored]
    stage.result.failover = {
        "detected_ms": max(0, round((at - wall) * 1000)),
        "restored_ms": round((restored - begun) * 1000),
        "failed_requests": len(failures),
    }
    if late:
        raise NotHeld(f"{len(late)} request(s) failed after traffic was restored, the first: {late[0].why}")
    numbers = stage.result.failover
    return (
        f"seen after {numbers['detected_ms']} ms, served again by a new one after {numbers['restored_ms']} ms; "
        f"{len(failures)} request(s) failed meanwhile"
    )


def controller_killed(stage: Stage) -> str:
    """SIGKILL for the controller when the journal says that a push has begun; the next one completes the update."""
    traffic, client = stage.traffic, stage.client
    assert stage.process is not None
    mark = traffic.mark()
    stage.start_member("member-5")
    traffic.allow("member-5")
    operation, pid = kill_in_push(stage)
    stage.show.event(
        f"a push has started, and its agent stood still until the controller (process {pid}) was killed in it"
    )
    flowed = traffic.wait_for_answers(100, PATIENCE)
    if operation.state.final:
        raise NotHeld("the update was over before the controller died")
    begun = time.monotonic()
    stage.process = ControllerProcess(stage.state)
    stage.show.event(f"another controller was started (process {stage.process.pid})")
    operation.wait(PATIENCE)
    took = time.monotonic() - begun
    stage.until(stage.answers_of_all, "not every member answers after the update")
    stage.nothing_failed(mark)
    if not flowed:
        raise NotHeld("traffic did not flow without a controller")
    status = client.load_balancer(NAME).provisioning_status
    stage.result.resume = {"status": str(status), "seconds": round(took, 2)}
    if status is not Provisioning.ACTIVE:
        raise NotHeld(f"the load balancer is {status} after the update was resumed")
    return f"traffic never stopped; the next controller completed the update after {took:.1f} s"


def deleted(stage: Stage) -> str:
    """The end: nothing may be left."""
    client, lb = stage.client, stage.client.load_balancer(NAME)
    if stage.traffic is not None:
        stage.traffic.stop()
    client.delete_load_balancer(lb.id, actor="demo", wait=PATIENCE).wait(PATIENCE)
    row = client.storage.read(lambda tx: tx.tree(lb.id))
    stage.result.load_balancer["deleted"] = statuses(row)
    if stage.process is not None:
        stage.process.end()
    stage.result.leftovers = leftovers(stage.state, stage.network, functools.partial(_rows, client, lb))
    if stage.result.leftovers:
        raise NotHeld(f"left behind: {'; '.join(stage.result.leftovers)}")
    return "no process, port, file or row is left"


def kill_in_push(stage: Stage) -> tuple[Operation, int]:
    """Ask for a change that is pushed, and kill the controller as soon as the journal says that a push has begun.

    A push takes some milliseconds, in which nobody may look: so the agent, not its HAProxy, stands still until then.
    """
    client, process = stage.client, stage.process
    assert process is not None
    lb = client.load_balancer(NAME)
    wishes = [wish_of(server) for server in stage.members.values() if server.name != "member-3"]
    with _standing_still(agent_pid(stage.state, client.amphorae(lb.id)[0].id)):
        operation = client.set_members(lb.pools[0].id, wishes, actor="demo", wait=PATIENCE)
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


@contextlib.contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
        try:
            yield
        finally:
            signal.pidfd_send_signal(fd, signal.SIGCONT)
    finally:
        os.close(fd)


def _target(place: str, tls: Any) -> Target:
    host, _, port = place.rpartition(":")
    return Target(host=host, port=int(port), name=SERVER_NAME, tls=tls)


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


ACTS = (
    ("Three web servers, a controller, a certificate", "", prepare),
    ("A load balancer is asked for", "created", create),
    ("A member dies", "member_died", member_dies),
    ("A member is added", "member_added", member_added),
    ("The amphora is killed", "amphora_killed", amphora_killed),
    ("The controller is killed in the middle of an update", "controller_killed", controller_killed),
)
"""(title, name in the JSON object, what happens)."""
