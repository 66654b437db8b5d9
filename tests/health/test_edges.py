"""Edges: a member, a listener or an amphora that changes its state is an event with its cause, and plugins are told at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from octavia_core.controller.outbox import Outbox
from octavia_core.domain.heartbeat import encode
from octavia_core.domain.operation import Event
from octavia_core.domain.tree import Member, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, Operating, PoolProtocol, Provisioning
from octavia_core.hooks.plugins import Plugins
from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.compute import Death
from tests.db.values import new_id
from tests.health.managing import KEY
from tests.health.test_managers import Managed


class Alerts:
    """A plugin that alerts somebody."""

    def __init__(self) -> None:
        self._seen, self._news = list[Event](), threading.Condition()

    @hookimpl
    def octavia_events(self, events: Sequence[Event]) -> None:
        with self._news:
            self._seen += events
            self._news.notify_all()

    def about(self, name: str) -> Event:
        """The first of that name, when it comes."""
        with self._news:
            assert self._news.wait_for(lambda: any(one.name == name for one in self._seen), 30), name
            return next(one for one in self._seen if one.name == name)


class Place(Managed):
    """A health manager whose events go to a plugin; its clock would write nothing for an hour by itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, heartbeat_timeout=7200.0, heartbeat_interval=3600.0)
        self.alerts = Alerts()
        found = Plugins({"alerts": self.alerts}, installed=False)
        self.outbox = Outbox(self.storage, found.event_listeners(), timeout=5.0, pause=0.05)
        self.outbox.start()

    def close(self) -> None:
        self.outbox.stop()
        super().close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_member_that_fails_is_an_event_with_its_cause_at_once(here: Place) -> None:
    amphora, listener = here.amphorae[0], here.listeners()[0]
    lb = str(amphora.load_balancer_id)
    members = tuple(
        Member(id=new_id(), name=name, address="10.0.0.1", protocol_port=port, provisioning_status=Provisioning.ACTIVE)
        for port, name in ((80, "one"), (81, "two"))
    )
    pool = Pool(
        id=new_id(),
        protocol=PoolProtocol.HTTP,
        load_balancer_id=lb,
        members=members,
        provisioning_status=Provisioning.ACTIVE,
    )
    here.storage.transaction(lambda tx: tx.insert(pool))
    sent = 0

    def say(listener_word: str, *words: str) -> None:
        nonlocal sent
        sent += 1
        reported = {member.id: word for member, word in zip(members, words, strict=True)}
        document = {
            "id": amphora.id,
            "seq": sent,
            "ver": 3,
            "listeners": {listener: {"status": listener_word, "stats": {}}},
            "pools": {f"{pool.id}:{listener}": {"status": "UP", "members": reported}},
        }
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(encode(document, KEY), ("127.0.0.1", here.port))

    say("OPEN", "UP", "UP")
    assert here.alerts.about("member.online").data["operating_status"] == "ONLINE"
    say("OPEN", "UP", "DOWN")
    lost = here.alerts.about("member.error")
    assert (lost.data["id"], lost.load_balancer_id, lost.amphora_id) == (members[1].id, lb, amphora.id)
    assert lost.text == f"member two ({members[1].id}) is ERROR: so amphora {amphora.id} reports"
    assert here.alerts.about("pool.degraded").data["id"] == pool.id
    say("FULL", "UP", "DOWN")
    full = here.alerts.about("listener.degraded")
    assert (full.data["id"], full.amphora_id) == (listener, amphora.id)
    tree = here.storage.read(lambda tx: tx.tree(lb))
    assert tree is not None
    found = {member.name: member.operating_status for member in tree.pools[0].members}
    assert found == {"one": Operating.ONLINE, "two": Operating.ERROR}


def test_an_amphora_that_dies_is_an_event_with_its_cause_at_once(here: Place) -> None:
    lost = here.amphorae[2]
    here.health.died(Death(server_id=str(lost.compute_id), at=0.0, evidence="process 7 was killed by signal 9"))
    event = here.alerts.about("amphora.lost")
    assert (event.amphora_id, event.data["evidence"]) == (lost.id, "process 7 was killed by signal 9")
    assert event.data["rule"] == "proof"


def test_an_amphora_that_cannot_be_replaced_is_an_event_with_its_reason(here: Place) -> None:
    from octavia_core.flows.amphorae import fail_amphora

    amphora = here.amphorae[3]
    for _ in range(2):
        here.storage.transaction(lambda tx: fail_amphora(tx, amphora.id, "no host has room"))
    event = here.alerts.about("amphora.error")
    assert event.text == f"amphora {amphora.id} was ALLOCATED and is in ERROR: no host has room"
    rows = [one for one in here.storage.read(lambda tx: tx.events()) if one.name == "amphora.error"]
    assert len(rows) == 1, "not again while it lasts"


def test_stopped_failovers_and_their_end_are_events(here: Place) -> None:
    amphora = here.amphorae[4]
    hearts = [h for h in here.storage.read(lambda tx: tx.liveness()) if h.amphora_id == amphora.id]
    here.health._actor.stop(hearts, "three are silent at once")
    assert here.alerts.about("amphora.failover_stopped").data["evidence"] == "three are silent at once"
    here.health._actor.resume(hearts)
    assert here.alerts.about("amphora.heard_again").amphora_id == amphora.id
    row = here.storage.read(lambda tx: tx.amphora(amphora.id))
    assert row is not None
    assert row.status is AmphoraStatus.ALLOCATED
