"""Why something is as it is, in every situation it can be in.

One file, since all situations are told apart in the same few rows.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import update

from octavia_core.controller.explain import Explanation, Situation, why
from octavia_core.controller.timeline import timeline
from octavia_core.controller.words import holder_words, step_words, wait_words
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.amphora import amphora_health
from octavia_core.db.tables.own import oc_liveness, oc_observer
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import (
    EntryKind,
    Event,
    JournalEntry,
    Operation,
    OperationState,
    Outcome,
    Subject,
)
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Operating, PoolProtocol, Provisioning
from octavia_core.errors import BadRequest, NotFound
from octavia_core.lifecycle.provisioning import Event as LifecycleEvent
from octavia_core.ports.hearts import Heard
from octavia_core.ports.storage import Claim, Transaction
from octavia_core.settings import Database, Settings
from tests.support.databases import copy_to

FLOWS = {"create": {1}, "configure": {1}, "failover": {1}}


def new_id() -> str:
    return str(uuid.uuid4())


@attrs.frozen
class Since:
    """A moment: how much time has passed since bounds what an answer says of it."""

    began: float = attrs.field(factory=time.monotonic)

    def told(self, words: str, text: str | None, after: float = 0.0) -> bool:
        """The text has these words, with as many seconds at N as have passed, `after` and those of this moment's age."""
        found = re.search(re.escape(words).replace("N", r"(\d+(?:\.\d+)?)"), text or "")
        return found is not None and after <= float(found[1]) <= after + time.monotonic() - self.began + 1.0


class Scene:
    """A database with one load balancer `web`, and what a test makes happen to it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(database=Database(connection=Secret(copy_to(folder / "octavia.db"))))
        self.storage = SqlStorage.open(self.settings)
        self.lb, self.pool, self.member, self.amphora = (new_id() for _ in range(4))

    def tree(self, status: Provisioning = Provisioning.ACTIVE, **member: Any) -> None:
        operating = member.pop("operating", Operating.ONLINE)
        listeners = member.pop("listeners", ())
        pool = Pool(
            id=self.pool,
            protocol=PoolProtocol.HTTP,
            name="servers",
            members=(Member(id=self.member, address="10.0.0.1", protocol_port=80, pool_id=self.pool, **member),),
        )
        lb = LoadBalancer(
            id=self.lb,
            name="web",
            provisioning_status=status,
            operating_status=operating,
            listeners=listeners,
            pools=(pool,),
        )
        self.storage.transaction(lambda tx: tx.insert(lb))

    def serving(self) -> None:
        row = Amphora(id=self.amphora, status=AmphoraStatus.ALLOCATED, load_balancer_id=self.lb, compute_id="server")
        self.storage.transaction(lambda tx: tx.insert(row))
        now = self.storage.now()
        beat = Heard(amphora_id=self.amphora, at=now, sequence=1, observer="x")
        self.storage.transaction(lambda tx: tx.heard([beat]))
        self.storage.transaction(lambda tx: tx.observe("host:1:abcd", {}, keep=3600))

    def operation(self, flow: str = "configure", **more: Any) -> Operation:
        row = Operation(id=new_id(), flow=flow, load_balancer_id=self.lb, **more)
        return self.storage.transaction(lambda tx: tx.add_operation(row))

    def claim(self, lease: float = 60.0) -> Claim:
        ((_, claim),) = self.storage.claim("host:4711:abcd", FLOWS, lease=lease, limit=1)
        return claim

    def entry(self, claim: Claim, path: str, kind: EntryKind = EntryKind.STEP, **more: Any) -> JournalEntry:
        entry = JournalEntry(
            operation_id=claim.operation_id, path=path, kind=kind, outcome=more.pop("outcome", Outcome.INTENT), **more
        )
        self.storage.transaction(lambda tx: tx.write_journal(entry), claim=claim)
        return entry

    def why(self, text: str = "web", *, running: bool | None = True) -> Explanation:
        return why(self.storage, self.settings, text, running=running)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.storage.close()


def test_nothing_is_wrong(scene: Scene) -> None:
    scene.tree()
    since = Since()
    scene.serving()
    said = scene.why()
    assert (said.situation, said.status, said.name, said.problems) == (Situation.FINE, "ACTIVE", "web", ())
    assert said.summary == "nothing is wrong; it is ONLINE"
    assert said.advice == ()
    assert "octavia-admin up" in scene.why(running=False).advice[0]
    amphora = scene.why(scene.amphora)
    assert amphora.situation is Situation.FINE
    assert amphora.summary.startswith("last heard ")
    assert since.told("last heard N s ago", amphora.summary)
    assert "it is in place and NO_MONITOR" in scene.why(scene.member).summary


def test_what_is_not_online_is_not_called_fine(scene: Scene) -> None:
    listener = Listener(id=new_id(), protocol=ListenerProtocol.HTTP, protocol_port=80, load_balancer_id=scene.lb)
    scene.tree(operating=Operating.OFFLINE, listeners=(listener,))
    scene.serving()
    said = scene.why()
    assert said.situation is Situation.DEGRADED
    assert "not ONLINE yet: no amphora has reported that its listeners are open" in said.summary


def test_without_listeners_it_says_why_it_is_offline(scene: Scene) -> None:
    scene.tree(operating=Operating.OFFLINE)
    scene.serving()
    said = scene.why()
    assert (said.situation, said.summary) == (
        Situation.FINE,
        "nothing is wrong; it is OFFLINE, since it has no listener that takes part",
    )


def test_somebody_works_at_it(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    operation = scene.operation()
    scene.entry(scene.claim(), "standalone/push")
    said = scene.why()
    assert said.situation is Situation.WORKING
    assert said.holder == "process 4711 on host"
    assert said.step == "sending the configuration (standalone)"
    assert said.operation == operation.id
    assert said.age is not None
    assert 0 <= said.age < 60
    assert "another worker takes over within 10 s" in (said.next or "")
    assert scene.why(operation.id).kind == "operation"


def test_it_waits_for_a_server(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_CREATE)
    scene.operation("create")
    claim = scene.claim()
    waiting = JournalEntry(
        operation_id=claim.operation_id, path="standalone/server-active", kind=EntryKind.WAIT, outcome=Outcome.INTENT
    )
    wait = {"kind": "server-active", "value": {"server_id": "s-1"}}
    scene.storage.park(claim, wake_in=600, wait=wait, entry=waiting)
    said = scene.why()
    assert said.situation is Situation.WAITING
    assert "it waits for server s-1 to run" in said.summary
    assert said.next_attempt == 1.0, "the bulk look, not the deadline at which it is parked until"
    match = re.search(r"the controller looks every 1 s; it fails for good, .* within (\d+) s", said.next or "")
    assert match is not None
    assert 480 < int(match[1]) <= 600
    assert said.holder is None
    scene.storage.wake([claim.operation_id])
    assert "goes on" in (scene.why().next or "")


def test_it_is_tried_again_after_an_error(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    scene.operation()
    claim = scene.claim()
    entry = scene.entry(claim, "standalone/push", attempts=2)
    scene.storage.park(claim, wake_in=600, wait=None, error="the agent does not answer", entry=entry)
    said = scene.why()
    assert said.situation is Situation.RETRYING
    assert said.cause == "the agent does not answer"
    assert "attempt 3 of 5" in (said.next or "")
    assert "no controller runs on this state directory" in (scene.why(running=False).next or "")
    assert "octavia-core-worker" in scene.why(running=None).advice[0]


def test_it_waits_behind_another_operation(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    first = scene.operation()
    scene.claim()
    second = scene.operation("failover", internal=True)
    said = scene.why(second.id)
    assert said.situation is Situation.QUEUED
    assert first.id in said.summary
    assert first.id in said.advice[0]
    assert f"behind it: {second.id}" in scene.why().summary


def test_nobody_has_taken_it(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    scene.operation()
    assert scene.why().situation is Situation.UNCLAIMED
    said = scene.why(running=False)
    assert said.advice == ("start one: octavia-admin up",)
    assert said.next is not None
    assert said.next.startswith("nothing until that is mended: no controller runs on this state directory")
    assert said.next_attempt is None
    assert said.next.endswith("then a worker takes it")


def test_its_holder_is_silent(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    scene.operation()
    scene.entry(scene.claim(), "standalone/push")
    since = Since()
    scene.storage.end_leases(but="another")
    said = scene.why()
    assert said.situation is Situation.SILENT
    assert since.told("stopped renewing N s ago while sending the configuration", said.summary)
    assert said.holder == "process 4711 on host"
    assert "takes it over at the recorded step; nothing is done twice" in (said.next or "")


def test_it_is_being_undone(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    operation = scene.operation()
    claim = scene.claim()
    scene.storage.transaction(lambda tx: tx.set_undoing(operation.id, "the agent said no"), claim=claim)
    said = scene.why()
    assert said.situation is Situation.UNDOING
    assert "the agent said no" in said.summary
    scene.storage.park(claim, wake_in=600, wait=None, error="away")
    assert "a cleanup goes on with that undo" in (scene.why().next or "")


def test_it_failed_for_good(scene: Scene) -> None:
    scene.tree(Provisioning.ERROR)
    operation = scene.operation("create", subjects=(Subject(Kind.LOAD_BALANCER, scene.lb),))
    scene.storage.transaction(lambda tx: tx.close_operation(operation.id, OperationState.FAILED, "no HAProxy"))
    said = scene.why()
    assert said.situation is Situation.FAILED
    assert said.cause == "no HAProxy"
    assert said.next == "nothing by itself: an operation that failed for good is not repeated"
    assert said.advice[0] == f"rebuild it: octavia-admin lb failover {scene.lb}"
    assert "octavia-admin lb failover" in scene.why(operation.id).advice[1]


def test_something_below_it_is_in_error(scene: Scene) -> None:
    scene.tree(provisioning_status=Provisioning.ERROR, name="bad")
    scene.serving()
    operation = scene.operation(subjects=(Subject(Kind.MEMBER, scene.member),))
    scene.storage.transaction(lambda tx: tx.close_operation(operation.id, OperationState.FAILED, "port 0 is none"))
    said = scene.why()
    assert said.situation is Situation.DEGRADED
    assert said.problems == (f"member bad ({scene.member}): port 0 is none",)
    below = scene.why("bad")
    assert (below.kind, below.situation, below.cause) == ("member", Situation.FAILED, "port 0 is none")


def test_what_came_with_something_that_failed_is_no_problem_of_its_own(scene: Scene) -> None:
    scene.tree(provisioning_status=Provisioning.ERROR, name="bad")
    scene.storage.transaction(lambda tx: tx.settle(Kind.POOL, scene.pool, LifecycleEvent.ACCEPT_UPDATE))
    scene.storage.transaction(lambda tx: tx.settle(Kind.POOL, scene.pool, LifecycleEvent.FAIL))
    scene.serving()
    operation = scene.operation(subjects=(Subject(Kind.POOL, scene.pool),))
    scene.storage.transaction(lambda tx: tx.close_operation(operation.id, OperationState.FAILED, "no secret 'x'"))
    assert scene.why().problems == (f"pool servers ({scene.pool}): no secret 'x'",)
    assert scene.why("bad").cause == "no secret 'x'"


def test_what_a_served_listener_lacks_is_said_until_a_push_says_otherwise(scene: Scene) -> None:
    listener = Listener(
        id=new_id(), protocol=ListenerProtocol.TERMINATED_HTTPS, protocol_port=443, name="l", tls_certificate_id="www"
    )
    scene.tree(listeners=(listener,))
    scene.serving()

    def pushed(reason: str | None) -> None:
        operation = scene.operation(subjects=(Subject(Kind.POOL, scene.pool),))

        def end(tx: Transaction) -> None:
            data = {"id": listener.id, "reason": reason}
            if reason is not None:
                tx.emit(Event(name="listener.partial", text="x", operation_id=operation.id, data=data))
            tx.close_operation(operation.id, OperationState.SUCCEEDED)

        scene.storage.transaction(end)

    pushed("is served without some of its certificates: no secret 'sni'")
    said = scene.why()
    assert said.situation is Situation.DEGRADED
    assert said.problems == (f"listener l ({listener.id}) is served without some of its certificates: no secret 'sni'",)
    assert said.advice == (
        f"put its secret right, then have it served: octavia-admin listener set {listener.id} --cert www",
    )
    below = scene.why("l")
    assert below.situation is Situation.DEGRADED
    assert "but is served without some of its certificates: no secret 'sni'" in below.summary
    pushed(None)
    assert scene.why().problems == ()
    assert scene.why("l").situation is Situation.FINE


def test_a_failed_sctp_listener_is_not_to_be_built_again(scene: Scene) -> None:
    listener = Listener(id=new_id(), protocol=ListenerProtocol.SCTP, protocol_port=5000)
    scene.tree(Provisioning.ERROR, listeners=(listener,))
    operation = scene.operation(flow="create", subjects=(Subject(Kind.LOAD_BALANCER, scene.lb),))
    reason = f"listener {listener.id} cannot be served: no SCTP here"
    scene.storage.transaction(lambda tx: tx.close_operation(operation.id, OperationState.FAILED, reason))
    advice = scene.why().advice
    assert advice[0] == f"delete it: octavia-admin lb delete {scene.lb}"
    assert not any("failover" in line for line in advice)


def test_a_member_that_is_down(scene: Scene) -> None:
    scene.tree(operating_status=Operating.ERROR)
    scene.serving()
    assert "at 10.0.0.1:80 does not pass" in scene.why().problems[0]
    assert "checks of it fail" in scene.why(scene.member).summary


def test_a_request_that_was_lost(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    said = scene.why()
    assert said.situation is Situation.UNHELD
    assert "the request for it was lost" in said.summary


def test_no_amphora_serves(scene: Scene) -> None:
    scene.tree()
    assert "it has no amphora that serves" in scene.why().summary


def test_an_amphora_that_was_declared_dead(scene: Scene) -> None:
    scene.tree()
    scene.serving()

    def declare(tx: Any) -> None:
        assert tx.declare_dead(scene.amphora)
        tx.emit(Event(name="amphora.lost", text="it is lost", load_balancer_id=scene.lb, amphora_id=scene.amphora))

    scene.storage.transaction(declare)
    said = scene.why(scene.amphora)
    assert said.situation is Situation.FAILED
    assert "nothing replaces it" in said.summary
    assert said.cause == "it is lost"
    scene.operation("failover", internal=True, amphora_id=scene.amphora)
    said = scene.why(scene.amphora)
    assert said.situation is Situation.UNCLAIMED
    assert "failover" in said.summary


def test_an_amphora_with_more_members_than_a_heartbeat_takes(scene: Scene) -> None:
    http = ListenerProtocol.HTTP
    listeners = [
        Listener(id=new_id(), protocol=http, protocol_port=n, default_pool_id=scene.pool) for n in (80, 81, 82)
    ]
    scene.tree(listeners=tuple(listeners))
    scene.serving()
    members = [Member(id=new_id(), address="10.0.0.2", protocol_port=n + 1, pool_id=scene.pool) for n in range(999)]

    def lose(tx: Any) -> None:
        for member in members:
            tx.insert(member)
        assert tx.declare_dead(scene.amphora)
        text = "it is lost: its agent answers, but it sends no heartbeat that counts"
        tx.emit(Event(name="amphora.lost", text=text, load_balancer_id=scene.lb, amphora_id=scene.amphora))

    scene.storage.transaction(lose)
    cause = scene.why(scene.amphora).cause
    assert cause is not None
    assert "3000 members of 3 listeners" in cause
    assert "65507 bytes" in cause


def test_nobody_alive_is_said_of_what_serves_and_of_what_waits(scene: Scene) -> None:
    scene.tree()
    scene.serving()
    said = scene.why(running=None)
    assert said.situation is Situation.UNSERVED
    assert "was ONLINE when it was last heard, but no worker is alive" in said.summary
    assert "octavia-core-worker" in said.advice[0]
    scene.storage.transaction(lambda tx: tx.attend("host:4711:abcd", FLOWS, seconds=60))
    assert scene.why(running=None).situation is Situation.FINE
    scene.storage.transaction(lambda tx: tx.attend("host:4711:abcd", FLOWS, seconds=-3))
    assert scene.why(running=None).situation is Situation.FINE, "a word never holds for less than was said"
    scene.storage.transaction(lambda tx: tx.leave(holder="host:4711:abcd"))
    since = Since()
    scene.storage.transaction(lambda tx: tx.attend("host:4712:abcd", FLOWS, seconds=-3))
    said = scene.why(running=None)
    assert "the last one was process 4712 on host, silent for " in said.summary
    assert since.told("silent for N s or more", said.summary, after=3)
    assert since.told("could store nothing for N s", scene.why(running=True).summary, after=3)
    assert scene.why(scene.member, running=None).situation is Situation.UNSERVED
    assert scene.why(scene.amphora, running=None).situation is Situation.UNSERVED
    scene.operation()
    said = scene.why(running=None)
    assert said.situation is Situation.UNCLAIMED
    assert "no worker is alive" in (said.next or "")


LONG_AGO = datetime(2020, 1, 1)  # noqa: DTZ001 - as upstream's columns have it


def test_an_amphora_that_was_given_its_settings_again_says_so_and_when_it_is_replaced(scene: Scene) -> None:
    scene.tree()
    scene.serving()
    long_ago = scene.storage.now() - 100_000_000
    for silent in (
        update(oc_liveness).values(last_heard=long_ago),
        update(amphora_health).values(last_update=LONG_AGO),
    ):
        scene.storage.transaction(lambda tx, silent=silent: tx.write(silent))  # type: ignore[attr-defined,misc]
    assert "is about to decide" in scene.why(scene.amphora).summary
    evidence = "it reports a wrong number of listeners; its agent answers"
    told = Event(name="amphora.refreshed", text="again", amphora_id=scene.amphora, data={"evidence": evidence})
    since = Since()
    scene.storage.transaction(lambda tx: tx.emit(told))
    said = scene.why(scene.amphora)
    assert evidence in said.summary
    assert since.told("were sent again N s ago, and after 180 s of silence it is replaced", said.summary)
    assert said.cause == evidence


def test_nobody_hears_is_said_of_what_serves_and_of_what_is_silent(scene: Scene) -> None:
    scene.tree()
    scene.serving()
    scene.storage.transaction(lambda tx: tx.attend("host:4711:abcd", FLOWS, seconds=60))
    assert scene.why(running=None).situation is Situation.FINE
    scene.storage.transaction(lambda tx: tx.forget_observer("host:1:abcd"))
    for about in ("web", scene.member, scene.amphora):
        said = scene.why(about, running=None)
        assert said.situation is Situation.UNHEARD
        assert "no health manager is alive: nobody notices when an amphora dies" in said.summary
        assert said.advice == ("start one: octavia-core-health-manager --config-file FILE",)
    assert scene.why().situation is Situation.FINE, "the controller of a state directory hears by itself"
    long_ago = scene.storage.now() - 100_000_000
    beat = Heard(amphora_id=scene.amphora, at=long_ago, sequence=2, observer="x")
    scene.storage.transaction(lambda tx: tx.heard([beat]))
    assert scene.why(scene.amphora, running=None).situation is Situation.UNHEARD, "nobody is about to decide"

    def say_no_more(tx: Any) -> None:
        tx.observe("host:2:abcd", {}, keep=3600)
        tx.write(update(oc_observer).values(written_at=oc_observer.c.written_at - 40_000_000))

    since = Since()
    scene.storage.transaction(say_no_more)
    assert since.told("the last one was process 2 on host, silent for N s", scene.why(running=None).summary, after=40)
    scene.storage.transaction(lambda tx: tx.leave(holder="host:4711:abcd"))
    said = scene.why(running=None)
    assert said.situation is Situation.UNSERVED
    assert "no worker is alive, and no health manager is alive" in said.summary
    assert [line.split()[2] for line in said.advice] == ["octavia-core-worker", "octavia-core-health-manager"]


def test_a_flow_that_no_living_worker_knows(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    operation = scene.operation(flow_version=7)
    assert "this version of octavia-core does not know flow configure version 7" in scene.why().summary
    scene.storage.transaction(lambda tx: tx.attend("host:4711:abcd", FLOWS, seconds=60))
    said = scene.why(running=None)
    assert said.situation is Situation.STUCK
    assert "none of the 1 worker(s) alive knows flow configure version 7; they know version 1" in said.summary
    assert said.advice[1].endswith(f"octavia-admin operation release {operation.id}")
    scene.storage.transaction(lambda tx: tx.attend("other:1:abcd", {"configure": {7}}, seconds=60))
    assert scene.why(running=None).situation is Situation.UNCLAIMED


def test_a_failover_that_is_held_back(scene: Scene) -> None:
    scene.tree()
    row = Amphora(id=scene.amphora, status=AmphoraStatus.ALLOCATED, load_balancer_id=scene.lb, compute_id="server")
    scene.storage.transaction(lambda tx: tx.insert(row))
    long_ago = scene.storage.now() - 100_000_000
    scene.storage.transaction(
        lambda tx: tx.heard([Heard(amphora_id=scene.amphora, at=long_ago, sequence=1, observer="x")])
    )
    assert "about to decide" in scene.why().summary
    held = Event(name="failover.held", text="", data={"rule": "paused", "evidence": "an operator paused failovers"})
    scene.storage.transaction(lambda tx: tx.emit(held))
    for id in ("web", scene.amphora):
        said = scene.why(id)
        assert said.situation is Situation.HELD
        assert "its failover is held back: an operator paused failovers" in said.summary
        assert said.cause == "an operator paused failovers"
        assert "octavia-admin amphora failover" in said.advice[0]
    scene.storage.transaction(lambda tx: tx.emit(Event(name="failover.resumed", text="", data={"rule": "paused"})))
    assert "about to decide" in scene.why(scene.amphora).summary


def test_what_is_gone_says_so(scene: Scene) -> None:
    scene.tree(Provisioning.DELETED)
    assert scene.why(scene.lb).situation is Situation.GONE
    with pytest.raises(NotFound, match="web"):
        scene.why("web")


def test_a_name_that_several_have_is_refused(scene: Scene) -> None:
    scene.tree()
    scene.storage.transaction(lambda tx: tx.insert(LoadBalancer(id=new_id(), name="web")))
    with pytest.raises(BadRequest, match="2 load balancers are called 'web'"):
        scene.why()


def test_a_timeline_has_journal_and_events_in_order_with_durations(scene: Scene) -> None:
    scene.tree(Provisioning.PENDING_UPDATE)
    operation = scene.operation()
    claim = scene.claim()
    happened = Event(name="operation.accepted", text="asked for", load_balancer_id=scene.lb, operation_id=operation.id)
    scene.storage.transaction(lambda tx: tx.emit(happened))
    scene.entry(claim, "plan", EntryKind.RECORD, outcome=Outcome.DONE, sequence=1)
    scene.entry(claim, "standalone/push", sequence=2, attempts=1)
    moments = timeline(scene.storage, "web")
    assert [m.name for m in moments] == ["operation.accepted", "plan", "standalone/push"]
    assert [m.open for m in moments] == [False, False, True]
    assert moments[1].seconds is not None
    assert moments[2].text == "sending the configuration (standalone) (2 attempts)"
    assert timeline(scene.storage, operation.id) == moments
    assert timeline(scene.storage, scene.member) == moments


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("reserve-vip", "reserving the address"),
        ("standalone/boot", "starting the server (standalone)"),
        ("undo/standalone/boot", "taking back: starting the server (standalone)"),
        ("standalone/old-29f8d2e1-91ed-594e-a857-d8c264a27025/destroy", "removing the server (standalone old)"),
        ("29f8d2e1-91ed-594e-a857-d8c264a27025/push", "sending the configuration"),
        ("something-new", "something new"),
    ],
)
def test_steps_in_words(path: str, words: str) -> None:
    assert step_words(path) == words


def test_waits_and_holders_in_words() -> None:
    at = {"amphora_id": "a", "host": "127.0.0.1", "port": 9443}
    assert wait_words({"kind": "agent-answers", "value": {"at": at}}).endswith("at 127.0.0.1:9443 to answer")
    assert wait_words({"kind": "new"}) == "new"
    assert holder_words("my:host:12:ab") == "process 12 on my:host"
    assert holder_words(None) is None
