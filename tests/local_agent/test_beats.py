"""Heartbeats say what HAProxy sees, signed, at once when it matters."""

from __future__ import annotations

import socket
from collections.abc import Callable

from octavia_core.domain.heartbeat import Heartbeat, decode
from octavia_local.agent.balancer import Observation
from octavia_local.agent.beats import Ledger, report
from octavia_local.agent.runtime import StatRow
from tests.local_agent.rig import KEY, PATIENCE, Member, Rig, Server, config, get, members_of

CHECK = "check inter 100ms fall 2 rise 2"


def test_the_first_one_comes_before_anything_is_configured(rig: Rig) -> None:
    beat = rig.heartbeat()
    assert (beat.amphora_id, beat.seq, beat.version) == (rig.amphora_id, 0, 3)
    assert (dict(beat.listeners), dict(beat.pools)) == ({}, {})
    assert rig.heartbeat().seq == 1


def test_counters_are_deltas_and_none_is_lost_in_a_reload(rig: Rig, members: tuple[Member, Member]) -> None:
    servers = [Server(member.name, member.port) for member in members]
    rig.push(config(rig, servers))
    for _ in range(5):
        get(rig.vip)
    rig.push(config(rig, servers, frontend=["http-response set-header X-Changed yes"]))
    for _ in range(4):
        get(rig.vip)
    total = received = sent = 0
    beat = rig.heartbeat(lambda beat: beat.listeners)
    while True:
        listener = beat.listeners["listener-1"]
        total, received, sent = total + listener.totconns, received + listener.rx, sent + listener.tx
        assert listener.status == "OPEN"
        if total >= 9:
            break
        beat = rig.heartbeat(lambda beat: beat.listeners)
    assert total == 9
    assert received > 0
    assert sent > 0
    assert rig.heartbeat(lambda beat: beat.listeners).listeners["listener-1"].totconns == 0
    beat = rig.heartbeat(lambda beat: beat.listeners and not beat.partial)
    assert beat.pools["pool-1:listener-1"].status == "UP"
    assert members_of(beat) == {"one": "no check", "two": "no check"}


def words(beat: Heartbeat) -> dict[str, str]:
    """What members are; that one is about to become something else (`UP 1/2`) is no news that is told at once."""
    return {name: word.partition(" ")[0] for name, word in members_of(beat).items()}


def test_a_member_that_dies_is_told_at_once(make_rig: Callable[..., Rig], members: tuple[Member, Member]) -> None:
    rig = make_rig(conf={("health_manager", "heartbeat_interval"): "3600"}).start()  # no regular one in this test
    one, two = (Server(member.name, member.port, 1, CHECK) for member in members)
    rig.push(config(rig, [one, two], monitor=True))
    rig.heartbeat(lambda beat: words(beat) == {"one": "UP", "two": "UP"})
    members[1].close()
    rig.heartbeat(lambda beat: words(beat) == {"one": "UP", "two": "DOWN"})
    members[0].close()
    down = rig.heartbeat(lambda beat: members_of(beat) == {"one": "DOWN", "two": "DOWN"})
    assert down.pools["pool-1:listener-1"].status == "DOWN"


def test_weight_zero_is_draining_and_disabled_is_maintenance(rig: Rig, members: tuple[Member, Member]) -> None:
    one, two = members
    rig.push(config(rig, [Server("one", one.port, 0, CHECK), Server("two", two.port, 1, "disabled")], monitor=True))
    rig.heartbeat(lambda beat: members_of(beat) == {"one": "DRAIN", "two": "MAINT"})


def test_every_controller_of_the_list_has_its_turn(make_rig: Callable[..., Rig]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(PATIENCE)
        rig = make_rig()
        places = f"127.0.0.1:{rig.beats.getsockname()[1]}, 127.0.0.1:{other.getsockname()[1]}"
        rig.put("etc/octavia/amphora-agent.conf",
                rig.conf({("health_manager", "controller_ip_port_list"): places}).encode())  # fmt: skip
        rig.start()
        assert [rig.heartbeat().seq, decode(other.recv(65536), [KEY]).seq] == [0, 1]
        assert [rig.heartbeat().seq, decode(other.recv(65536), [KEY]).seq] == [2, 3]


def test_a_new_configuration_holds_at_once(rig: Rig) -> None:
    rig.heartbeat()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(PATIENCE)
        text = rig.conf({
            ("health_manager", "controller_ip_port_list"): f"127.0.0.1:{other.getsockname()[1]}",
            ("health_manager", "heartbeat_key"): "another-key",
            ("amphora_agent", "amphora_id"): "cannot-change",
        })  # fmt: skip
        assert rig.ask("PUT", "/1.0/config", text).json == {"message": "OK"}
        assert decode(other.recv(65536), ["another-key"]).amphora_id == rig.amphora_id
    assert (rig.root / "etc/octavia/amphora-agent.conf").read_text() == text
    bad = rig.ask("PUT", "/1.0/config", "[health_manager]\nheartbeat_interval = soon\n")
    assert (bad.status, bad.json["message"]) == (500, "Unable to update amphora-agent configuration.")
    assert (rig.root / "etc/octavia/amphora-agent.conf").read_text() == text


def frontend(counted: int, name: str = "l") -> StatRow:
    return StatRow("frontend", name, "FRONTEND", "OPEN", 0, {
        "scur": 1, "stot": counted, "bin": counted, "bout": counted, "ereq": 0,
    })  # fmt: skip


def test_a_new_process_counts_from_zero_and_a_smaller_counter_is_new() -> None:
    ledger = Ledger()
    owed = []
    for pid, counted in [(1, 10), (1, 15), (2, 15), (2, 16), (2, 3)]:
        observation = Observation("lb", pid, (frontend(counted),), frozenset())
        ledger.absorb(observation)
        owed.append(report([observation], ledger)[0]["l"]["stats"]["totconns"])
    assert owed == [10, 5, 15, 1, 3]


def test_looks_between_messages_add_up() -> None:
    ledger = Ledger()
    observations = [Observation("lb", 1, (frontend(counted),), frozenset()) for counted in (1, 4, 9)]
    for observation in observations:
        ledger.absorb(observation)
    assert report(observations[-1:], ledger)[0]["l"]["stats"] == {
        "tx": 9,
        "rx": 9,
        "conns": 1,
        "totconns": 9,
        "ereq": 0,
    }
