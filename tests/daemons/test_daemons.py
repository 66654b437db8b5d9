"""The daemons as processes of their own, on one database, with the simulator's drivers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.certs.authority import create_authorities
from octavia_core.controller.sources import load_settings
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.heartbeat import encode
from octavia_core.domain.vocabulary import AmphoraStatus, Operating, Provisioning
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings
from octavia_daemons.daemon import _Lives
from tests.db.values import amphora, full
from tests.support.running import fresh_address
from tests.support.sockets import unread

PATIENCE = 60.0
PORT = 5555
"""Where heartbeats go, on an address of the test's own: not one of the ports that the kernel gives to whoever asks for any."""
ROOM = 100_000
"""Bytes that wait in that socket until no more are sent: far less than it holds."""

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other: on a busy machine that takes minutes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    authority = tmp_path / "authority"
    create_authorities(str(authority))
    file = tmp_path / "octavia.toml"
    file.write_text(f"""
[controller_worker]
compute_driver = "noop"
network_driver = "noop"
amphora_driver = "noop"
client_ca = "{authority}/controllers.pem"
[certificates]
cert_manager = "noop"
ca_certificate = "{authority}/agents.pem"
ca_private_key = "{authority}/agents.key"
[haproxy_amphora]
client_cert = "{authority}/controller.pem"
server_ca = "{authority}/agents.pem"
[health_manager]
bind_ip = "{fresh_address()}"
bind_port = {PORT}
heartbeat_key = "secret"
[house_keeping]
cleanup_interval = 0.1
load_balancer_expiry_age = 0
amphora_expiry_age = 0
[engine]
poll_interval = 0.05
[database]
connection = "sqlite:///{tmp_path}/octavia.db"
""")
    prepare(load_settings([str(file)]))
    return file


def settings(config: Path) -> Settings:
    return load_settings([str(config)], state_directory=str(config.parent))


@contextmanager
def daemon(module: str, config: Path, *more: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            f"octavia_daemons.{module}",
            "--config-file",
            str(config),
            *(word for file in more for word in ("--config-file", str(file))),
            "--state-directory",
            str(config.parent),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


def test_a_worker_carries_out_what_a_client_stores_and_ends_when_told(config: Path) -> None:
    with (
        daemon("worker", config) as worker,
        Controller.open(settings=settings(config), run=False) as client,
    ):
        client.create_load_balancer(NewLoadBalancer(name="web")).wait(PATIENCE)
        assert client.load_balancer("web").provisioning_status is Provisioning.ACTIVE
        end(worker)


def test_housekeeping_removes_what_was_deleted(config: Path) -> None:
    with (
        daemon("worker", config) as worker,
        Controller.open(settings=settings(config), run=False) as client,
    ):
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        operation.wait(PATIENCE)
        client.delete_load_balancer(operation.load_balancer_id).wait(PATIENCE)
        assert client.storage.read(lambda tx: tx.tree(operation.load_balancer_id)) is not None
        with daemon("housekeeping", config) as housekeeping:
            until(lambda: client.storage.read(lambda tx: tx.tree(operation.load_balancer_id)) is None)
            end(housekeeping)
        end(worker)


def test_on_sighup_a_daemon_goes_on_with_settings_read_again(config: Path) -> None:
    with daemon("housekeeping", config) as housekeeping:
        assert housekeeping.stderr is not None

        def said(words: str) -> None:
            assert housekeeping.stderr is not None
            heard: list[str] = []
            for line in housekeeping.stderr:  # to the end of the file at most
                heard.append(line)
                if words in line:
                    return
            raise AssertionError(f"{words}: {heard}")

        _until_something_is_removed(config)  # it works with the settings that it began with
        housekeeping.send_signal(signal.SIGHUP)
        said("settings are read anew")
        good = config.read_text(encoding="utf-8")
        config.write_text(good.replace("cleanup_interval = 0.1", 'cleanup_interval = "often"'), encoding="utf-8")
        housekeeping.send_signal(signal.SIGHUP)
        said("the settings are not read anew")
        config.write_text(good.replace("sqlite:///", "nosuch:///"), encoding="utf-8")
        housekeeping.send_signal(signal.SIGHUP)
        said("settings are read anew")  # they read well; that they cannot be had comes out when they are used
        said("the settings are not read anew, it goes on with those it has")
        config.write_text(good, encoding="utf-8")
        housekeeping.send_signal(signal.SIGHUP)
        said("settings are read anew")
        end(housekeeping)


def _until_something_is_removed(config: Path) -> None:
    storage = SqlStorage.open(settings(config))
    storage.transaction(lambda tx: tx.insert(amphora(None, status=AmphoraStatus.DELETED)))
    until(lambda: not storage.read(lambda tx: tx.amphorae(with_deleted=True)))
    storage.close()


def test_settings_that_were_read_anew_before_the_first_life_are_the_first_ones(config: Path) -> None:
    good, seen = settings(config), list[Settings]()
    reads: Iterator[Settings | ConfigurationError] = iter([good, ConfigurationError("[house_keeping] is no good")])

    def read() -> Settings:
        found = next(reads)
        if isinstance(found, ConfigurationError):
            raise found
        return found

    lives = _Lives(lambda given, stop: seen.append(given), read, None)
    lives.read_anew()
    lives.run()
    assert seen == [good]
    with pytest.raises(ConfigurationError, match="no good"):
        reads = iter([ConfigurationError("[house_keeping] is no good")])
        _Lives(lambda given, stop: seen.append(given), read, None).run()
    assert seen == [good]


def test_the_health_manager_listens_and_ends_when_told(config: Path) -> None:
    address = settings(config).health_manager.bind_ip
    with daemon("health_manager", config) as health:
        until(lambda: bool(unread(address, PORT)) or health.poll() is not None)  # trying to bind would take it away
        assert health.poll() is None, health.stderr.read() if health.stderr else ""
        end(health)


def test_a_health_manager_hears_on_while_the_files_say_what_cannot_be_had(config: Path) -> None:
    """Nothing of it ends for them, not even its process that hears."""
    good = config.read_text(encoding="utf-8")
    with daemon("health_manager", config) as health, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        until(lambda: len(_children(health.pid)) == 1 or health.poll() is not None)
        hears = _children(health.pid)
        for line, words in (
            ("", "heartbeat_key is not set"),
            (f'heartbeat_key = "secret"\nmetrics_address = "{address}"', f"metrics_address {address} cannot be served"),
        ):
            config.write_text(good.replace('heartbeat_key = "secret"', line), encoding="utf-8")
            health.send_signal(signal.SIGHUP)
            assert health.stderr is not None
            said = next((one for one in health.stderr if "the settings are not read anew" in one), "it ended")
            assert words in said
        assert _children(health.pid) == hears
        config.write_text(good.replace(f"bind_port = {PORT}", f"bind_port = {PORT + 1}"), encoding="utf-8")
        health.send_signal(signal.SIGHUP)
        until(lambda: ((now := _children(health.pid)) != hears and len(now) == 1) or health.poll() is not None)
        end(health)


def test_nothing_that_is_sent_while_a_health_manager_takes_new_settings_is_lost(config: Path) -> None:
    """Each datagram says one byte of traffic, signed with the key that is new by then: all of them are in the rows at the end. The
    last one says something new, which is in the rows as soon as all before it is known.
    """
    good = config.read_text(encoding="utf-8").replace("bind_port", "sock_rlimit = 1000000\nbind_port")
    config.write_text(good, encoding="utf-8")
    address = settings(config).health_manager.bind_ip
    lb = full(provisioning_status=Provisioning.ACTIVE)
    box = amphora(lb.id, status=AmphoraStatus.ALLOCATED)
    storage = SqlStorage.open(settings(config))
    storage.transaction(lambda tx: (tx.insert(lb), tx.insert(box)))
    reload = threading.Event()
    sent, key = 0, "secret"

    def send(status: str = "OPEN") -> None:
        nonlocal sent
        stats = {"tx": 0, "rx": 1, "conns": 0, "totconns": 0, "ereq": 0}
        listeners = {each.id: {"status": status, "stats": stats} for each in lb.listeners}
        said = {"id": box.id, "seq": sent, "listeners": listeners, "pools": {}, "ver": 3}
        sender.sendto(encode(said, key), (address, PORT))
        sent += 1

    def last_one_is_known() -> bool:
        found = storage.read(lambda tx: tx.tree(lb.id))
        assert found is not None
        return found.listener(lb.listeners[0].id).operating_status is Operating.DEGRADED

    with daemon("health_manager", config) as health, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        until(lambda: len(_children(health.pid)) == 1 or health.poll() is not None)
        hears = _children(health.pid)
        assert health.stderr is not None
        lines: list[str] = []

        def read() -> None:
            assert health.stderr is not None
            for line in health.stderr:
                lines.append(line)
                if "received all the while" in line:
                    reload.set()

        reader = threading.Thread(target=read)
        reader.start()
        for content, then in (
            (good, "secret"),
            (good.replace('"secret"', '"secret"\nheartbeat_keys_accepted = ["new"]\nheartbeat_timeout = 30.0'), "new"),
            (
                good.replace('"secret"', '"new"\nheartbeat_keys_accepted = ["secret"]\nfailover_threshold = 7'),
                "new",
            ),  # what was signed with the old one may still be on its way
        ):
            config.write_text(content, encoding="utf-8")
            reload.clear()
            health.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + PATIENCE
            while not reload.is_set() and health.poll() is None:
                assert time.monotonic() < deadline, lines
                if sum(unread(address, PORT)) < ROOM:
                    send()
                reload.wait(0.005)
            key = then
        for _ in range(10):
            send()
        send("FULL")
        until(last_one_is_known)
        assert _children(health.pid) == hears, "the same process hears on"
        health.send_signal(signal.SIGTERM)
        reader.join(PATIENCE)
        assert health.wait(PATIENCE) == 0, lines
    counted = storage.read(lambda tx: tx.counted([box.id]))
    storage.close()
    assert counted[lb.listeners[0].id, box.id][0] == sent, "".join(lines)
    assert not [line for line in lines if "received again" in line]


def _children(pid: int) -> list[str]:
    """Of all its threads."""
    found: list[str] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended
            found += file.read_text(encoding="ascii").split()
    return found


@pytest.mark.parametrize(
    ("module", "content", "words"),
    [
        ("worker", "[databse]\nconnection='sqlite://'\n", "did you mean database?"),
        ("worker", "not toml", "is no TOML"),
        ("health_manager", "", "heartbeat_key is not set"),
    ],
)
def test_wrong_settings_end_a_daemon_with_one_sentence(module: str, content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "octavia.toml"
    file.write_text(content)
    with daemon(module, file) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert words in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_file_that_nobody_reads_is_named(tmp_path: Path) -> None:
    with daemon("worker", tmp_path / "octavia.ini") as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert "octavia.ini: no plugin reads settings of that name" in said
