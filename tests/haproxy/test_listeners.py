"""Listeners, shown by requests through HAProxy."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.request
from contextlib import ExitStack

import attrs
import pytest

from octavia_core.domain.tree import Member, Vip
from octavia_core.domain.vocabulary import ListenerProtocol, PoolProtocol, Provisioning
from octavia_core.errors import PermanentError
from octavia_core.settings import HaproxyAmphora
from tests.support.running import PATIENCE, Echo, ask, check, materialise, running
from tests.support.trees import PORT, behind, listener, load_balancer, pool

pytestmark = pytest.mark.usefixtures("served_by")


def refused(address, port):
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        return client.connect_ex((address, port)) != 0


@pytest.mark.feature(
    "listener.protocol=HTTP", "listener.protocol_port", "listener.default_pool_id", "load_balancer.vip"
)
def test_an_http_listener_passes_requests_to_its_pool():
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p), p)) as served:
            found = ask(served.address, PORT, "/a?b=c", headers=[("X-Own", "ü")])
            assert (found.status, found.member, found.echo["path"]) == (200, "m", "/a?b=c")
            assert found.echo["headers"]["x-own"]


@pytest.mark.feature("listener.protocol=TCP", "pool.protocol=TCP")
def test_a_tcp_listener_passes_bytes():
    with Echo("m") as member:
        p = pool(behind(member), PoolProtocol.TCP)
        with running(load_balancer(listener(p, ListenerProtocol.TCP), p)) as served:
            assert ask(served.address, PORT).member == "m"


def test_a_tcp_listener_may_have_an_http_pool():
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p, ListenerProtocol.TCP), p)) as served:
            assert ask(served.address, PORT).member == "m"


@pytest.mark.feature("listener.protocol=HTTPS", "pool.protocol=HTTPS")
def test_an_https_listener_passes_tls_through_to_the_member(authority):
    context = authority.server_context(authority.issue("member.test"))
    with Echo("m", tls=context) as member:
        p = pool(behind(member), PoolProtocol.HTTPS)
        with running(load_balancer(listener(p, ListenerProtocol.HTTPS), p)) as served:
            assert ask(served.address, PORT, tls=authority.client_context(), name="member.test").member == "m"


@pytest.mark.feature("listener.protocol=PROMETHEUS", library="`tests/main_job/test_balancing.py`")
def test_a_prometheus_listener_reaches_the_exporter_by_way_of_the_image_s_proxy(tmp_path):
    lb = load_balancer(listener(protocol=ListenerProtocol.PROMETHEUS))
    text = materialise(lb, tmp_path).text
    assert check(lb) == ""
    assert "default_backend prometheus-exporter-internal\n" in text
    assert "server prometheus-internal 127.0.0.1:9102\n" in text
    # the inner endpoint itself, on a port of its own so that tests can run side by side
    own = "{}:9101".format
    with running(lb, replacing={"127.0.0.1:9101": own, "127.0.0.1:9102": own}) as served:
        with urllib.request.urlopen(f"http://{served.address}:{PORT}/metrics", timeout=PATIENCE) as answer:
            assert b"haproxy_process_" in answer.read()
        assert ask(served.address, PORT, "/other").status in (403, 502)


@pytest.mark.feature("load_balancer.additional_vips")
def test_additional_vips_are_served_too():
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p), p), additional=True) as served:
            assert ask(served.address, PORT).member == "m"
            assert ask(served.additional, PORT).member == "m"


def test_an_ipv6_vip_is_accepted(tmp_path):
    lb = load_balancer(listener(), vip=Vip(ip_address="::1"))
    assert f"    bind ::1:{PORT}\n" in materialise(lb, tmp_path).text
    assert check(lb) == ""


def test_a_listener_without_pool_answers_503():
    with running(load_balancer(listener())) as served:
        assert ask(served.address, PORT).status == 503


@pytest.mark.feature("listener.enabled", "load_balancer.enabled", "pool.enabled", "load_balancer.listeners")
def test_what_is_disabled_is_not_served():
    with Echo("m") as member:
        p = pool(behind(member))
        on, off = listener(p), listener(p, protocol_port=PORT + 1, enabled=False)
        with running(load_balancer([on, off], p)) as served:
            assert ask(served.address, PORT).member == "m"
            assert refused(served.address, PORT + 1)
        with running(load_balancer(on, p, enabled=False)) as served:
            assert refused(served.address, PORT)
        with running(load_balancer(on, attrs.evolve(p, enabled=False))) as served:
            assert ask(served.address, PORT).status == 503


@pytest.mark.feature("listener.allowed_cidrs")
def test_clients_of_networks_that_are_not_allowed_are_turned_away(served_by, tmp_path):
    network = "127.0.4.0/24" if served_by == "library" else "127.0.4.7/24"  # a wish has to be exact
    with Echo("m") as member:
        for protocol, inner in ((ListenerProtocol.HTTP, PoolProtocol.HTTP), (ListenerProtocol.TCP, PoolProtocol.TCP)):
            p = pool(behind(member), inner)
            guarded = listener(p, protocol, allowed_cidrs=(network, "127.0.6.1/32"))
            with running(load_balancer(guarded, p)) as served:
                for source in ("127.0.4.1", "127.0.4.250", "127.0.6.1"):
                    assert ask(served.address, PORT, source=source).member == "m"
                for source in ("127.0.5.1", "127.0.6.2"):
                    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                        ask(served.address, PORT, source=source)
    many = listener(allowed_cidrs=tuple(f"10.{n // 250}.{n % 250}.0/24" for n in range(1000)))
    assert check(load_balancer(many)) == ""
    with pytest.raises(PermanentError, match=r"allowed_cidrs '10\.0\.0\.0/33' is not a network"):
        materialise(load_balancer(listener(allowed_cidrs=("10.0.0.0/33",))), tmp_path)


@pytest.mark.feature("listener.insert_headers")
def test_headers_are_inserted_for_members(served_by):
    wanted = {"X-Forwarded-For": "true", "X-Forwarded-Port": "True", "X-Forwarded-Proto": "TRUE"}
    if served_by != "library":  # which refuses such a wish
        wanted["X-Unknown"] = "true"
    with Echo("m") as member:
        p = pool(behind(member))
        one = listener(p, insert_headers=wanted)
        two = listener(p, insert_headers=dict.fromkeys(wanted, "false"), protocol_port=PORT + 1)
        with running(load_balancer([one, two], p)) as served:
            seen = ask(served.address, PORT, headers=[("X-Forwarded-Proto", "forged")]).echo["headers"]
            assert seen["x-forwarded-for"] == "127.0.0.1"
            assert seen["x-forwarded-port"] == str(PORT)
            assert seen["x-forwarded-proto"] == "http"
            assert "x-unknown" not in seen
            assert not [name for name in ask(served.address, PORT + 1).echo["headers"] if name.startswith("x-")]


@pytest.mark.feature("listener.connection_limit")
def test_connections_beyond_the_limit_wait():
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p, connection_limit=1), p)) as served, ExitStack() as stack:
            first, second = (
                stack.enter_context(socket.create_connection((served.address, PORT), timeout=PATIENCE))
                for _ in range(2)
            )
            first.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert first.recv(12) == b"HTTP/1.1 200"
            second.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            second.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.recv(1)
            first.close()
            second.settimeout(PATIENCE)
            assert second.recv(12) == b"HTTP/1.1 200"


def test_connection_limits_are_summed_and_unlimited_means_the_default(tmp_path):
    listeners = [listener(connection_limit=7), listener(protocol_port=1), listener(protocol_port=2, enabled=False)]
    text = materialise(load_balancer(listeners), tmp_path).text
    assert text.count("    maxconn 207\n") == 1  # the default of these tests is 200
    assert "    maxconn 7\n" in text
    assert "    maxconn 200\n" in text


def test_timeouts_of_the_listener_or_else_of_the_settings(tmp_path):
    p = pool()
    own = listener(p, timeout_client_data=1001, timeout_member_connect=1002, timeout_member_data=1003)
    text = materialise(load_balancer(own, p), tmp_path).text
    for line in ("timeout client 1001", "timeout connect 1002", "timeout server 1003"):
        assert f"    {line}\n" in text
    text = materialise(
        load_balancer(attrs.evolve(own, timeout_client_data=0, timeout_member_data=None), p), tmp_path
    ).text
    defaults = HaproxyAmphora()
    assert f"    timeout client {defaults.timeout_client_data}\n" in text
    assert f"    timeout server {defaults.timeout_member_data}\n" in text


@pytest.mark.feature("listener.timeout_member_data")
def test_a_member_that_says_nothing_for_too_long_ends_the_request():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        p = pool([Member(id="silent", address="127.0.0.1", protocol_port=silent.getsockname()[1])])
        with running(load_balancer(listener(p, timeout_member_data=100), p)) as served:
            assert ask(served.address, PORT).status == 504


@pytest.mark.feature("listener.timeout_client_data")
def test_a_client_that_says_nothing_for_too_long_is_let_go():
    with (
        running(load_balancer(listener(timeout_client_data=100))) as served,
        socket.create_connection((served.address, PORT), timeout=PATIENCE) as client,
    ):
        client.sendall(b"GET / HTTP")
        assert client.recv(12) in (b"HTTP/1.1 408", b"")


@pytest.mark.feature("listener.timeout_member_connect")
def test_a_member_that_never_answers_is_given_up_in_time():
    """One listener gives up soon, the other one not: the first has told its client while the second still waits."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # what fills its backlog; who comes then gets no answer at all
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        p = pool([Member(id="full", address="127.0.0.1", protocol_port=full.getsockname()[1])])
        soon = listener(p, timeout_member_connect=50)
        late = listener(p, timeout_member_connect=600_000, protocol_port=PORT + 1)
        with (
            running(load_balancer([soon, late], p)) as served,
            socket.create_connection((served.address, PORT + 1), timeout=PATIENCE) as patient,
        ):
            patient.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert ask(served.address, PORT).status == 503
            patient.setblocking(False)
            with pytest.raises(BlockingIOError):
                patient.recv(1)


INSPECTS = "    tcp-request content accept if { req.len gt 0 }\n    tcp-request content reject\n"
"""Rules that cannot be decided before the client has said something. The API has none: these are an operator's own."""


@pytest.mark.feature("listener.timeout_tcp_inspect", library="no object of the API is a rule that inspects")
@pytest.mark.parametrize(("delay", "waits"), [(600_000, True), (50, False), (0, False)])
def test_a_rule_that_inspects_waits_for_a_silent_client_as_long_as_it_may(delay, waits):
    with Echo("m") as member:
        p = pool(behind(member), PoolProtocol.TCP)
        inspected = listener(p, ListenerProtocol.TCP, timeout_tcp_inspect=delay)
        other = listener(p, ListenerProtocol.TCP, protocol_port=PORT + 1)
        usual = f"    default_backend {p.id}:{inspected.id}\n"
        with (
            running(load_balancer([inspected, other], p), replacing={usual: INSPECTS + usual}) as served,
            socket.create_connection((served.address, PORT), timeout=PATIENCE) as silent,
        ):
            if not waits:
                assert silent.recv(1) == b""
                return
            assert ask(served.address, PORT + 1).member == "m"  # it has work, and takes no notice of the silent one
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.recv(1)
            silent.settimeout(PATIENCE)
            silent.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert silent.recv(12) == b"HTTP/1.1 200"


def test_the_inspect_delay_is_rendered_when_there_is_one(tmp_path):
    assert "inspect-delay" not in materialise(load_balancer(listener(timeout_tcp_inspect=0)), tmp_path).text
    lb = load_balancer(listener(timeout_tcp_inspect=250))
    assert "    tcp-request inspect-delay 250\n" in materialise(lb, tmp_path).text
    assert check(lb) == ""


def test_connections_are_logged_with_project_and_load_balancer():
    with Echo("m") as member:
        p = pool(behind(member))
        lb = load_balancer(listener(p), p, project_id="pro%ject 'x'")
        with running(lb) as served:
            ask(served.address, PORT, "/seen")
            line = served.logged()
            assert f"pro%ject 'x' {lb.id} {lb.listeners[0].id} 127.0.0.1 " in line
            assert '"GET /seen HTTP/1.1"' in line


def test_a_tcp_listener_logs_a_dash_where_a_request_would_be():
    with Echo("m") as member:
        p = pool(behind(member), PoolProtocol.TCP)
        with running(load_balancer(listener(p, ListenerProtocol.TCP), p)) as served:
            ask(served.address, PORT)
            line = served.logged()
            assert "GET" not in line
            assert re.search(r"\.\d{3} - - \d+ \d+ ", line)


def test_listeners_that_are_being_deleted_are_left_out(tmp_path):
    gone = listener(protocol_port=1, provisioning_status=Provisioning.PENDING_DELETE)
    wanted = materialise(load_balancer([listener(), gone]), tmp_path)
    assert gone.id not in wanted.text
    assert materialise(load_balancer(gone), tmp_path).text is None


def test_udp_and_sctp_listeners_are_left_out_and_reported(tmp_path):
    udp = listener(pool(protocol=PoolProtocol.UDP), ListenerProtocol.UDP)
    sctp = listener(protocol=ListenerProtocol.SCTP)
    wanted = materialise(load_balancer([udp, listener(), sctp]), tmp_path)
    assert wanted.not_haproxy == (udp.id, sctp.id)
    assert udp.id not in wanted.text
    assert sctp.id not in wanted.text


def test_a_load_balancer_without_vip_is_refused(tmp_path):
    with pytest.raises(PermanentError, match="has no VIP address yet"):
        materialise(load_balancer(listener(), vip=Vip()), tmp_path)


@pytest.mark.parametrize("address", ["10.0.0.1:80 ssl", "fe80::1%eth0", "example.com", "1.2.3", ""])
def test_an_address_that_is_none_is_refused(address, tmp_path):
    with pytest.raises(PermanentError, match=r"vip_address .* is not an IP address|has no VIP"):
        materialise(load_balancer(listener(), vip=Vip(ip_address=address)), tmp_path)


def test_ids_that_could_leave_their_place_are_refused(tmp_path):
    for bad in ("a b", "../etc", "a:b", "", "x" * 65, "a\nb", "-x"):
        with pytest.raises(PermanentError, match="may hold only"):
            materialise(load_balancer(listener(id=bad)), tmp_path)
        with pytest.raises(PermanentError, match="may hold only"):
            materialise(load_balancer(listener(), id=bad), tmp_path)


def test_there_is_no_plain_http_on_a_tls_port(authority):
    """Here, since it needs no certificate: a client that speaks TLS to a plain listener gets an error, not a hang."""
    with running(load_balancer(listener())) as served, pytest.raises(ssl.SSLError):
        ask(served.address, PORT, tls=authority.client_context(), name="a.test")
