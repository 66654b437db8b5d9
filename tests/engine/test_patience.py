"""How long a step is tried again, by what failed."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.vocabulary import Provisioning, Topology
from octavia_core.errors import AmphoraNotReady, AmphoraUnreachable, TransientError
from octavia_core.flows.patience import Patience, PeerUnsure
from octavia_core.settings import Engine as EngineSettings
from octavia_core.settings import HaproxyAmphora, Settings
from octavia_core.testing.outside import FaultKind
from tests.engine.outside import WISH, Engine

SERVED, BOOTING, OTHERWISE = AmphoraUnreachable("x"), AmphoraNotReady("x"), TransientError("x")
UNSURE = PeerUnsure("x")


def test_agents_that_served_have_the_short_limit_and_machines_that_are_not_ready_the_long_one():
    patience = Patience.of(Settings())
    assert (patience.after(SERVED).attempts, patience.after(SERVED).longest) == (15, 2.0)
    assert (patience.after(BOOTING).attempts, patience.after(BOOTING).longest) == (120, 5.0)
    assert (patience.after(UNSURE).attempts, patience.after(UNSURE).longest) == (2, 5.0)
    assert (patience.after(OTHERWISE).attempts, patience.after(OTHERWISE).longest) == (5, 30.0)


def test_settings_of_a_controller_count_and_no_pause_is_longer_than_that_of_steps():
    amphora = HaproxyAmphora(
        connection_max_retries=0, connection_retry_interval=60.0, active_connection_retry_interval=0.0
    )
    patience = Patience.of(
        Settings(haproxy_amphora=amphora, engine=EngineSettings(step_retry_first=3.0, step_retry_longest=20.0))
    )
    assert (patience.booting.attempts, patience.booting.first, patience.booting.longest) == (1, 3.0, 20.0)
    assert (patience.served.first, patience.served.longest) == (0.0, 0.0)


@pytest.mark.parametrize(("kind", "ends"), [(FaultKind.UNREACHABLE, True), (FaultKind.TRANSIENT, False)])
def test_a_push_waits_longer_for_an_agent_than_for_anything_else(kind: FaultKind, ends: bool, tmp_path: Path) -> None:
    engine = Engine.open(tmp_path)
    try:
        engine.cloud.fail("amphora.push", kind=kind, times=10)
        engine.acceptor.create_load_balancer(WISH, Asked())
        engine.settle()
        wanted = Provisioning.ACTIVE if ends else Provisioning.ERROR
        assert engine.load_balancer().provisioning_status is wanted
    finally:
        engine.close()


@pytest.mark.parametrize(("failures", "answers"), [(1, [False, True, True]), (2, [False, False, True])])
def test_a_failover_asks_who_of_a_pair_holds_the_vip_as_often_as_the_settings_say(
    failures: int, answers: list[bool], tmp_path: Path
) -> None:
    """Twice; then it decides without the one that does not answer, which is the first to be replaced."""
    engine = Engine.open(tmp_path)
    try:
        engine.acceptor.create_load_balancer(attrs.evolve(WISH, topology=Topology.ACTIVE_STANDBY), Asked())
        engine.settle()
        engine.cloud.fail("amphora.interface", kind=FaultKind.UNREACHABLE, times=failures)
        before = len(engine.cloud.calls("amphora.interface"))
        engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
        asked = engine.cloud.calls("amphora.interface")[before:][:3]
        assert [call.outcome == "ok" for call in asked] == answers
    finally:
        engine.close()
