"""A configuration that was pushed serves; changing it, and losing HAProxy, refuses nobody."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import trustme

from octavia_local.agent.sockets import Bind, HeldSockets
from octavia_local.agent.wire import Refusal
from tests.local_agent.rig import (
    PATIENCE,
    Authorities,
    Load,
    Member,
    Rig,
    Server,
    config,
    get,
    is_alive,
    loopback_address,
    members_of,
    until,
)
from tests.support.haproxies import chosen

Pair = tuple[Member, Member]


def servers(members: Pair) -> list[Server]:
    return [Server(member.name, member.port) for member in members]


def seen(rig: Rig, requests: int = 8) -> set[str]:
    return {get(rig.vip) for _ in range(requests)}


def serve(rig: Rig, wanted: set[str]) -> bool:
    """True when all of these answer, sooner or later (other requests have their turns too), and nobody else."""
    found = seen(rig)
    for _ in range(500):
        if wanted <= found:
            break
        found.add(get(rig.vip))
    return found == wanted


def respawned(rig: Rig, victim: int) -> bool:
    return rig.haproxies() not in ([], [victim]) and not is_alive(victim)


def test_a_pushed_configuration_serves_all_members(rig: Rig, members: Pair) -> None:
    answer = rig.push(config(rig, servers(members)))
    assert (answer.status, answer.json) == (
        202,
        {"message": "OK", "details": f"Configuration file is valid\nhaproxy daemon for {rig.lb} started"},
    )
    assert seen(rig) == {"one", "two"}
    again = rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/RELOAD")
    assert (again.status, again.json) == (202, {"message": "OK", "details": f"Listener {rig.lb} reloaded"})


def test_an_invalid_configuration_is_refused_and_traffic_is_untouched(rig: Rig, members: Pair) -> None:
    good = config(rig, servers(members))
    rig.push(good)
    before = rig.haproxies()
    bad = rig.push(config(rig, servers(members), frontend=["no-such-directive x"]))
    assert bad.status == 400
    assert bad.json["message"] == "Invalid request"
    number = 1 + config(rig, servers(members), frontend=["no-such-directive x"]).split("\n").index(
        "    no-such-directive x"
    )
    assert f"haproxy.cfg:{number}]" in bad.json["details"]
    assert "no-such-directive" in bad.json["details"]
    assert rig.ask("GET", f"/1.0/loadbalancer/{rig.lb}/haproxy").body == good.encode()
    assert rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/reload").status == 202
    assert rig.haproxies() == before
    assert seen(rig) == {"one", "two"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("chroot /var/empty", "'chroot' is not allowed"),
        ("lua-load /tmp/x.lua", "'lua-load' is not allowed"),
        ("external-check", "PING health monitors"),
        ("stats maxconn 10\nprogram evil\n command /bin/true", "'program' is not allowed"),
    ],
)
def test_what_is_not_run_on_a_local_amphora_is_refused_by_name(rig: Rig, members: Pair, line: str, says: str) -> None:
    answer = rig.push(config(rig, servers(members), globals=[line]))
    assert answer.status == 400
    assert says in answer.json["details"]


def test_an_ipv6_vip_is_refused_in_one_sentence(rig: Rig, members: Pair) -> None:
    rig.vip = "2001:db8::10"
    answer = rig.push(config(rig, servers(members)))
    assert answer.status == 400
    assert "IPv6" in answer.json["details"]
    assert "\n" not in answer.json["details"]


def test_an_address_that_a_dying_amphora_still_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HAProxy outlives its killed agent for a moment; the next amphora of the VIP may come sooner."""
    monkeypatch.setattr("octavia_local.agent.sockets._LET_GO_WITHIN", PATIENCE)  # for how long is not asked here
    dying = socket.create_server((loopback_address(), 0))
    host, port = dying.getsockname()
    sockets = HeldSockets(0)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(sockets.hold, [Bind(host, port)])
        dying.close()
        assert held.result(PATIENCE) == [Bind(host, port)]
    sockets.keep_only(())


def test_a_taken_address_is_refused_by_name_and_what_ran_runs_on(rig: Rig, members: Pair) -> None:
    rig.push(config(rig, servers(members)))
    with socket.socket() as other:
        other.bind((rig.vip, 0))
        other.listen()
        port = other.getsockname()[1]
        answer = rig.push(config(rig, servers(members), port=port))
        assert answer.status == 400
        assert f"{rig.vip}:{port} is already in use" in answer.json["details"]
    assert seen(rig) == {"one", "two"}
    assert rig.push(config(rig, servers(members), port=port)).status == 202
    assert get(rig.vip, port)
    with pytest.raises(ConnectionRefusedError):
        get(rig.vip)


def test_an_address_of_another_machine_is_refused(rig: Rig, members: Pair) -> None:
    rig.vip = "192.0.2.7"
    answer = rig.push(config(rig, servers(members)))
    assert (answer.status, "not one of this machine" in answer.json["details"]) == (400, True)


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_nobody_else_can_listen_on_the_vip(rig: Rig, members: Pair, option: int | None) -> None:
    rig.push(config(rig, servers(members)))
    with socket.socket() as thief:
        if option is not None:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((rig.vip, 8080))
            thief.listen()


def test_reloads_under_load_lose_nothing(rig: Rig, members: Pair) -> None:
    rig.push(config(rig, servers(members)))
    processes = {rig.haproxies()[-1]}
    with Load(rig.vip) as load:
        for number in range(12):
            answer = rig.push(config(rig, servers(members), frontend=[f"http-response set-header X-Number {number}"]))
            assert answer.status == 202
            processes.add(rig.haproxies()[-1])
            load.wait_for(10)
    assert (load.count.refused, load.failures) == (0, [])
    assert len(processes) == 13
    until(lambda: len(rig.haproxies()) == 1, "the old processes' end")


def test_members_come_go_and_change_without_a_new_process(rig: Rig, members: Pair) -> None:
    one, two = servers(members)
    rig.push(config(rig, [one], monitor=False))
    before = rig.haproxies()
    with Load(rig.vip, threads=2) as load, Member("three") as third:
        three = Server("three", third.port, weight=5)
        steps: list[tuple[list[Server], set[str]]] = [
            ([one, two], {"one", "two"}),
            ([one, two, three], {"one", "two", "three"}),
            ([two, three], {"two", "three"}),
            ([Server("two", two.port, weight=0), three], {"three"}),
            ([two, Server("three", three.port, 5, "disabled")], {"two"}),
            ([two, three], {"two", "three"}),
            ([one, two], {"one", "two"}),
        ]
        for wanted, expected in steps:
            assert rig.push(config(rig, wanted)).status == 202
            assert serve(rig, expected)
        load.wait_for(5)
    assert rig.haproxies() == before
    assert (load.count.refused, load.failures) == (0, [])
    os.kill(before[0], signal.SIGKILL)  # and a respawned process knows the last state
    until(lambda: rig.haproxies() not in ([], before), "another process")
    assert serve(rig, {"one", "two"})


def test_monitored_members_and_cookies_are_added_at_run_time_too(rig: Rig, members: Pair) -> None:
    check = "check inter 1s fall 60 rise 2"  # a machine that stands still takes none of them down
    one, two = (Server(m.name, m.port, 1, f"{check} cookie {m.name}") for m in members)
    backend = ["balance leastconn", "cookie SRV insert indirect nocache"]
    rig.push(config(rig, [one], monitor=True, backend=backend))
    before = rig.haproxies()
    assert rig.push(config(rig, [one, two], monitor=True, backend=backend)).status == 202
    assert seen(rig, 12) == {"one", "two"}
    # HAProxy 2.6 adds no member with a cookie at run time, and says so: another process does it then
    assert rig.haproxies() == before or (chosen().order < (2, 8) and "reloading, because" in rig.log)


def test_a_static_algorithm_is_reloaded_where_the_runtime_api_refuses(rig: Rig, members: Pair) -> None:
    one, two = servers(members)
    rig.push(config(rig, [one], backend=["balance source"]))
    before = rig.haproxies()
    assert rig.push(config(rig, [two], backend=["balance source"])).status == 202
    assert seen(rig) == {"two"}
    assert rig.haproxies()[-1] not in before
    assert "reloading, because" in rig.log


def test_a_member_with_an_open_connection_is_out_at_once_and_deleted_later(rig: Rig, members: Pair) -> None:
    one, two = servers(members)
    rig.push(config(rig, [one, two]))
    rig.push(config(rig, [one]))
    with socket.create_connection((rig.vip, 8080), timeout=PATIENCE) as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536)
        before = rig.haproxies()
        assert rig.push(config(rig, [two])).status == 202
        assert seen(rig) == {"two"}
        assert rig.haproxies() == before
        rig.heartbeat(lambda beat: members_of(beat).keys() == {"two"})
        assert rig.push(config(rig, [one, two])).status == 202  # and it may come back
        assert seen(rig) == {"one", "two"}


def test_a_killed_haproxy_refuses_nobody(rig: Rig, members: Pair) -> None:
    rig.push(config(rig, servers(members)))
    with Load(rig.vip) as load:
        for _ in range(5):
            victim = rig.haproxies()[-1]
            os.kill(victim, signal.SIGKILL)
            until(partial(respawned, rig, victim), "a new one")
            load.wait_for(20)
    assert load.count.refused == 0
    assert load.count.failed <= 5 * 3  # requests in flight: at most one for each thread and kill
    assert rig.process is not None
    assert rig.process.poll() is None


def test_stop_closes_the_address_and_start_opens_it_again(rig: Rig, members: Pair) -> None:
    rig.push(config(rig, servers(members)))
    answer = rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/stop")
    assert (answer.status, answer.json) == (202, {"message": "OK", "details": f"Listener {rig.lb} stoped"})
    assert rig.haproxies() == []
    with pytest.raises(ConnectionRefusedError):
        get(rig.vip)
    with socket.socket() as other:
        other.bind((rig.vip, 8080))
        other.listen()
        refused = rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/start")
        assert (refused.status, refused.json["message"]) == (500, "Error starting haproxy")
        assert "is already in use" in refused.json["details"]
    assert rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/start").status == 202
    assert seen(rig) == {"one", "two"}


def test_a_deleted_load_balancer_leaves_nothing(rig: Rig, members: Pair) -> None:
    rig.certificate("abc.pem", b"x")
    rig.push(config(rig, servers(members)))
    assert rig.ask("DELETE", f"/1.0/listeners/{rig.lb}").json == {"message": "OK"}
    assert rig.haproxies() == []
    with pytest.raises(ConnectionRefusedError):
        get(rig.vip)
    left = [path for path in (rig.root / "var/lib/octavia").rglob("*") if rig.lb in str(path)]
    assert left == []
    assert rig.ask("GET", f"/1.0/loadbalancer/{rig.lb}/haproxy").status == 404
    assert rig.ask("DELETE", f"/1.0/listeners/{rig.lb}").status == 200


def test_a_listener_without_members_and_a_load_balancer_without_listeners(rig: Rig) -> None:
    assert rig.push(config(rig, [])).status == 202
    with pytest.raises(http.client.HTTPException, match="503"):
        get(rig.vip)
    bare = "global\n    daemon\n\ndefaults\n    log global\n"
    assert rig.push(bare).status == 202  # a disabled load balancer
    rig.heartbeat(lambda beat: not beat.listeners and not beat.pools)
    with pytest.raises(ConnectionRefusedError):
        get(rig.vip)


class TestTls:
    """Listeners with certificates."""

    @staticmethod
    def pem(authority: trustme.CA, name: str) -> bytes:
        issued = authority.issue_cert(name)
        return b"".join(blob.bytes() for blob in issued.cert_chain_pems) + issued.private_key_pem.bytes()

    @staticmethod
    def served(rig: Rig, authority: trustme.CA, name: str) -> bytes:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        with (
            socket.create_connection((rig.vip, 8443), timeout=PATIENCE) as raw,
            context.wrap_socket(raw, server_hostname=name) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while chunk := secured.recv(65536):
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 200")
            return secured.getpeercert(binary_form=True) or b""

    def push(self, rig: Rig, members: Pair, *paths: str) -> int:
        crt_list = rig.certificate("listener-1.pem", "".join(f"{path}\n" for path in paths).encode())
        bind = f"ssl crt-list {crt_list} no-sslv3 no-tlsv10 no-tlsv11 alpn http/1.1"
        return rig.push(config(rig, servers(members), port=8443, bind=bind)).status

    def test_a_renewed_certificate_is_taken_over_at_run_time(
        self, rig: Rig, members: Pair, authorities: Authorities
    ) -> None:
        authority = trustme.CA()
        old = rig.certificate("0a.pem", self.pem(authority, "a.test"))
        sni = rig.certificate("0b.pem", self.pem(authority, "b.test"))
        assert self.push(rig, members, old, sni) == 202
        before, first = rig.haproxies(), self.served(rig, authority, "a.test")
        assert self.served(rig, authority, "b.test") != first
        new = rig.certificate("0c.pem", self.pem(authority, "a.test"))  # as upstream: new contents, new file name
        assert self.push(rig, members, new, sni) == 202
        assert self.served(rig, authority, "a.test") != first
        assert self.served(rig, authority, "b.test")
        assert rig.haproxies() == before
        second = self.served(rig, authority, "a.test")
        os.kill(before[0], signal.SIGKILL)
        assert self.served(rig, authority, "a.test") == second
        assert self.push(rig, members, new) == 202  # one name less is a reload
        assert rig.haproxies() != before

    def test_a_certificate_that_is_not_there_is_named(self, rig: Rig, members: Pair) -> None:
        crt_list = rig.certificate("listener-1.pem", b"/var/lib/octavia/certs/x/gone.pem\n")
        answer = rig.push(config(rig, servers(members), bind=f"ssl crt-list {crt_list}"))
        assert answer.status == 400
        assert "/var/lib/octavia/certs/x/gone.pem" in answer.json["details"]

    def test_a_certificate_without_key_leaves_traffic_untouched(self, rig: Rig, members: Pair) -> None:
        authority = trustme.CA()
        good = rig.certificate("0a.pem", self.pem(authority, "a.test"))
        self.push(rig, members, good)
        bad = rig.certificate("0b.pem", authority.cert_pem.bytes())
        assert self.push(rig, members, bad) == 400
        assert self.served(rig, authority, "a.test")


def test_a_member_that_is_down_stays_down_over_a_reload(rig: Rig, members: Pair) -> None:
    one, two = (
        Server(m.name, m.port, 1, f"check inter 200ms fall {fall} rise 50")
        for m, fall in zip(
            members, (200, 1), strict=True
        )  # a machine that stands still does not take the first one down
    )
    rig.push(config(rig, [one, two], monitor=True))
    members[1].close()
    rig.heartbeat(lambda beat: members_of(beat).get("two", "").startswith("DOWN"))
    rig.push(config(rig, [one, two], monitor=True, frontend=["http-response set-header X-Changed yes"]))
    with socket.socket(socket.AF_UNIX) as stats:
        newest = max((rig.root / f"var/lib/octavia/{rig.lb}/run").glob("stats-*.sock"), key=lambda p: p.stat().st_ctime)
        with os.scandir(newest.parent):
            folder = os.open(newest.parent, os.O_RDONLY)
        stats.connect(f"/proc/self/fd/{folder}/{newest.name}")
        stats.sendall(b"show servers state\n")
        answer = b""
        while chunk := stats.recv(65536):
            answer += chunk
        os.close(folder)
    states = {line.split()[3]: line.split()[5] for line in answer.decode().splitlines()[2:] if line}
    assert states == {"one": "2", "two": "0"}


def test_the_prometheus_internals_work_beside_other_amphorae(rig: Rig, members: Pair) -> None:
    rig.vip = loopback_address()
    text = config(rig, servers(members)) + "\n".join([
        "frontend prometheus-exporter-internal-endpoint",
        "    bind 127.0.0.1:9101",
        "    mode http",
        "    no log",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        "    http-request reject",
        "    timeout http-request 5s",
        "    timeout client 5s",
        "backend prometheus-exporter-internal",
        "    mode http",
        "    no log",
        "    balance first",
        "    timeout connect 5s",
        "    timeout server 5s",
        "    server prometheus-internal 127.0.0.1:9102",
        "frontend listener-2",
        f"    bind {rig.vip}:8088",
        "    mode http",
        "    timeout client 5s",
        "    default_backend prometheus-exporter-internal",
        "",
    ])  # fmt: skip
    assert rig.push(text).status == 202
    connection = http.client.HTTPConnection(rig.vip, 8088, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    assert b"haproxy_frontend_status" in connection.getresponse().read()
    connection.close()
    assert {one["uuid"] for one in rig.ask("GET", "/1.0/listeners").json} == {"listener-1", "listener-2"}
    beat = rig.heartbeat(lambda beat: len(beat.listeners) == 2 and not beat.partial)
    assert set(beat.pools) == {"pool-1:listener-1"}


def test_a_port_that_the_same_load_balancer_has_already_is_not_called_a_stranger_s() -> None:
    sockets, address = HeldSockets(0), loopback_address()
    try:
        sockets.hold([Bind(address, 18080)])
        with pytest.raises(Refusal) as refusal:
            sockets.hold([Bind(address, 18080, "moved")])
        assert refusal.value.details == f"{address}:18080 serves port 18080 of the same load balancer"
    finally:
        sockets.keep_only(())
