"""The driver and the local agent together: what is pushed is what is served, over mutual TLS, by processes of their own."""

from __future__ import annotations

import ssl

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Vip
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    CompareType,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
)
from octavia_core.errors import AmphoraRefused
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.settings import HaproxyAmphora, Settings
from octavia_haproxy.driver import HaproxyDriver
from tests.local_agent.rig import Authorities, Rig
from tests.support.running import PATIENCE, Echo, ask
from tests.support.trees import PORT, behind, listener, load_balancer, new_id, pool

TLS_PORT = PORT + 1


class Side:
    """The controller's side of one agent."""

    def __init__(self, rig, folder):
        (folder / "client.pem").write_bytes(rig.authorities.controller)
        rig.authorities.agents.cert_pem.write_to_path(str(folder / "ca.pem"))
        amphora = HaproxyAmphora(
            client_cert=str(folder / "client.pem"), server_ca=str(folder / "ca.pem"), default_connection_limit=200
        )
        self.driver = HaproxyDriver(Settings(haproxy_amphora=amphora))
        self.rig = rig
        self.at = AgentAddress(amphora_id=rig.amphora_id, host=rig.facts["host"], port=rig.facts["port"])
        self.amphora = Amphora(id=rig.amphora_id, status=AmphoraStatus.ALLOCATED)

    def push(self, lb, material=None, fence=None):
        delivery = Delivery(load_balancer=lb, amphora=self.amphora, material=material or Material(), fence=fence)
        return self.driver.push(self.at, delivery)


@pytest.fixture
def side(tmp_path):
    with Rig(tmp_path / "root", Authorities()) as rig:
        rig.start()
        found = Side(rig, tmp_path)
        yield found
        found.driver.close()


def test_the_agent_says_who_it_is(side):
    found = side.driver.info(side.at)
    assert found.api_version == "1.0"
    assert found.haproxy_version.startswith(("2.", "3."))


def test_a_load_balancer_from_its_first_push_to_its_removal(side, authority):
    vip = Vip(ip_address=side.rig.vip)
    with Echo("one") as one, Echo("two") as two:
        p = pool(behind(one))
        plain = listener(p)
        lb = load_balancer(plain, p, id=side.rig.lb, vip=vip)
        assert side.push(lb).changed
        assert ask(side.rig.vip, PORT).member == "one"
        assert not side.push(lb).changed

        both = attrs.evolve(p, members=behind(one, two))
        lb = attrs.evolve(lb, pools=(both,))
        assert side.push(lb).changed
        assert {ask(side.rig.vip, PORT).member for _ in range(4)} == {"one", "two"}

        rule = L7Rule(
            id=new_id(), type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/it's a group x #"
        )
        reject = L7Policy(id=new_id(), action=L7Action.REJECT, rules=(rule,))
        secured = listener(
            both,
            ListenerProtocol.TERMINATED_HTTPS,
            protocol_port=TLS_PORT,
            tls_certificate_id="old",
            l7policies=(reject,),
        )
        lb = attrs.evolve(lb, listeners=(plain, secured))
        first, second = authority.issue("www.test"), authority.issue("www.test", common_name="second")
        assert side.push(lb, Material(bundles={"old": first})).changed
        context = authority.client_context()
        assert ask(side.rig.vip, TLS_PORT, tls=context, name="www.test").status == 200
        with pytest.raises(ssl.SSLError):
            ask(side.rig.vip, TLS_PORT, tls=context, name="other.test")

        assert side.push(lb, Material(bundles={"old": second})).changed
        assert served_certificate(side.rig.vip, context) == second.certificate
        assert not side.push(lb, Material(bundles={"old": second})).changed

        gone = side.push(lb, Material(missing={"old": "no such secret"}))
        assert (gone.changed, gone.skipped_listeners) == (False, (secured.id,))
        assert ask(side.rig.vip, TLS_PORT, tls=context, name="www.test").status == 200
        assert ask(side.rig.vip, PORT).status == 200

        side.driver.remove(side.at, lb.id)
        side.driver.remove(side.at, lb.id)
        with pytest.raises(OSError, match="refused"):
            ask(side.rig.vip, PORT)
        left = [path for path in (side.rig.root / "var/lib/octavia").rglob("*") if lb.id in str(path)]
        assert left == []


def test_a_change_is_one_request_as_long_as_the_agent_holds_what_it_was_sent(side, monkeypatch):
    asked = []
    send = side.driver._transport.send
    monkeypatch.setattr(
        side.driver._transport,
        "send",
        lambda at, request, **o: (asked.append(f"{request.method} {request.path}"), send(at, request, **o))[1],
    )
    other = HaproxyDriver(side.driver._settings)
    with Echo("one") as one, Echo("two") as two:
        p = pool(behind(one, two))
        lb = load_balancer(listener(p), p, id=side.rig.lb, vip=Vip(ip_address=side.rig.vip))

        def weighted(weight):
            members = (p.members[0], attrs.evolve(p.members[1], weight=weight))
            return attrs.evolve(lb, pools=(attrs.evolve(p, members=members),))

        def push(weight, driver=side.driver):
            asked.clear()
            delivery = Delivery(load_balancer=weighted(weight), amphora=side.amphora)
            return driver.push(side.at, delivery), len(asked)

        assert push(1)[0].changed
        assert not [
            request for request in asked if "listeners" in request
        ]  # `info` has said that there is no other kind
        pushed, requests = push(0)
        assert (pushed.changed, requests) == (True, 1)
        assert {ask(side.rig.vip, PORT).member for _ in range(4)} == {"one"}
        assert push(0) == (attrs.evolve(pushed, changed=False), 1)
        push(7, other)  # another controller, of which this one knows nothing
        pushed, requests = push(0)
        assert pushed.changed
        assert requests > 1
        assert {ask(side.rig.vip, PORT).member for _ in range(4)} == {"one"}
        side.rig.kill()
        side.rig.start()
        side.at = AgentAddress(amphora_id=side.rig.amphora_id, host=side.rig.facts["host"], port=side.rig.facts["port"])
        assert not push(0)[0].changed
    other.close()


def test_a_refused_configuration_leaves_traffic_alone_and_says_why(side):
    with Echo("one") as one:
        p = pool(behind(one))
        lb = load_balancer(listener(p), p, id=side.rig.lb, vip=Vip(ip_address=side.rig.vip))
        side.push(lb)
        ping = attrs.evolve(p, health_monitor=HealthMonitor(id=new_id(), type=MonitorType.PING))
        with pytest.raises(AmphoraRefused, match="PING health monitors"):
            side.push(attrs.evolve(lb, pools=(ping,)))
        assert ask(side.rig.vip, PORT).member == "one"
        side.push(lb)
        assert ask(side.rig.vip, PORT).member == "one"


def test_certificates_of_a_refused_configuration_are_taken_back_with_it(side, authority):
    """The list of a listener's certificates has one name, whatever it says: the one before has to be sent again."""
    secrets = Material(bundles={"one": authority.issue("one.test"), "two": authority.issue("two.test")})
    with Echo("one") as member:
        p = pool(behind(member))
        good = listener(p, ListenerProtocol.TERMINATED_HTTPS, protocol_port=TLS_PORT, tls_certificate_id="one")
        lb = load_balancer(good, p, id=side.rig.lb, vip=Vip(ip_address=side.rig.vip))
        side.push(lb, secrets)
        listed = side.rig.root / f"var/lib/octavia/certs/{lb.id}/{good.id}.pem"
        before = listed.read_text()
        bad = attrs.evolve(good, sni_container_ids=("two",), tls_ciphers="NOSUCH")
        with pytest.raises(AmphoraRefused, match=f"listener {good.id}: unable to set SSL cipher list to 'NOSUCH'"):
            side.push(attrs.evolve(lb, listeners=(bad,)), secrets)
        side.push(lb, secrets)
        assert listed.read_text() == before
        assert side.push(attrs.evolve(lb, listeners=(attrs.evolve(good, connection_limit=9),)), secrets).changed
        tls = authority.client_context()
        assert ask(side.rig.vip, TLS_PORT, tls=tls, name="one.test").member == "one"


def test_an_older_holder_of_an_operation_is_refused(side):
    lb = load_balancer(listener(), id=side.rig.lb, vip=Vip(ip_address=side.rig.vip))
    side.push(lb, fence=("operation", 2))
    with pytest.raises(AmphoraRefused, match=r"has gone on with fence 2") as caught:
        side.push(lb, fence=("operation", 1))
    assert caught.value.status == 409
    side.push(lb, fence=("another", 1))


def served_certificate(address, context):
    import socket

    with (
        socket.create_connection((address, TLS_PORT), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="www.test") as secured,
    ):
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True)).strip()
