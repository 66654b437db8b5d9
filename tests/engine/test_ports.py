"""Where ports that need a privilege are served higher, two listeners may not be served at the same place."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.vocabulary import ListenerProtocol
from octavia_core.domain.wishes import NewListener
from octavia_core.errors import BadRequest
from tests.engine.outside import WISH, Engine

HIGH = NewListener(name="high", protocol=ListenerProtocol.HTTP, protocol_port=8080)


def test_a_port_that_is_served_where_another_listener_is_gets_refused_and_both_are_named(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path)
    try:
        acceptor = attrs.evolve(engine.acceptor, served_at=lambda port: port if port >= 1024 else port + 8000)
        both = attrs.evolve(WISH, listeners=[attrs.evolve(WISH.listeners[0], name="low"), HIGH])
        said = "protocol_port 8080 of listener 'high' would be served where listener 'low' with protocol_port 80 is"
        with pytest.raises(BadRequest, match=said):
            acceptor.create_load_balancer(both, Asked())
        acceptor.create_load_balancer(attrs.evolve(both, listeners=both.listeners[:1]), Asked())
        engine.settle()
        id = engine.load_balancer().id
        with pytest.raises(BadRequest, match=said):
            acceptor.create_listener(id, HIGH, Asked())
        assert len(engine.load_balancer().listeners) == 1
        acceptor.create_listener(id, attrs.evolve(HIGH, protocol=ListenerProtocol.UDP), Asked())  # they do not meet
        engine.settle()
        engine.acceptor.create_listener(id, HIGH, Asked())  # with the privilege
        engine.settle()
        assert len(engine.load_balancer().listeners) == 3
    finally:
        engine.close()
