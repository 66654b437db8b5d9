"""The machine is not as it should be: a sentence, nothing lost, and it goes on when the cause is gone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core import Controller
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.errors import BadRequest, ConfigurationError, OctaviaError, StateDirectoryBusy, StateDirectoryError
from tests.main_job.stage import PATIENCE, behind, http, open_stage, processes_of, until
from tests.support.running import Echo
from tests.support.running import ask as ask_at


def refused(state: Path) -> str:
    """What a controller says that cannot be opened: one sentence."""
    with pytest.raises(ConfigurationError) as caught:
        Controller.open(state)
    said = str(caught.value)
    assert said
    assert "\n" not in said
    return said


def test_a_second_controller_is_refused_and_disturbs_nobody(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        with pytest.raises(StateDirectoryBusy, match=f"process {os.getpid()}") as caught:
            Controller.open(stage.state)
        assert "octavia-admin down" in str(caught.value)
        with Controller.open(stage.state, run=False) as client:  # a client is welcome
            assert client.running() is True
            client.create_listener(lb.id, http(*behind(one), port=8081)).wait(PATIENCE)
        lb = stage.tree(lb.id)
        assert [stage.ask(lb, listener=at).member for at in (0, 1)] == ["one", "one"]


def test_what_is_wrong_with_the_state_directory_is_said_and_mended(own_stage):
    """Each way of spoiling is tried while the amphora serves; put right again, the controller opens and finds it."""
    state = own_stage.state

    def spoilt(path: Path, mode: int) -> Iterator[None]:
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        yield
        path.chmod(before)

    def changed(path: Path, content: bytes) -> Iterator[None]:
        before = path.read_bytes()
        path.write_bytes(content)
        yield
        path.write_bytes(before)

    newer = (state / "state.json").read_bytes().replace(b'"version": 1', b'"version": 99')
    toml = (state / "octavia.toml").read_bytes()
    old = state.parent / "haproxy"
    old.write_text("#!/bin/sh\necho 'HA-Proxy version 1.8.4 2018/02/08'\n")
    old.chmod(0o755)
    with Echo("one") as one:
        lb = own_stage.build(http(*behind(one)))
        at = own_stage.at(lb)
        with own_stage.away():
            for spoil, words in (
                (spoilt(state, 0o755), f"run: chmod 700 {state}"),
                (spoilt(state / "heartbeat.key", 0o644), f"run: chmod 600 {state}/heartbeat.key"),
                (spoilt(state / "authority" / "agents.key", 0o640), "run: chmod 600"),
                (changed(state / "state.json", newer), "install a newer octavia-core"),
                (changed(state / "state.json", b"{"), "damaged"),
                (changed(state / "authority" / "agents.pem", b"nonsense"), "agents.pem"),
                (changed(state / "octavia.toml", b"[local]\nhaproxy = '/nowhere'\n"), "'/nowhere' is no program"),
                (changed(state / "octavia.toml", f"[local]\nhaproxy = '{old}'\n".encode()), "1.8.4"),
                (changed(state / "octavia.toml", b"[health_manager]\nbind_ip = '192.0.2.1'\n"), "192.0.2.1"),
                (changed(state / "octavia.toml", b"[health_manger]\n"), "did you mean health_manager"),
            ):
                next(spoil)
                try:
                    assert words in refused(state), words
                finally:
                    next(spoil, None)
                assert ask_at(*at).member == "one"  # nobody is disturbed
            assert (state / "octavia.toml").read_bytes() == toml
        assert [a.id for a in own_stage.controller.amphorae(lb.id)]
        assert own_stage.ask(own_stage.tree(lb.id)).member == "one"
        own_stage.controller.create_listener(lb.id, http(port=8081)).wait(PATIENCE)


def test_a_database_that_is_none_is_named(own_stage):
    state = own_stage.state
    with own_stage.away():
        database = state / "octavia.db"
        kept = database.read_bytes()
        database.write_bytes(b"This is no database, though it is long enough to look like one." * 100)
        try:
            assert "octavia.db" in refused(state)
        finally:
            database.write_bytes(kept)
    assert own_stage.controller.load_balancers() == []


def test_a_path_that_cannot_be_a_state_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir(mode=0o700)
    (tmp_path / "full" / "diary.txt").write_text("x")
    assert "is no directory" in refused(tmp_path / "file")
    assert "is no directory" in refused(tmp_path / "file" / "state")
    assert "diary.txt is in it" in refused(tmp_path / "full")
    with pytest.raises(ConfigurationError, match="either a state directory or settings"):
        Controller.open()
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["diary.txt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    line = [mount or "mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or mount is None or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system; run as root: sudo python3 noxfile.py -s tests")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_gets_full_stops_wishes_and_nothing_else(small_disk):
    settings = "[database]\nmax_retries = 2\n"
    with Echo("one") as one, open_stage(small_disk / "state", settings) as stage:
        lb = stage.build(http(*behind(one), name="l"))
        (before,) = stage.controller.amphorae(lb.id)
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            for size in (65536, 512, 1):
                try:
                    while True:
                        os.write(file.fileno(), b"x" * size)
                except OSError:
                    pass
        with pytest.raises(OctaviaError) as caught:
            for port in range(8081, 8200):  # some may still find room
                stage.controller.create_listener(lb.id, http(port=port)).wait(PATIENCE)
        said = str(caught.value)
        assert "full" in said or "space" in said, said
        assert "Traceback" not in said
        assert stage.served(lb, 5) == ["one"] * 5
        stalled = stage.controller.storage.now()
        filler.unlink()
        until(lambda: stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE, "ACTIVE")
        stage.controller.create_listener(lb.id, http(*behind(one), port=9000), wait=PATIENCE).wait(PATIENCE)
        lb = stage.tree(lb.id)
        last = next(one for one in lb.listeners if one.protocol_port == 9000)
        assert stage.ask(lb, listener=last).member == "one"
        # it was never taken for dead: what could not be written was not silence
        until(lambda: stage.controller.storage.read(lambda tx: tx.liveness())[0].last_heard > stalled, "heartbeats")
        assert [a.id for a in stage.controller.amphorae(lb.id)] == [before.id]


def test_closing_stops_no_amphora_and_twice_is_harmless(own_stage):
    with Echo("one") as one:
        lb = own_stage.build(http(*behind(one)))
        at = own_stage.at(lb)
        before = processes_of(own_stage.state)
        own_stage.controller.close()
        own_stage.controller.close()
        with pytest.raises(BadRequest, match="was closed"):
            own_stage.controller.delete_load_balancer(lb.id)
        assert ask_at(*at).member == "one"
        assert processes_of(own_stage.state) == before
        own_stage.controller = Controller.open(own_stage.state)


def test_a_state_directory_of_somebody_else_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a directory of another user; run: sudo python3 noxfile.py -s tests")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 12345, 12345)
    with pytest.raises(StateDirectoryError, match="belongs to user 12345"):
        Controller.open(state)
