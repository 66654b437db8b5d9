"""A message is stored before it is acknowledged: what the override of oslo.messaging's RPC server relies on."""

from __future__ import annotations

import inspect
import threading
import time
import uuid
from typing import Any

import oslo_messaging
import pytest

from octavia_core.errors import BadRequest, ConfigurationError, TransientError
from octavia_core.ports.requests import Message
from octavia_oslo import conf, consumer


class Stored:
    """Remembers messages; fails as often as it is told."""

    def __init__(self, fails: int = 0, error: Exception | None = None) -> None:
        self.messages: list[Message] = []
        self.fails, self.error = fails, error or TransientError("away")
        self.came = threading.Event()

    def __call__(self, message: Message) -> None:
        if self.fails:
            self.fails -= 1
            raise self.error
        self.messages.append(message)
        self.came.set()


class Incoming:
    """What the library hands over, as far as it matters."""

    unique_id = "0123"

    def __init__(self, **message: Any) -> None:
        self.message = {"namespace": "controller", "version": "2.0", "args": {}, **message}
        self.acknowledged = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1


def made(stored: Stored) -> consumer.Consumer:
    opened = conf.open_conf([])
    return consumer.Consumer(opened, stored)


def served(stored: Stored) -> consumer.StoringServer:
    server = object.__new__(consumer.StoringServer)
    server.consumer, server.leaving = made(stored), threading.Event()
    return server


def handed(stored: Stored, incoming: Incoming) -> Incoming:
    served(stored)._process_incoming([incoming])
    return incoming


def test_the_library_still_has_what_is_overridden() -> None:
    from oslo_messaging._drivers import amqpdriver
    from oslo_messaging.rpc.server import RPCServer

    assert list(inspect.signature(RPCServer._process_incoming).parameters) == ["self", "incoming"]
    assert list(inspect.signature(RPCServer._on_incoming).parameters) == ["self", "incoming"]
    assert "message.acknowledge()" in inspect.getsource(amqpdriver.RpcAMQPListener.__call__)  # first, which is left out
    assert "super().__call__(message)" in inspect.getsource(amqpdriver.RpcAMQPListener.__call__)
    assert "self.message.acknowledge()" in inspect.getsource(amqpdriver.NotificationAMQPIncomingMessage.acknowledge)


def test_a_message_is_stored_and_then_acknowledged() -> None:
    stored = Stored()
    assert handed(stored, Incoming(method="create_pool", args={"pool": {}})).acknowledged == 1
    assert [(m.method, m.unique_id) for m in stored.messages] == [("create_pool", "0123")]
    assert "pool" not in repr(stored.messages[0]).replace("create_pool", "")


def test_it_is_tried_again_while_the_database_is_away() -> None:
    stored = Stored(fails=2)
    assert handed(stored, Incoming(method="create_pool")).acknowledged == 1
    assert len(stored.messages) == 1


def test_what_cannot_be_stored_at_all_is_done_with() -> None:
    stored = Stored(fails=1, error=BadRequest("no"))
    assert handed(stored, Incoming(method="create_pool")).acknowledged == 1
    assert stored.messages == []


def test_at_the_end_what_is_not_stored_goes_back_to_the_broker() -> None:
    server = served(Stored(fails=1000))
    server.consumer.stop()
    incoming = Incoming(method="create_pool")
    server._process_incoming([incoming])
    assert incoming.acknowledged == 0


def test_what_a_connection_that_is_given_up_has_not_stored_is_left_to_the_next_one() -> None:
    server = served(Stored(fails=1000))
    incoming = Incoming(method="create_pool")
    threading.Timer(0.2, server.leaving.set).start()
    server._process_incoming([incoming])
    assert incoming.acknowledged == 0


def test_a_message_that_is_answered_by_a_bug_is_left_aside_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "_PAUSES", (0.001,))
    stored = Stored(fails=1000, error=ZeroDivisionError())
    assert handed(stored, Incoming(method="create_pool")).acknowledged == 1
    assert stored.fails == 1000 - consumer._BUGS


@pytest.mark.parametrize("id", [7, ["x"], "x" * 1000])
def test_a_unique_id_that_is_none_is_not_used(id: object) -> None:
    stored = Stored()
    incoming = Incoming(method="create_pool")
    incoming.unique_id = id  # type: ignore[assignment]  # as a stranger may send it
    assert handed(stored, incoming).acknowledged == 1
    assert stored.messages[0].unique_id is None


def test_a_message_to_oneself_is_heard_while_all_others_wait() -> None:
    server = served(Stored(fails=1000))
    before = server.consumer._heard
    incoming = Incoming(namespace=consumer.ECHO, method="echo")
    server._on_incoming([incoming])  # without its pool of threads, which was never started
    assert server.consumer._heard > before
    assert incoming.acknowledged == 1


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "other"},
        {"namespace": ["x"]},
        {"version": "1.0"},
        {"version": "2.1"},
        {"version": "2.x"},
        {"version": {}},
    ],
)
def test_messages_of_others_are_left_aside(other: dict[str, str]) -> None:
    stored = Stored()
    assert handed(stored, Incoming(method="create_pool", **other)).acknowledged == 1
    assert stored.messages == []


@pytest.mark.parametrize("url", ["bogus://u:hush@h/", "rabbit//u:hush@h", "rabbit://u:hush@[h/"])
def test_a_broker_that_cannot_be_is_refused_without_its_password(tmp_path: Any, url: str) -> None:
    file = tmp_path / "octavia.conf"
    file.write_text(f"[DEFAULT]\ntransport_url = {url}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"^\[DEFAULT\] transport_url is not the URL of a broker") as refused:
        consumer.Consumer(conf.open_conf([str(file)]), Stored()).start()
    assert "hush" not in str(refused.value)


def test_a_cast_through_the_library_arrives_with_its_unique_id_and_the_echo_comes_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "octavia.conf"
    file.write_text("[DEFAULT]\ntransport_url = kombu+memory://\nhost = here\n", encoding="utf-8")
    stored = Stored()
    opened = conf.open_conf([str(file)])
    listening = consumer.Consumer(opened, stored, echo_every=0.1)
    before = listening.deaf_for
    listening.start()
    try:
        transport = oslo_messaging.get_rpc_transport(opened)
        target = oslo_messaging.Target(topic=consumer.TOPIC, namespace="controller", version="2.0")
        client = oslo_messaging.get_rpc_client(transport, target)
        for _ in range(300):
            client.cast({}, "delete_load_balancer", loadbalancer={"loadbalancer_id": uuid.uuid4().hex}, cascade=True)
            if stored.came.wait(0.2):
                break
        assert stored.messages[0].method == "delete_load_balancer"
        assert len(str(stored.messages[0].unique_id)) == 32
        assert listening.deaf_for < before + 30
    finally:
        listening.stop()


def test_the_librarys_own_listener_leaves_the_acknowledgement_to_whoever_stored(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "octavia.conf"
    file.write_text("[DEFAULT]\ntransport_url = kombu+memory://\nhost = there\n", encoding="utf-8")
    opened = conf.open_conf([str(file)])
    raw: list[Any] = []
    when_stored: list[bool] = []

    class Watching(consumer.Consumer):
        def handle(self, incoming: Any, leaving: threading.Event) -> bool:
            raw.append(incoming.message._raw_message)
            when_stored.append(raw[-1].acknowledged)
            return super().handle(incoming, leaving)

    stored = Stored()
    listening = Watching(opened, stored)
    listening.start()
    try:
        transport = oslo_messaging.get_rpc_transport(opened)
        target = oslo_messaging.Target(topic=consumer.TOPIC, namespace="controller", version="2.0")
        client = oslo_messaging.get_rpc_client(transport, target)
        for _ in range(300):
            client.cast({}, "failover_amphora", amphora_id=uuid.uuid4().hex)
            if stored.came.wait(0.2):
                break
        assert when_stored[0] is False
        assert _soon(lambda: raw[0].acknowledged)
    finally:
        listening.stop()


def _soon(true: Any) -> bool:
    """What another thread is about to do."""
    for _ in range(6000):
        if true():
            return True
        time.sleep(0.01)
    return False
