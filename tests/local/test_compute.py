"""Local compute: what a process needs beyond the contract of the port."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import attrs
import pytest

from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError, DriverUnavailable, PermanentError, TransientError
from octavia_core.ports.compute import ServerState
from octavia_local import processes
from octavia_local.compute import LocalCompute
from octavia_local.home import private_directory
from octavia_local.places import rotated
from octavia_local.processes import Process
from octavia_local.ranges import Ranges
from tests.local.rig import LocalRig, eventually


def test_the_agent_is_nobodys_child_and_leads_a_session_without_terminal(rig):
    process = rig.process(rig.boot())
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    parent, session, terminal = int(fields[1]), int(fields[3]), int(fields[4])
    assert parent != os.getpid()
    assert session != os.getsid(0)
    assert terminal == 0


def test_an_agent_outlives_its_controller_and_is_found_by_the_next_one(rig, tmp_path):
    spec = rig.spec()
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from tests.local.rig import LocalRig
        rig = LocalRig(Path({str(tmp_path / "state")!r}))
        from octavia_core.ports.compute import ServerSpec
        spec = ServerSpec(name={spec.name!r}, amphora_id={spec.amphora_id!r})
        rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    server = eventually(lambda: rig.active(spec.name))
    assert rig.process(server).alive()
    with socket.create_connection((server.management_ip, server.agent_port), timeout=20):
        pass


def test_no_secret_in_argv_or_environment_and_every_file_private(rig, monkeypatch):
    monkeypatch.setenv("OS_PASSWORD", "not-for-agents")
    server = rig.boot()
    home, pid = rig.home(server), rig.process(server).pid
    seen = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"not-for-agents" not in seen
    assert b"a-key-for-tests" not in seen
    assert b"PRIVATE KEY" not in seen
    for path in [home.path, *home.path.rglob("*")]:
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path


def test_an_agent_is_told_its_candidates_in_the_upper_half_and_its_controllers(rig):
    server = rig.boot()
    told = json.loads((rig.home(server).path / "local.json").read_text())
    half = rig.settings.local.network.split(".")
    assert {address.rpartition(".")[0] for address in told["addresses"]} == {f"127.{half[1]}.{int(half[2]) + 1}"}
    assert len(set(told["addresses"])) == 254
    assert server.management_ip in told["addresses"]
    assert told["controller_names"] == ["octavia-controller"]


def test_an_agent_moves_on_when_its_address_is_taken(rig):
    spec = rig.spec()
    compute = LocalCompute(rig.settings)
    with socket.socket() as squatter:  # and nobody else is there: another agent might be at the second address
        first, second = rotated(Ranges.of(rig.settings).agents, spec.amphora_id)[:2]
        squatter.bind((first, 9443))
        squatter.listen()
        compute.boot(spec, lambda: rig.files(spec.amphora_id))
        server = eventually(lambda: rig.active(spec.name))
    assert server.management_ip == second


def test_the_machine_that_an_agent_runs_on_is_said(rig):
    server = rig.boot()
    assert {one.host for one in (server, rig.compute.find(server.name), *rig.compute.list())} == {socket.gethostname()}


def test_an_agent_that_cannot_start_is_in_error_with_its_last_words(rig):
    spec = rig.spec()
    rig.compute.boot(spec, dict)  # no boot files at all
    server = eventually(lambda: (found := rig.compute.find(spec.name)).state is ServerState.ERROR and found)
    assert server.fault.startswith("its agent ended: ")
    assert len(server.fault) > len("its agent ended: ")


def test_a_death_names_the_server_and_its_process(rig):
    server = rig.boot()
    told = threading.Event()
    deaths = []
    watch = rig.compute.watch(lambda death: (deaths.append(death), told.set()))
    process = rig.process(server)
    rig.kill(server)
    assert told.wait(60)
    watch.close()
    assert deaths[0].server_id == server.id
    assert str(process.pid) in deaths[0].evidence


def test_a_server_that_died_while_no_controller_ran_is_told_when_the_watch_begins(rig):
    server = rig.boot()
    rig.kill(server)
    eventually(lambda: not rig.process(server).alive())
    told = threading.Event()
    watch = rig.again().watch(lambda death: told.set())
    assert told.wait(60)
    watch.close()


def test_a_server_that_is_destroyed_on_purpose_is_no_news(rig):
    deaths = []
    watch = rig.again().watch(deaths.append)
    kept, destroyed = rig.boot(), rig.boot()
    rig.compute.destroy(destroyed.id)
    rig.kill(kept)
    eventually(lambda: deaths)
    watch.close()
    assert [death.server_id for death in deaths] == [kept.id]


def test_the_listener_may_close_the_watch_itself(rig):
    server = rig.boot()
    closed = threading.Event()
    watches = []
    watches.append(rig.compute.watch(lambda death: (watches[0].close(), closed.set())))
    rig.kill(server)
    assert closed.wait(60)
    watches[0].close()


@pytest.mark.parametrize("where", ["by-its-file", "by-its-folder"])
def test_destroying_ends_the_haproxy_too(where, rig):
    """It may outlive a killed agent for a moment, and would keep the VIP from the next one. Ours runs in its folder."""
    server = rig.boot()
    home = rig.home(server)
    config = home.path / "stray.cfg"
    config.write_text(
        f"defaults\n  timeout client 1s\n  timeout server 1s\n  timeout connect 1s\n"
        f"frontend f\n  mode tcp\n  bind {server.management_ip}:18080\n"
    )
    file = str(config) if where == "by-its-file" else config.name
    stray = subprocess.Popen([rig.compute._haproxy, "-db", "-f", file], stderr=subprocess.DEVNULL, cwd=home.path)
    try:
        eventually(lambda: _connects(server.management_ip, 18080))
        reaper = threading.Thread(target=stray.wait)
        reaper.start()
        rig.compute.destroy(server.id)
        reaper.join(60)
        assert stray.returncode == -signal.SIGKILL
        assert not _connects(server.management_ip, 18080)
    finally:
        stray.kill()


def test_a_tool_that_reads_the_directory_is_not_killed(rig):
    server = rig.boot()
    reader = subprocess.Popen(["tail", "-f", str(rig.home(server).log)], stdout=subprocess.PIPE)
    try:
        assert reader.stdout.read(1)  # it has opened the file
        rig.compute.destroy(server.id)
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.communicate()


def test_a_pid_that_is_somebody_elses_now_is_left_alone(rig):
    server = rig.boot()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        process = rig.process(server)
        rig.kill(server)
        eventually(lambda: not process.alive())
        rig.home(server).write("process.json", attrs.asdict(attrs.evolve(process, pid=bystander.pid)))
        assert rig.compute.find(server.name).state in (ServerState.STOPPED, ServerState.ERROR)
        rig.compute.destroy(server.id)
        assert bystander.poll() is None
        assert processes.end(attrs.evolve(process, pid=bystander.pid), 1.0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_half_made_directory_is_finished_and_an_unfinished_key_is_not_used(rig):
    spec = rig.spec()
    home = rig.home(spec.amphora_id)
    certificates = home.path / "etc/octavia/certs"
    private_directory(certificates)
    (certificates / "server.pem").write_text("half a key")
    rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
    eventually(lambda: rig.active(spec.name))
    assert "half a key" not in (certificates / "server.pem").read_text()


def test_complete_boot_files_without_a_process_are_kept(rig):
    spec = rig.spec()
    rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
    server = eventually(lambda: rig.active(spec.name))
    home = rig.home(server)
    key = (home.path / "etc/octavia/certs/server.pem").read_bytes()
    first = rig.process(server)
    (home.path / "process.json").unlink()  # as if the controller had died between starting and writing it down

    def files():
        raise AssertionError("the server keeps the certificate it has")

    rig.compute.boot(spec, files)
    eventually(lambda: rig.active(spec.name))
    assert (home.path / "etc/octavia/certs/server.pem").read_bytes() == key
    assert not first.alive()
    assert rig.process(server).alive()


def test_files_of_an_earlier_start_of_the_machine_are_not_trusted(rig):
    spec = rig.spec()
    home = rig.home(spec.amphora_id)
    private_directory(home.path)
    home.write("boot.json", {"boot_id": "another"})
    made = []
    rig.compute.boot(spec, lambda: made.append(1) or rig.files(spec.amphora_id))
    assert made == [1]


def test_an_interrupted_removal_is_completed(rig):
    server = rig.boot()
    rig.compute.destroy(server.id)
    left = rig.homes / f".removed-{server.id}"
    left.mkdir()
    (left / "agent.log").write_text("")
    assert rig.compute.list() == []
    rig.compute.destroy(server.id)
    assert os.listdir(rig.homes) == []


@pytest.mark.parametrize("path", ["../../outside", "etc/relative", "/etc/../../outside", "/etc/"])
def test_boot_files_stay_inside_the_amphora(rig, path):
    spec = rig.spec()
    with pytest.raises(PermanentError, match="absolute path inside the amphora"):
        rig.compute.boot(spec, lambda: {path: Secret("x")})
    rig.compute.destroy(spec.name)


def test_a_name_that_is_a_path_is_refused_and_destroys_nothing(rig):
    server = rig.boot()
    for name in ("amphora-../amphorae/" + server.id, "..", "/", ""):
        assert rig.compute.find(name) is None
        rig.compute.destroy(name)
    assert rig.active(server.name)
    with pytest.raises(PermanentError, match="no name of a local amphora"):
        rig.compute.boot(attrs.evolve(rig.spec(), name="amphora-..", amphora_id=".."), dict)


def test_a_held_directory_is_a_passing_error(rig, monkeypatch):
    server = rig.boot()
    monkeypatch.setattr(LocalCompute, "time_limit", 0.2)
    with rig.home(server).locked(1.0), pytest.raises(TransientError, match="held by another process"):
        rig.again().destroy(server.id)


def test_a_full_disk_is_one_sentence(rig):
    spec = rig.spec()

    def files():
        raise OSError(28, os.strerror(28))

    with pytest.raises(TransientError, match="No space left on device") as caught:
        rig.compute.boot(spec, files)
    assert str(rig.homes) in str(caught.value)


def test_missing_programs_and_settings_are_one_sentence(rig):
    settings = rig.settings
    local = settings.local
    with pytest.raises(DriverUnavailable, match="pip install"):
        LocalCompute(attrs.evolve(settings, local=attrs.evolve(local, haproxy="/nowhere/haproxy")))
    with pytest.raises(ConfigurationError, match="state directory"):
        LocalCompute(attrs.evolve(settings, state_directory=""))
    for network in ("", "10.0.0.0/23", "127.64.0.0/32", "here"):
        with pytest.raises(ConfigurationError, match="network"):
            LocalCompute(attrs.evolve(settings, local=attrs.evolve(local, network=network)))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_without_the_controllers_certificate_nothing_is_booted(rig, content):
    path = Path(rig.settings.haproxy_amphora.client_cert)
    path.unlink()
    if content is not None:
        path.write_text(content)
    spec = rig.spec()
    with pytest.raises(PermanentError, match="controllers' certificate"):
        rig.again().boot(spec, lambda: rig.files(spec.amphora_id))


def test_a_process_of_another_start_of_the_machine_is_dead():
    own = Process.of(os.getpid())
    assert own.alive()
    assert not attrs.evolve(own, boot_id="another").alive()
    assert not attrs.evolve(own, start_time=own.start_time + 1).alive()
    assert attrs.evolve(own, start_time=own.start_time + 1).open() is None


def test_two_state_directories_stand_side_by_side(rig, tmp_path):
    with LocalRig(tmp_path / "other") as other:
        one, two = rig.boot(), other.boot()
        assert one.management_ip != two.management_ip
        assert [server.id for server in rig.compute.list()] == [one.id]
        assert [server.id for server in other.compute.list()] == [two.id]


def _connects(host, port):
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "content", ["{}", '{"boot_id": "b", "pid": "x", "start_time": 1}', '{"pid": 1e400}', "no JSON"]
)
def test_a_damaged_process_file_is_an_unknown_process_that_can_be_destroyed(rig, content):
    server = rig.boot()
    process = rig.process(server)
    (rig.home(server).path / "process.json").write_text(content)
    assert rig.compute.find(server.name).state is ServerState.BUILDING
    assert [found.id for found in rig.compute.list()] == [server.id]
    rig.compute.destroy(server.id)
    assert not process.alive()
    assert rig.compute.list() == []
