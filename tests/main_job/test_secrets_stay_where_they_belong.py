"""After a whole life of a TLS load balancer no key is anywhere but in the files made for keys."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest
import trustme

from octavia_core import Controller, NewListener, NewLoadBalancer, NewPool
from octavia_core.controller.health import bind_receiver
from octavia_core.domain.vocabulary import ListenerProtocol, Provisioning
from octavia_core.settings import Settings, local_defaults
from tests.support.members import member

PATIENCE = 60.0


def key_words(pem: bytes) -> list[bytes]:
    """What a private key looks like inside other text: pieces of its base64, and of its bytes."""
    inside = pem.decode().split("PRIVATE KEY-----")[1].rpartition("-----END")[0]
    packed = "".join(inside.split())
    return [packed[20:60].encode(), base64.b64decode(packed)[30:50]]


def test_no_key_is_in_the_database_or_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / "state"
    issued = trustme.CA().issue_cert("www.example.org")
    with caplog.at_level(logging.DEBUG), member("one") as one, Controller.open(state) as controller:
        secrets = state / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        (secrets / "web.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        (secrets / "web.pem").chmod(0o600)
        listener = NewListener(
            protocol=ListenerProtocol.TERMINATED_HTTPS,
            protocol_port=8443,
            tls_certificate_id="web",
            default_pool=NewPool(members=[one]),
        )
        operation = controller.create_load_balancer(NewLoadBalancer(name="web", listeners=[listener]))
        operation.wait(PATIENCE)
        assert controller.load_balancer("web").provisioning_status is Provisioning.ACTIVE
        (amphora,) = controller.amphorae()
        known = [
            issued.private_key_pem.bytes(),
            (state / f"amphorae/{amphora.id}/etc/octavia/certs/server.pem").read_bytes(),
            *(path.read_bytes() for path in (state / "authority").glob("*.key")),
            (state / "authority/controller.pem").read_bytes(),
        ]
        words = [word for pem in known for word in key_words(pem)]
        words.append((state / "heartbeat.key").read_bytes().strip())
        controller.delete_load_balancer(operation.load_balancer_id, wait=PATIENCE).wait(PATIENCE)
    assert len(words) == 11
    places = {path: path.read_bytes() for path in state.glob("octavia.db*")} | {"log": caplog.text.encode()}
    assert b"operation.accepted" in b"".join(places.values())
    assert [(str(place), word) for place, content in places.items() for word in words if word in content] == []
    assert [str(path) for path, content in places.items() if b"PRIVATE KEY" in content] == []


@pytest.mark.parametrize("defaults", [{}, local_defaults("/nowhere")], ids=["upstream", "one machine"])
def test_heartbeats_are_received_on_loopback_unless_configured(defaults: dict[str, dict[str, object]]) -> None:
    settings = Settings.load(("test", defaults), ("test", {"health_manager": {"bind_port": 0}}))
    with bind_receiver(settings) as receiver:
        assert receiver.getsockname()[0] == "127.0.0.1"
