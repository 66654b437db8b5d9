"""The agent's process: one per root, exclusive addresses, and nothing that survives it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.local_agent.rig import PATIENCE, Member, Rig, Server, config, get, is_alive, loopback_address, until


def test_it_tells_where_it_is(rig: Rig) -> None:
    facts = rig.facts
    start_time = int(Path(f"/proc/{rig.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert (facts["pid"], facts["start_time"]) == (rig.pid, start_time)
    assert facts["host"] in json.loads((rig.root / "local.json").read_text())["addresses"]
    assert (facts["port"], facts["haproxy_version"].count(".")) == (9443, 2)
    assert stat.S_IMODE((rig.root / "agent.json").stat().st_mode) == 0o600


def test_port_zero_is_any_free_port(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(local={"port": 0, "addresses": ["127.0.0.1"]}).start()
    assert rig.facts["port"] > 0
    assert rig.ask("GET", "/").status == 200


def test_a_taken_address_is_passed_over(make_rig: Callable[..., Rig]) -> None:
    addresses = [loopback_address(), loopback_address()]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((addresses[0], 9443))
        taken.listen()
        rig = make_rig(local={"addresses": addresses}).start()
        assert rig.facts["host"] == addresses[1]
        other = make_rig("other", local={"addresses": addresses})
        assert other.launch().wait(PATIENCE) == 1
        assert "no management address is free" in other.log
        assert addresses[0] in other.log
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((addresses[1], 9443))
            thief.listen()


def test_a_second_agent_on_the_same_root_ends_with_one_sentence(rig: Rig) -> None:
    first = rig.process
    assert rig.launch().wait(PATIENCE) == 1
    rig.process = first
    assert f"another agent already runs on {rig.root}" in rig.log
    assert "Traceback" not in rig.log
    assert rig.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("local.json", "local.json"),
        ("etc/octavia/amphora-agent.conf", "amphora-agent.conf"),
        ("etc/octavia/certs/server.pem", "server.pem"),
        ("etc/octavia/certs/client_ca.pem", "client_ca.pem"),
    ],
)
def test_a_missing_boot_file_is_named(make_rig: Callable[..., Rig], path: str, says: str) -> None:
    rig = make_rig()
    (rig.root / path).unlink()
    assert rig.launch().wait(PATIENCE) == 1
    assert says in rig.log
    assert "Traceback" not in rig.log


def test_an_open_root_is_refused(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.root.chmod(0o755)
    assert rig.launch().wait(PATIENCE) == 1
    assert "0700" in rig.log


def test_the_kill_of_the_agent_leaves_nothing(rig: Rig) -> None:
    with Member("one") as member:
        rig.push(config(rig, [Server("one", member.port)]))
        assert get(rig.vip) == "one"
        haproxies = rig.haproxies()
        assert len(haproxies) == 1
        rig.kill()
        until(lambda: not any(map(is_alive, haproxies)), "HAProxy's end")
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind((rig.vip, 8080))
            next_one.listen()


def test_a_restarted_agent_runs_what_ran(rig: Rig) -> None:
    with Member("one") as member:
        rig.push(config(rig, [Server("one", member.port)]))
        rig.kill()
        rig.start()
        assert get(rig.vip) == "one"
        rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/stop")
        rig.kill()
        rig.start()
        assert rig.haproxies() == []
        assert rig.ask("GET", f"/1.0/loadbalancer/{rig.lb}/haproxy").status == 200


def test_sigterm_ends_all_with_exit_code_zero(rig: Rig) -> None:
    rig.push(config(rig, []))
    haproxies = rig.haproxies()
    assert rig.process is not None
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(PATIENCE) == 0
    assert not any(map(is_alive, haproxies))
    assert not (rig.root / "agent.json").exists()


def test_a_frozen_agents_haproxy_goes_on_serving(rig: Rig) -> None:
    with Member("one") as member:
        rig.push(config(rig, [Server("one", member.port)]))
        os.kill(rig.pid, signal.SIGSTOP)
        assert get(rig.vip) == "one"
        os.kill(rig.pid, signal.SIGCONT)
        assert rig.ask("GET", "/").status == 200


def test_an_agent_that_nobody_asks_reports_itself_and_goes_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(local={"orphan_after": 0.5}).start()
    until(lambda: rig.facts.get("orphan"), "an orphan")
    until(lambda: "is an orphan" in rig.log, "its words, which come behind the fact")
    assert rig.ask("GET", "/").status == 200
    until(lambda: rig.ask("GET", "/").status == 200 and not rig.facts["orphan"], "a controller's questions seen")


def test_a_crash_loop_pauses_and_the_agent_still_answers(rig: Rig) -> None:
    rig.push(config(rig, []))
    [victim] = rig.haproxies()
    folder = max((rig.root / f"var/lib/octavia/{rig.lb}/run").glob("*/haproxy.cfg"))
    folder.write_text("nonsense\n")
    os.kill(victim, signal.SIGKILL)
    until(lambda: "next try in" in rig.log, "a pause")
    assert rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/reload").status == 202
    until(lambda: len(rig.haproxies()) == 1, "one HAProxy")


def test_a_full_disk_is_said_and_loses_nothing(rig: Rig) -> None:
    text = config(rig, [])
    rig.push(text)
    folder = rig.root / "var/lib/octavia" / rig.lb / "run"
    os.rename(folder, folder.with_name("elsewhere"))
    folder.write_bytes(b"")  # a file where a folder should be: nothing can be written there
    answer = rig.push(text + "# more\n")
    assert answer.status == 500
    assert "Traceback" not in answer.body.decode()
    folder.unlink()
    os.rename(folder.with_name("elsewhere"), folder)
    assert rig.ask("GET", f"/1.0/loadbalancer/{rig.lb}/haproxy").body == text.encode()
    assert rig.push(text + "# more\n").status == 202


def test_no_secret_is_in_argv_or_environment_or_log(rig: Rig) -> None:
    rig.push(config(rig, []))
    for pid in (rig.pid, *rig.haproxies()):
        seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PRIVATE" not in seen
        assert b"a-heartbeat-key" not in seen
    assert "a-heartbeat-key" not in rig.log


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv, to give privileges up: apt-get install util-linux",
)
def test_without_privileges_port_80_is_served_at_8080(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.launch(["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"])
    rig.wait_until_ready()
    with Member("one") as member:
        assert rig.push(config(rig, [Server("one", member.port)], port=80)).status == 202
        assert get(rig.vip, 8080) == "one"
        with pytest.raises(ConnectionRefusedError):
            get(rig.vip, 80)
