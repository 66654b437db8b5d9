"""How UDP and SCTP listeners are delivered: each a file and a service of its own, beside HAProxy's."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import HealthMonitor, Member, SessionPersistence
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import AmphoraRefused, TransientError
from octavia_core.ports.amphora import Delivery
from octavia_haproxy.datagrams import note_of
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, Reply, controller_settings
from tests.support.trees import listener, load_balancer, pool

AMPHORA = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED)
ID = "0a0a0a0a-1111-4222-8333-444444444444"
LISTED = "GET /1.0/listeners"
STORED = "GET /1.0/listeners/dns/udp_listener"
UPLOAD = f"PUT /1.0/listeners/{AMPHORA_ID}/dns/udp_listener"
RELOAD = "PUT /1.0/loadbalancer/dns/reload"
REMOVE = "DELETE /1.0/listeners/dns"
NOTED, NOTE, UNNOTE = (f"{m} /1.0/loadbalancer/{ID}/certificates/{note_of('dns')}" for m in ("GET", "PUT", "DELETE"))


@pytest.fixture
def agent():
    with Agent() as found:
        yield found


@pytest.fixture
def driver(agent, tmp_path):
    made = HaproxyDriver(controller_settings(agent, tmp_path))
    yield made
    made.close()


def dns(*, pool_options=None, protocol=ListenerProtocol.UDP, **options):
    members = (
        Member(id="m1", address="10.0.0.1", protocol_port=53),
        Member(id="m2", address="10.0.0.2", protocol_port=53),
    )
    monitor = HealthMonitor(id="hm", type=MonitorType.UDP_CONNECT)
    kind = PoolProtocol(str(protocol))
    made = {"id": "p", "protocol": kind, "members": members, "health_monitor": monitor} | (pool_options or {})
    p = pool(**made)
    return listener(p, protocol, id="dns", protocol_port=53, **options), p


def delivery(*parts, **options):
    listeners = [one for one in parts if hasattr(one, "protocol_port")]
    pools = [one for one in parts if not hasattr(one, "protocol_port")]
    lb = attrs.evolve(load_balancer(listeners, id=ID), pools=tuple(pools), **options)
    return Delivery(load_balancer=lb, amphora=AMPHORA)


def udp_requests(agent):
    """Those about UDP: not HAProxy's."""
    return [words for words in agent.requests() if "dns" in words or words == LISTED]


def test_it_is_uploaded_started_seen_to_run_read_back_and_noted_beside_haproxy(agent, driver):
    web = pool()
    pushed = driver.push(agent.at, delivery(*dns(), listener(web), web))
    assert (pushed.changed, pushed.skipped_listeners) == (True, ())
    # twice: a service that ends at once may be seen in between
    assert udp_requests(agent) == [LISTED, UPLOAD, RELOAD, LISTED, LISTED, STORED, NOTE]
    assert "udp_check.sh 10.0.0.1 53" in agent.loaded["dns"]
    assert "frontend" in agent.loaded[ID]
    assert "dns" not in agent.loaded[ID]
    again = driver.push(agent.at, delivery(*dns(), listener(web, id="other"), web))
    assert again.etag != pushed.etag
    assert udp_requests(agent) == [LISTED, STORED, NOTED]


@pytest.mark.feature(
    "listener.protocol=SCTP", "pool.protocol=SCTP", "health_monitor.type=SCTP",
    library="needs keepalived with ip_vs: the file is shown; local amphorae refuse it by name",
)  # fmt: skip
def test_sctp_goes_the_same_way(agent, driver):
    monitor = HealthMonitor(id="hm", type=MonitorType.SCTP)
    sent = dns(protocol=ListenerProtocol.SCTP, pool_options={"health_monitor": monitor})
    assert driver.push(agent.at, delivery(*sent)).changed
    assert "protocol SCTP" in agent.loaded["dns"]
    assert "amphora-health-checker sctp" in agent.loaded["dns"]


def test_a_change_is_sent_and_loaded_and_one_look_is_enough_for_what_ran(agent, driver):
    driver.push(agent.at, delivery(*dns()))
    agent.requests()
    sticky = SessionPersistence(
        type=PersistenceType.SOURCE_IP, persistence_timeout=77, persistence_granularity="255.255.0.0"
    )
    assert driver.push(agent.at, delivery(*dns(pool_options={"session_persistence": sticky}))).changed
    assert udp_requests(agent) == [LISTED, STORED, NOTED, UNNOTE, UPLOAD, RELOAD, LISTED, STORED, NOTE]
    assert "persistence_timeout 77" in agent.loaded["dns"]
    assert "persistence_granularity 255.255.0.0" in agent.loaded["dns"]


def test_the_same_again_sends_nothing_and_what_was_cut_off_before_the_reload_is_loaded(agent, driver):
    wanted = delivery(*dns())
    first = driver.push(agent.at, wanted)
    agent.requests()
    second = driver.push(agent.at, wanted)
    assert (second.changed, second.etag) == (False, first.etag)
    assert udp_requests(agent) == [LISTED, STORED, NOTED]
    del agent.files[ID, note_of("dns")]
    assert driver.push(agent.at, wanted).changed
    assert udp_requests(agent) == [LISTED, STORED, NOTED, RELOAD, LISTED, STORED, NOTE]


def test_what_is_no_longer_wanted_is_removed_with_its_note(agent, driver):
    web = pool()
    driver.push(agent.at, delivery(*dns(), listener(web), web))
    agent.requests()
    assert driver.push(agent.at, delivery(listener(web), web)).changed
    assert udp_requests(agent)[:3] == [LISTED, REMOVE, UNNOTE]
    assert (agent.udp, [name for _, name in agent.files if "udp" in name]) == ({}, [])
    driver.push(agent.at, delivery(*dns(), listener(web), web))
    driver.remove(agent.at, ID)
    assert (agent.udp, agent.configurations) == ({}, {})


def test_one_being_deleted_is_removed_and_a_disabled_one_stays_without_addresses(agent, driver):
    driver.push(agent.at, delivery(*dns()))
    driver.push(agent.at, delivery(*dns(enabled=False)))
    assert "# Listener dns is disabled" in agent.loaded["dns"]
    assert "virtual_server" not in agent.loaded["dns"]
    driver.push(agent.at, delivery(*dns(provisioning_status=Provisioning.PENDING_DELETE)))
    assert agent.udp == {}


def test_a_service_that_does_not_stay_is_removed_and_said_and_haproxy_is_served(agent, driver):
    """As upstream's agent on a kernel without ip_vs: it accepts everything, and nothing runs."""
    agent.lvs = False
    web = pool()
    pushed = driver.push(agent.at, delivery(*dns(), listener(web), web))
    assert pushed.skipped_listeners == ("dns",)
    assert "ip_vs" in pushed.reasons["dns"]
    assert agent.udp == {}
    assert ID in agent.loaded


def test_a_refusal_of_a_new_listener_is_its_reason_and_that_of_a_change_fails_the_push(agent, driver):
    refusal = Reply(400, {"message": "Invalid request", "details": "no such thing here"})
    agent.answers[UPLOAD] = refusal
    pushed = driver.push(agent.at, delivery(*dns()))
    assert (pushed.skipped_listeners, dict(pushed.reasons)) == (("dns",), {"dns": "no such thing here"})
    agent.answers.clear()
    driver.push(agent.at, delivery(*dns()))
    served = agent.udp["dns"]
    agent.answers[UPLOAD] = refusal
    with pytest.raises(AmphoraRefused, match="no such thing here"):
        driver.push(agent.at, delivery(*dns(connection_limit=5)))
    assert agent.udp["dns"] == served


def test_another_file_than_was_sent_is_noticed(agent, driver):
    agent.before_answer = lambda asked: agent.udp.update(dns="another") if str(asked) == RELOAD else None
    with pytest.raises(TransientError, match="holds another configuration of listener dns"):
        driver.push(agent.at, delivery(*dns()))


def test_its_file_is_shown_with_the_others(agent, driver):
    files = dict(driver.render(delivery(*dns())))
    assert "virtual_server group ipv4-group" in files["octavia-keepalivedlvs-dns.conf"]


SIX = tuple(Member(id=f"six{n}", address=f"2001:db8::{n}", protocol_port=53) for n in (1, 2))


def test_a_listener_that_no_member_can_serve_is_said_and_haproxy_is_served(agent, driver):
    """The VIP is IPv4, and datagrams do not change their family: it would be ACTIVE and silent."""
    web = pool()
    pushed = driver.push(agent.at, delivery(*dns(pool_options={"members": SIX}), listener(web), web))
    assert pushed.skipped_listeners == ("dns",)
    assert "UDP goes to members of the VIP's address family only, and 2001:db8::1 is IPv6" in pushed.reasons["dns"]
    assert (agent.udp, "frontend" in agent.loaded[ID]) == ({}, True)
    some = (*SIX, Member(id="m1", address="10.0.0.1", protocol_port=53))
    assert driver.push(agent.at, delivery(*dns(pool_options={"members": some}))).skipped_listeners == ()


def test_networks_are_named_only_to_an_agent_that_filters_by_itself(agent, driver):
    """Upstream's would restart keepalived for a comment."""
    networks = ("10.8.0.0/16", "10.1.0.0/16")
    driver.push(agent.at, delivery(*dns(allowed_cidrs=networks)))
    assert "10.8" not in agent.loaded["dns"]
    agent.answers["GET /1.0/info"] = Reply(
        200, {"api_version": "1.0", "hostname": "h", "haproxy_version": "2.8.25", "offers": ["apply"]}
    )
    driver.push(agent.at, delivery(*dns(allowed_cidrs=networks)))
    said = [line for line in agent.loaded["dns"].splitlines() if "network" in line]
    assert said == ["# Allowed network 10.1.0.0/16", "# Allowed network 10.8.0.0/16"]
    agent.requests()
    driver.push(agent.at, delivery(*dns(allowed_cidrs=networks)))
    assert udp_requests(agent) == [LISTED, STORED, NOTED]
