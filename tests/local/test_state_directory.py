"""The state directory: made once, checked always, one running controller."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from octavia_core.controller import state as state_module
from octavia_core.controller.state import choose_network, prepare_state, read_toml
from octavia_core.errors import ConfigurationError, StateDirectoryBusy, StateDirectoryError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some" / "state"


def test_it_is_made_private_with_a_key_a_network_and_readable_settings(path):
    made = prepare_state(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}
    settings = made.settings()
    assert len(settings.health_manager.heartbeat_key.reveal()) >= 32
    assert settings.local.network == made.network
    assert settings.origin("local.network").endswith("state.json")
    assert settings.origin("health_manager.heartbeat_key").endswith("heartbeat.key")
    assert settings.state_directory == str(path)
    assert settings.health_manager.heartbeat_key.reveal().decode() not in repr(settings) + repr(made)


def test_twice_is_the_same(path):
    first = prepare_state(path)
    key = first.settings().health_manager.heartbeat_key
    again = prepare_state(str(path) + "/")
    assert again == first
    assert again.settings().health_manager.heartbeat_key == key


def test_two_directories_differ(path, tmp_path):
    one, two = prepare_state(path), prepare_state(tmp_path / "two")
    assert one.id != two.id
    assert one.settings().health_manager.heartbeat_key != two.settings().health_manager.heartbeat_key


def _prepare(path, barrier, results):
    barrier.wait(60)
    made = prepare_state(path)
    results.put((made.id, made.network, made.settings().health_manager.heartbeat_key.reveal()))


def test_processes_that_compete_get_the_same_id_key_and_network(path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(4), spawn.Queue()
    workers = [spawn.Process(target=_prepare, args=(path, barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=100) for _ in workers}
    for worker in workers:
        worker.join(20)
    assert len(found) == 1
    assert sorted(os.listdir(path)) == ["heartbeat.key", "octavia.toml", "state.json"]


def test_what_people_write_into_the_file_wins_and_is_named(path):
    made = prepare_state(path)
    with open(path / "octavia.toml", "a", encoding="utf-8") as file:
        file.write("\n[engine]\nlease = 7.5\n")
    settings = made.settings()
    assert settings.engine.lease == 7.5
    assert settings.origin("engine.lease") == str(path / "octavia.toml")
    assert made.settings(("command line", {"engine": {"lease": 3}})).engine.lease == 3


def test_the_example_lines_of_the_file_are_options_that_exist(path):
    made = prepare_state(path)
    text = (path / "octavia.toml").read_text().replace("\n# ", "\n").replace("\nWhat", "\n#What")
    (path / "octavia.toml").write_text(text)
    assert made.settings().local.network == made.network


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[engine\n", "is no TOML.*line 1"),
        ("lease = 1\n", "outside a group"),
        ("[engine]\nleese = 1\n", "unknown option.*did you mean lease"),
        ("[engine]\nlease = 'long'\n", "must be a number"),
        ("[engines]\nlease = 1\n", "unknown group"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence_with_its_name(path, text, words):
    made = prepare_state(path)
    (path / "octavia.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        made.settings()
    assert str(path / "octavia.toml") in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_toml(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_directory_that_others_may_enter_is_refused(path, mode):
    prepare_state(path)
    path.chmod(mode)
    with pytest.raises(StateDirectoryError, match="chmod 700"):
        prepare_state(path)


@pytest.mark.parametrize("name", ["state.json", "octavia.toml", "heartbeat.key"])
def test_a_file_that_others_may_read_is_refused(path, name):
    prepare_state(path)
    (path / name).chmod(0o640)
    with pytest.raises(StateDirectoryError, match="chmod 600") as caught:
        prepare_state(path)
    assert name in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory to another user")
def test_a_directory_of_another_user_is_refused(path):
    prepare_state(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(StateDirectoryError, match="belongs to user 65534"):
        prepare_state(path)


def test_a_newer_format_is_refused_and_nothing_is_changed(path):
    prepare_state(path)
    state = json.loads((path / "state.json").read_text()) | {"version": 2}
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(StateDirectoryError, match="install a newer octavia-core"):
        prepare_state(path)
    assert json.loads((path / "state.json").read_text()) == state


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": "x"}', '{"version": 1e400}', "\xff"])
def test_a_damaged_state_is_refused(path, content):
    prepare_state(path)
    (path / "state.json").write_text(content, encoding="latin-1")
    with pytest.raises(StateDirectoryError, match="damaged"):
        prepare_state(path)


def test_a_directory_with_other_things_in_it_is_refused(path):
    path.mkdir(mode=0o700, parents=True)
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(StateDirectoryError, match=r"thesis\.tex is in it"):
        prepare_state(path)
    assert os.listdir(path) == ["thesis.tex"]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="is no directory"):
        prepare_state(tmp_path / "file")
    with pytest.raises(StateDirectoryError, match="file is no directory"):
        prepare_state(tmp_path / "file" / "below")


def test_an_interrupted_beginning_is_completed(path):
    path.mkdir(mode=0o700, parents=True)
    (path / ".new-octavia.toml-1234").write_text("half")
    (path / "heartbeat.key").write_text("the key that was made first\n")
    (path / "heartbeat.key").chmod(0o600)
    assert prepare_state(path).settings().health_manager.heartbeat_key.reveal() == b"the key that was made first"


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /srv rw,relatime shared:1 - nfs4 server:/home rw
31 30 0:31 / /srv/local\\040disk rw,relatime - xfs /dev/vdb rw
32 22 0:32 / /mnt rw - ext4 /dev/vdc rw
33 22 0:33 / /mnt rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("/srv/anna/state", "nfs4"),
        ("/srv", "nfs4"),
        ("/mnt/state", "cifs"),
        ("/srv/local disk/state", None),
        ("/srvless/state", None),
        ("/var/lib/state", None),
    ],
)
def test_network_file_systems_are_refused(tmp_path, where, kind):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    if kind is None:
        state_module._check_file_system(where, mountinfo)
    else:
        with pytest.raises(StateDirectoryError, match=f"network file system \\({kind}\\)"):
            state_module._check_file_system(where, mountinfo)


def test_one_controller_at_a_time(path):
    made = prepare_state(path)
    assert made.controller() is None
    with made.lock():
        assert made.controller() == os.getpid()
        with pytest.raises(StateDirectoryBusy, match=str(os.getpid())) as caught:
            made.lock()
        assert (caught.value.path, caught.value.pid) == (str(path), os.getpid())
    assert made.controller() is None
    made.lock().close()


def test_a_killed_controller_holds_nothing(path):
    made = prepare_state(path)
    program = "import sys, time\nfrom octavia_core.controller.state import prepare_state\n"
    program += "lock = prepare_state(sys.argv[1]).lock()\nprint('held', flush=True)\ntime.sleep(60)\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=environment
    ) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            assert made.controller() == holder.pid
            with pytest.raises(StateDirectoryBusy):
                made.lock()
        finally:
            holder.send_signal(signal.SIGKILL)
    assert made.controller() is None
    made.lock().close()


def test_asking_who_runs_never_keeps_a_controller_from_starting(path):
    made = prepare_state(path)
    made.lock().close()
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            made.controller()

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(20):
            made.lock().close()
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def test_one_who_asks_and_stands_still_is_waited_for(path):
    made = prepare_state(path)
    made.lock().close()
    asking = os.open(path / "controller.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    goes_on = threading.Timer(0.5, os.close, (asking,))
    goes_on.start()
    try:
        made.lock().close()
    finally:
        goes_on.join()


def test_networks_are_chosen_by_identity_and_move_on_when_taken():
    first = ipaddress.IPv4Network(choose_network("some identity"))
    assert first == ipaddress.IPv4Network(choose_network("some identity"))
    assert first.prefixlen == 23
    assert first.subnet_of(ipaddress.IPv4Network("127.64.0.0/10"))
    with socket.socket() as agent:
        agent.bind((str(first[256 + 9]), 9443))
        agent.listen()
        assert choose_network("some identity") != str(first)


def test_a_full_disk_is_one_sentence(path):
    """The real thing where a tiny file system can be mounted; the kernel's own /dev/full otherwise."""
    error = state_module._cannot(str(path), "use", OSError(28, os.strerror(28)))
    assert str(error) == f"state directory {path}: cannot use: No space left on device; free some space there"
    assert Path("/dev/full").exists()
