"""The life of an amphora with the unmodified agent of upstream Octavia 19, led by our driver over mutual TLS.

The tests go through one life, in the order of this file.
"""

from __future__ import annotations

import functools
import socket
import ssl

import attrs
import pytest
import trustme

from octavia_core.domain.amphora import Amphora, VrrpGroup
from octavia_core.domain.heartbeat import BadPacket, Heartbeat, decode
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import AmphoraStatus, Role
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, PermanentError
from octavia_core.flows import networks
from octavia_core.flows.world import World
from octavia_core.policy.plugs import member_subnets
from octavia_core.ports.amphora import Delivery, VrrpDelivery
from octavia_core.ports.network import PluggedNetwork, VipPlug
from octavia_haproxy.client import InterfaceRule
from octavia_haproxy.driver import HaproxyDriver
from tests.peers.amphora_agent.conftest import logged
from tests.peers.amphora_agent.lab import AMPHORA_ID, KEY, MEMBERS, VIP, VIP6, VIPS, VRRP
from tests.peers.octavia_api.programs import until
from tests.support.running import ask

MORE = {"ip_address": VIP6, "subnet_cidr": "fd00:198:51:100::/64", "gateway": None, "host_routes": []}
"""What a network driver says of an additional VIP."""


def vip_plug(machine):
    """What a network driver says of the VIP's port."""
    return VipPlug(
        port_id="vip", mac_address=machine.mac("vip"), vip=VIP, subnet_cidr=f"{VIPS}.0/24", gateway=f"{VIPS}.1",
        vrrp_ip=VRRP, mtu=1500, additional_vips=(MORE,),
    )  # fmt: skip


def heard(receiver, wanted) -> Heartbeat:
    """The next heartbeat that is as wanted; each one has to be ours, and readable."""
    found: list[Heartbeat] = []

    def look():
        found[:] = [beat for beat in (decode(packet, [KEY]) for packet in receiver.batch()) if wanted(beat)]
        return found

    until("a heartbeat says so", look)
    return found[-1]


def statuses(beat: Heartbeat) -> dict[str, str]:
    """Members of all pools."""
    return {id: status for report in beat.pools.values() for id, status in report.members.items()}


def test_the_agent_answers_as_the_amphora_it_was_booted_as(machine, driver):
    info = driver.info(machine.at)
    assert info.api_version == "1.0"
    assert info.hostname == "amphora-amphora11"
    assert info.haproxy_version


def test_a_controller_without_certificate_gets_no_word_out_of_it(machine, settings, driver):
    context = ssl.create_default_context(cafile=settings.haproxy_amphora.server_ca)
    before = logged(machine, driver)
    with (
        socket.create_connection((machine.at.host, machine.at.port), timeout=20) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate required|handshake failure"),
        context.wrap_socket(plain, server_hostname=AMPHORA_ID) as secure,
    ):
        secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
        secure.recv(100)
    assert logged(machine, driver) == before


def test_a_controller_of_another_authority_is_refused(machine, settings, tmp_path):
    stranger = trustme.CA().issue_cert("controller.test")
    (tmp_path / "stranger.pem").write_bytes(stranger.cert_chain_pems[0].bytes() + stranger.private_key_pem.bytes())
    other = attrs.evolve(
        settings, haproxy_amphora=attrs.evolve(settings.haproxy_amphora, client_cert=str(tmp_path / "stranger.pem"))
    )
    foreign = HaproxyDriver(other)
    with pytest.raises(AmphoraRefused, match="does not accept this controller"):
        foreign.info(machine.at)
    foreign.close()


def test_an_amphora_that_is_idle_sends_heartbeats_that_our_receiver_accepts(machine, heartbeats):
    packets: list[bytes] = []
    until("heartbeats come", lambda: packets.extend(heartbeats.batch()) or packets)
    beat = decode(packets[0], [KEY])
    assert (beat.amphora_id, beat.version, dict(beat.listeners)) == (AMPHORA_ID, 3, {})
    with pytest.raises(BadPacket):
        decode(packets[0], ["another key"])


def test_its_details_are_read(machine, driver):
    details = driver._agent(machine.at).details()
    assert details.cpu_count > 0
    assert details.free_memory_kb


def test_the_vip_is_plugged_and_found_by_its_address(machine, driver):
    agent = driver._agent(machine.at)
    assert agent.interface(VRRP) is None
    plug = vip_plug(machine)
    with pytest.raises(AmphoraUnreachable, match="No suitable network interface found"):
        driver.plug_vip(machine.at, plug)  # the cable is not there yet
    machine.plug("vip", "br-vip")
    driver.plug_vip(machine.at, plug)
    driver.plug_vip(machine.at, plug)  # again is success
    assert agent.interface(VRRP) == driver.interface(machine.at, VIP) == agent.interface(VIP6) == "eth1"


class Cables:
    """NetworkPort, as far as members are concerned: a plug is a cable of the laboratory."""

    time_limit = 10.0
    plugs_members = True
    one_holder = False

    def __init__(self, machine):
        self.machine = machine
        self.ports = [self.port("vip", VRRP)]

    def port(self, kind, address):
        fixed = {"ip_address": address, "subnet_id": kind, "subnet_cidr": f"{address.rpartition('.')[0]}.0/24"}
        mac = self.machine.mac(kind)
        return PluggedNetwork(network_id=kind, port_id=kind, mac_address=mac, fixed_ips=(fixed,), mtu=1500)

    def plugged(self, amphora):
        return tuple(self.ports)

    def plug_member_networks(self, load_balancer, amphora):
        if "member" not in member_subnets(load_balancer):
            return ()
        self.machine.plug("member", "br-member")
        self.ports.append(self.port("member", f"{MEMBERS}.11"))
        return tuple(self.ports[1:])


def test_before_a_push_it_is_plugged_into_its_members_network_and_what_the_agent_lost_is_told_again(
    machine, driver, settings, authority, tree
):
    cables = Cables(machine)
    world = World(
        compute=None, network=cables, amphora=driver, certificates=None, issuer=authority, settings=settings, clock=None
    )
    amphora = Amphora(
        id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED, lb_network_ip=machine.at.host, vrrp_ip=VRRP, vrrp_port_id="vip"
    )

    def prepare(tree):
        return networks.prepare(lambda seconds: None, world, amphora, tree, first=False)

    assert prepare(tree).plugged == ()
    elsewhere, *_ = tree.pools
    unknown = attrs.evolve(elsewhere, members=tuple(attrs.evolve(m, subnet_id="nowhere") for m in elsewhere.members))
    with pytest.raises(PermanentError, match=r"is not plugged into subnet nowhere of .*the network did not plug it"):
        prepare(attrs.evolve(tree, pools=(unknown,)))
    remote = attrs.evolve(elsewhere, members=tuple(attrs.evolve(m, subnet_id="member") for m in elsewhere.members))
    assert prepare(attrs.evolve(tree, pools=(remote,))).plugged == ("member",)
    assert driver.interface(machine.at, f"{MEMBERS}.11") == "eth2"
    machine.inside("ip", "address", "flush", "dev", "eth2")
    assert driver.interface(machine.at, f"{MEMBERS}.11") is None
    assert prepare(attrs.evolve(tree, pools=(remote,))).plugged == ()
    assert driver.interface(machine.at, f"{MEMBERS}.11") == "eth2"
    cables.ports.clear()
    with pytest.raises(PermanentError, match=f"amphora {AMPHORA_ID} is not on the network of VIP {VIP} any more"):
        prepare(tree)


def test_a_first_push_makes_it_serve_http_and_https_through_its_vips(push, tree, machine, signer, members):
    pushed, sent = push(tree)
    assert pushed.changed
    assert (pushed.skipped_listeners, pushed.kept_listeners) == ((), ())
    assert [words.split()[0] for words in sent].count("PUT") == 5  # certificate, list, configuration, reload, mark
    names = {member.name for member in members}
    until("a member answers", lambda: ask(VIP, 80).status == 200)
    assert {ask(VIP, 80, "/plain").member for _ in range(4)} == names
    trusted = ssl.create_default_context(cadata=signer.pem)
    answer = ask(VIP, 443, "/secure", tls=trusted, name="www.test")
    assert (answer.status, answer.echo["path"]) == (200, "/secure")
    asked = f"import urllib.request; print(urllib.request.urlopen('http://[{VIP6}]:80/', timeout=20).status)"
    assert machine.inside("python3", "-c", asked).strip() == "200"  # by the additional VIP


def test_the_same_push_again_only_reads_back(push, tree):
    pushed, sent = push(tree)
    assert not pushed.changed
    assert {words.split()[0] for words in sent} == {"GET"}
    assert len(sent) == 4  # configuration, listeners, info, note of what runs


def test_a_change_of_a_member_sends_the_configuration_and_no_certificate(push, tree, driver, machine, members):
    first, second = tree.pools[0].members
    lighter = attrs.evolve(tree.pools[0], members=(first, attrs.evolve(second, weight=0)))
    pushed, sent = push(attrs.evolve(tree, pools=(lighter,)))
    assert pushed.changed
    puts = [words.rpartition("/")[2] for words in sent if words.startswith("PUT")]
    assert puts == ["haproxy", "reload", "octavia-applied.pem"]
    until("the new process answers alone", lambda: {ask(VIP, 80).member for _ in range(4)} == {members[0].name})
    assert push(tree)[0].changed  # back


def test_heartbeats_say_what_it_serves_and_which_member_is_down(push, tree, heartbeats, members):
    push(tree)
    first, second = members
    ids = {listener.id for listener in tree.listeners}
    beat = heard(heartbeats, lambda beat: len(statuses(beat)) == 2 and set(statuses(beat).values()) == {"UP"})
    assert set(beat.listeners) == ids
    assert {report.status for report in beat.listeners.values()} == {"OPEN"}
    assert all(report.status == "UP" for report in beat.reports_by_pool().values())
    second.healthy = False
    heard(heartbeats, lambda beat: statuses(beat) == {first.name: "UP", second.name: "DOWN"})
    assert {ask(VIP, 80).member for _ in range(4)} == {first.name}
    second.healthy = True
    heard(heartbeats, lambda beat: statuses(beat) == {first.name: "UP", second.name: "UP"})
    ask(VIP, 80)
    counted = heard(heartbeats, lambda beat: any(report.totconns for report in beat.listeners.values()))
    assert counted.deltas


def test_a_configuration_that_haproxy_refuses_is_refused_in_its_words_and_the_old_one_serves_on(machine, driver, tree):
    agent = driver._agent(machine.at)
    before = agent.configuration(tree.id)
    with pytest.raises(AmphoraRefused, match="unknown keyword 'nonsense'") as refused:
        agent.upload_configuration(tree.id, "global\n  nonsense\n")
    assert refused.value.status == 400
    assert agent.configuration(tree.id) == before
    assert ask(VIP, 80).status == 200


def test_it_is_stopped_and_started_and_says_which_listeners_it_has(machine, driver, tree):
    agent = driver._agent(machine.at)
    agent.stop(tree.id)
    with pytest.raises(OSError, match="refused"):
        ask(VIP, 80)
    agent.start(tree.id)
    until("it serves again", lambda: ask(VIP, 80).status == 200)
    found = {entry.uuid: (entry.status, entry.type) for entry in agent.listeners()}
    plain, secure = tree.listeners
    assert found == {plain.id: ("ACTIVE", "HTTP"), secure.id: ("ACTIVE", "TERMINATED_HTTPS")}


def test_a_renewed_certificate_of_a_listener_is_sent_and_the_old_one_deleted(
    machine, driver, push, tree, material, signer
):
    renewed = attrs.evolve(material, bundles={"secret/www": signer.issue("new.test")})
    amphora = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED)
    assert driver.push(machine.at, Delivery(load_balancer=tree, amphora=amphora, material=renewed)).changed
    trusted = ssl.create_default_context(cadata=signer.pem)
    until("it is shown", lambda: _answers(functools.partial(ask, VIP, 443, tls=trusted, name="new.test")))
    files = machine.inside("ls", f"/var/lib/octavia/certs/{tree.id}", namespace=False).split()
    assert len(files) == 3  # the certificate, the list of the listener, our mark


def _answers(request) -> bool:
    try:
        return bool(request().status == 200)
    except ssl.SSLError:
        return False


def test_the_agent_takes_a_new_certificate_of_its_own_and_shows_it_at_once(machine, driver, authority, settings):
    fresh = authority.issue(AMPHORA_ID).server_pem
    driver.rotate_certificate(machine.at, fresh)
    driver.close()  # kept connections are of before
    context = ssl.create_default_context(cafile=settings.haproxy_amphora.server_ca)
    context.load_cert_chain(settings.haproxy_amphora.client_cert)
    with (
        socket.create_connection((machine.at.host, machine.at.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=AMPHORA_ID) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert ssl.DER_cert_to_PEM_cert(shown).strip() in fresh.reveal().decode()
    assert driver.info(machine.at).api_version == "1.0"


def test_the_agent_takes_new_settings_and_signs_its_heartbeats_with_the_new_key(
    machine, settings, identity, heartbeats
):
    newer = attrs.evolve(settings, health_manager=attrs.evolve(settings.health_manager, heartbeat_key=Secret("newer")))
    other = HaproxyDriver(newer)
    other.update_agent(machine.at, identity)
    other.close()

    def signed_anew():
        for packet in heartbeats.batch():
            try:
                return decode(packet, ["newer"])
            except BadPacket:
                decode(packet, [KEY])
        return None

    until("a heartbeat is signed with the new key", signed_anew)


def test_a_udp_listener_is_stored_read_back_and_deleted(machine, driver):
    agent = driver._agent(machine.at)
    assert agent.udp_listener("0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01") is None
    text = "net_namespace amphora-haproxy\n"
    agent.upload_udp_listener("0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01", text)
    assert agent.udp_listener("0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01") == text
    agent.remove("0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01")
    assert agent.udp_listener("0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01") is None


def test_without_listeners_nothing_is_left_and_deleting_again_is_success(machine, driver, push, tree):
    pushed, _ = push(attrs.evolve(tree, listeners=(), pools=()))
    assert pushed.changed
    driver.remove(machine.at, tree.id)
    assert driver._agent(machine.at).configuration(tree.id) is None
    assert driver._agent(machine.at).listeners() == ()
    with pytest.raises(OSError, match="refused"):
        ask(VIP, 80)


def test_keepalived_is_configured_started_and_stopped(machine, driver, tree):
    here = Amphora(
        id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED, vrrp_ip=VRRP, ha_ip=VIP, vrrp_interface="eth1", vrrp_id=1,
        vrrp_priority=90, role=Role.BACKUP,
    )  # fmt: skip
    there = attrs.evolve(here, id="another", vrrp_ip=f"{VIPS}.12", role=Role.MASTER, vrrp_priority=100)
    delivery = VrrpDelivery(
        load_balancer=tree,
        amphora=here,
        peers=(there,),
        group=VrrpGroup(load_balancer_id=tree.id, name="one", auth_pass=Secret("test")),
        subnet=vip_plug(machine),
    )
    driver.start_vrrp(machine.at, delivery)
    before = len(logged(machine, driver))
    driver.start_vrrp(machine.at, delivery)  # what it has is not sent again
    assert not [words for words in logged(machine, driver)[before:] if words.endswith("upload")]
    assert machine.inside("ps", "-C", "keepalived", "-o", "comm=", namespace=False).split()
    driver.stop_vrrp(machine.at)


def test_firewall_rules_close_what_is_not_named(machine, driver):
    agent = driver._agent(machine.at)
    assert not agent.upload_rules(f"{VIPS}.77", [])  # nobody has that address
    for _ in range(2):  # an agent without rules takes the first call for the base alone
        assert agent.upload_rules(VRRP, [InterfaceRule(protocol="TCP", port=80, cidr=f"{VIPS}.0/24")])
    rules = machine.inside("nft", "list", "ruleset")
    assert "policy drop" in rules
    assert f"ip saddr {VIPS}.0/24 tcp dport 80 accept" in rules
