"""Words may be given as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavia_core import Controller, NewListener, NewLoadBalancer
from octavia_core.domain.vocabulary import L7Action, ListenerProtocol, MonitorType, PoolProtocol, Topology
from octavia_core.errors import BadRequest
from tests.support.wishing import wish


def test_text_is_a_word_of_the_vocabulary() -> None:
    asked = wish()
    listener = asked.listeners[0]
    assert asked.topology is Topology.SINGLE
    assert listener.protocol is ListenerProtocol.HTTP
    assert listener.l7policies[0].action is L7Action.REJECT
    assert listener.default_pool is not None
    assert listener.default_pool.protocol is PoolProtocol.HTTP
    assert listener.default_pool.health_monitor is not None
    assert listener.default_pool.health_monitor.type is MonitorType.HTTP


@pytest.mark.parametrize("word", ["HTPP", "", 7, [], None])
def test_a_word_that_there_is_not_is_refused_with_its_place(word: str, tmp_path: Path) -> None:
    with Controller.open(tmp_path / "state", run=False) as controller, pytest.raises(BadRequest, match="protocol"):
        controller.create_load_balancer(NewLoadBalancer(listeners=[NewListener(protocol=word, protocol_port=80)]))
