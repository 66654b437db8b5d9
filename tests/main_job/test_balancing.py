"""How traffic is shared, kept and checked: algorithms, persistence, weights, backups, monitors, statistics, PROXY, TCP."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections import Counter

import pytest
from sqlalchemy import text

from octavia_core import NewHealthMonitor, NewListener, NewMember, NewPool
from octavia_core.domain.tree import SessionPersistence
from octavia_core.domain.vocabulary import (
    Algorithm,
    Kind,
    ListenerProtocol,
    MonitorType,
    Operating,
    PersistenceType,
    PoolProtocol,
)
from octavia_core.errors import BadRequest
from tests.main_job.stage import PATIENCE, behind, http, only_pool, open_stage, until
from tests.support.calm import COUNTING
from tests.support.running import Echo
from tests.support.running import ask as ask_at

QUICK = {"delay": 1, "timeout": 60, "max_retries": 1, "max_retries_down": 1}
"""Of health monitors: one refused check is enough, but a check that a busy machine holds up is waited for."""


def kept(type: str, cookie: str | None = None) -> dict[str, object]:
    return {"session_persistence": SessionPersistence(type=PersistenceType(type), cookie_name=cookie)}


def test_algorithms_share_as_they_say(stage):
    """Four listeners of one load balancer, each with a pool of another algorithm."""
    with Echo("one") as one, Echo("two") as two:
        servers = behind(one, two)
        lb = stage.build(
            http(*servers, port=8080, pool={"lb_algorithm": Algorithm.ROUND_ROBIN}),
            http(*servers, port=8081, pool={"lb_algorithm": Algorithm.LEAST_CONNECTIONS}),
            http(*servers, port=8082, pool={"lb_algorithm": Algorithm.SOURCE_IP}),
        )
        assert Counter(stage.served(lb, 8)) == {"one": 4, "two": 4}
        # the member that holds a connection is passed over
        host, port = stage.at(lb, 1)
        busy = ask_at(host, port).member
        holder = socket.create_connection((host, port), timeout=PATIENCE)
        assert {busy, ask_at(host, port).member} == {"one", "two"}
        holder.close()
        sources = [f"127.9.8.{n}" for n in range(1, 25)]
        first = {source: stage.ask(lb, listener=2, source=source).member for source in sources}
        assert set(first.values()) == {"one", "two"}
        assert {source: stage.ask(lb, listener=2, source=source).member for source in sources} == first
        # what this amphora cannot do is refused by name
        with pytest.raises(BadRequest, match="SOURCE_IP_PORT"):
            stage.controller.create_pool(lb.id, NewPool(protocol="HTTP", lb_algorithm=Algorithm.SOURCE_IP_PORT))


def test_clients_stay_with_their_member(stage):
    with Echo("one") as one, Echo("two") as two:
        servers = behind(one, two)
        lb = stage.build(
            http(*servers, port=8080, pool=kept("SOURCE_IP")),
            http(*servers, port=8081, pool=kept("HTTP_COOKIE")),
            http(*servers, port=8082, pool=kept("APP_COOKIE", "APP")),
        )
        assert len(set(stage.served(lb, 6))) == 1
        assert len({stage.ask(lb, source=f"127.9.7.{n}").member for n in range(1, 9)}) == 2
        # a cookie of HAProxy's
        first = stage.ask(lb, listener=1)
        cookie = first.headers["set-cookie"].partition(";")[0]
        again = {stage.ask(lb, listener=1, headers=[("Cookie", cookie)]).member for _ in range(6)}
        assert again == {first.member}
        assert len({stage.ask(lb, listener=1).member for _ in range(4)}) == 2
        # a cookie of the application's
        first = stage.ask(lb, listener=2)
        cookie = first.headers["set-cookie"].partition(";")[0]
        again = {stage.ask(lb, listener=2, headers=[("Cookie", cookie)]).member for _ in range(6)}
        assert again == {first.member}
        # taken away, traffic is shared again
        pool = next(p for p in lb.pools if p.session_persistence.type is PersistenceType.SOURCE_IP)
        stage.update(Kind.POOL, pool.id, session_persistence=None)
        assert len(set(stage.served(lb, 6))) == 2


def test_persistence_outlives_a_change(stage):
    """A reload takes the table of clients along. Who was with the second member comes first then: in turns, half would change."""
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one, two), pool=kept("SOURCE_IP")))
        sources = [f"127.9.6.{n}" for n in range(1, 9)]
        before = {source: stage.ask(lb, source=source).member for source in sources}
        assert set(before.values()) == {"one", "two"}
        stage.controller.create_listener(lb.id, http(port=8081)).wait(PATIENCE)
        until(lambda: stage.remembered(lb) == len(sources), "what the HAProxy before knew")
        for name in ("two", "one"):
            its = [source for source in sources if before[source] == name]
            assert [stage.ask(lb, source=source).member for source in its] == [name] * len(its)


def test_weight_zero_gets_nothing_and_backups_step_in(stage):
    with Echo("one") as one, Echo("two") as two, Echo("spare") as spare:
        monitor = NewPool(
            members=[*behind(one), *behind(two, weight=0), *behind(spare, backup=True)],
            health_monitor=NewHealthMonitor(type=MonitorType.HTTP, **QUICK),
        )
        lb = stage.build(NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=monitor))
        stage.operating(lb.id, "one", Operating.ONLINE)
        stage.operating(lb.id, "two", Operating.DRAINING)
        assert set(stage.served(lb, 6)) == {"one"}
        one.healthy = False
        stage.operating(lb.id, "one", Operating.ERROR)
        assert set(stage.served(lb, 4)) == {"spare"}
        assert stage.find(lb.id, only_pool(lb).id).operating_status is Operating.DEGRADED
        one.healthy = True
        stage.operating(lb.id, "one", Operating.ONLINE)
        assert set(stage.served(lb, 4)) == {"one"}


@pytest.mark.parametrize("kind", [MonitorType.HTTP, MonitorType.TCP])
def test_a_monitor_turns_a_member_error_and_online_again(stage, kind):
    """In the rows of the member, its pool and its load balancer, with events that say so."""
    control = stage.controller
    wish = NewHealthMonitor(type=kind, **QUICK)
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one, two), pool={"health_monitor": wish}, name="l"))
        member, pool = stage.find(lb.id, "one"), only_pool(lb)
        stage.operating(lb.id, "one", Operating.ONLINE)
        until(lambda: stage.tree(lb.id).operating_status is Operating.ONLINE, "all ONLINE")
        with contextlib.nullcontext() if kind is MonitorType.HTTP else one.away():
            one.healthy = kind is not MonitorType.HTTP
            stage.operating(lb.id, "one", Operating.ERROR)
            assert set(stage.served(lb, 4)) == {"two"}
            assert stage.find(lb.id, pool.id).operating_status is Operating.DEGRADED
            assert stage.tree(lb.id).operating_status is Operating.DEGRADED
            two.healthy = False
            if kind is MonitorType.HTTP:
                stage.operating(lb.id, pool.id, Operating.ERROR)
                assert stage.tree(lb.id).operating_status is Operating.ERROR
                assert stage.ask(lb).status == 503
                one.healthy = two.healthy = True
        stage.operating(lb.id, "one", Operating.ONLINE)
        until(lambda: stage.tree(lb.id).operating_status is Operating.ONLINE, "all ONLINE again")
        told = [event.data["operating_status"] for event in control.events(load_balancer_id=lb.id, limit=10_000)
                if event.name.startswith("member.") and event.data.get("id") == member.id]  # fmt: skip
        assert told[-3:] == ["ONLINE", "ERROR", "ONLINE"]


def test_listener_statistics_grow_and_outlive_a_reload(tmp_path):
    def counted(listener_id: str) -> dict[str, int]:
        with stage.controller.storage._engine.connect() as connection:
            query = text("SELECT * FROM listener_statistics WHERE listener_id = :id")
            rows = connection.execute(query, {"id": listener_id}).mappings().all()
        names = ("bytes_in", "bytes_out", "total_connections", "request_errors")
        return {name: sum(row[name] for row in rows) for name in names}

    with Echo("one") as one, open_stage(tmp_path / "state", COUNTING) as stage:
        lb = stage.build(http(*behind(one)))
        id = lb.listeners[0].id
        stage.served(lb, 10)
        until(lambda: counted(id)["total_connections"] == 10, "ten connections")
        first = counted(id)
        assert first["bytes_in"] > 0 < first["bytes_out"]
        stage.controller.create_listener(lb.id, http(port=8081)).wait(PATIENCE)
        stage.served(lb, 5)
        until(lambda: counted(id)["total_connections"] == 15, "fifteen connections")
        assert counted(id)["bytes_out"] > first["bytes_out"]
        host, port = stage.at(lb)
        with socket.create_connection((host, port), timeout=PATIENCE) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 400") or True
        until(lambda: counted(id)["request_errors"] == 1, "a request error")


@pytest.mark.feature("listener.protocol=PROMETHEUS")
def test_a_prometheus_listener_answers_with_metrics(stage):
    with Echo("one") as one:
        metrics = NewListener(protocol=ListenerProtocol.PROMETHEUS, protocol_port=8088)
        lb = stage.build(http(*behind(one)), metrics)
        stage.served(lb, 3)
        answer = stage.ask(lb, "/metrics", listener=1)
        assert answer.status == 200
        body = answer.body.decode()
        assert re.search(r"^# HELP octavia_\w+ ", body, re.MULTILINE) or re.search(
            r"^haproxy_frontend", body, re.MULTILINE
        )


@pytest.mark.parametrize(("protocol", "version"), [(PoolProtocol.PROXY, 1), (PoolProtocol.PROXYV2, 2)])
def test_proxy_pools_tell_their_members_who_asks(stage, protocol, version):
    with Echo("one", proxy=True) as one:
        pool = NewPool(protocol=protocol, members=behind(one))
        lb = stage.build(NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=pool))
        told = stage.ask(lb, source="127.9.5.4").echo["proxy"]
        assert (told["version"], told["source"]) == (version, "127.9.5.4")


def test_a_tcp_listener_carries_any_bytes(stage):
    def upper(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            while data := connection.recv(100):
                connection.sendall(data.upper())

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=upper, args=(server,), daemon=True).start()
        member = NewMember("127.0.0.1", server.getsockname()[1])
        lb = stage.build(
            NewListener(protocol=ListenerProtocol.TCP, protocol_port=8080, default_pool=NewPool(members=[member]))
        )
        with socket.create_connection(stage.at(lb), timeout=PATIENCE) as client:
            for said in (b"hello", b"\x00\x01 again"):
                client.sendall(said)
                assert client.recv(100) == said.upper()
    assert only_pool(lb).protocol is PoolProtocol.TCP
