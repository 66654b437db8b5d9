"""What cannot be: one sentence that names the thing and what to do, a code that is not zero, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from octavia_core.controller.state import ControllerLock, StateDirectory, prepare_state
from tests.cli.conftest import Admin
from tests.support.members import ask, member

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Admin, str]]:
    """A state directory with a load balancer `web` that serves, and its URL."""
    admin = Admin(tmp_path_factory.mktemp("served") / "state").calm()
    with member("one") as one:
        made = admin.inside(
            "lb",
            "create",
            "--name",
            "web",
            "--listener",
            "HTTP:80",
            "--member",
            f"127.0.0.1:{one.protocol_port}",
            "--json",
        )
        yield admin, f"http://{made.data['listeners'][0]['reachable_at']}/"
        admin.inside("down")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["member", "create", "web", "300.1.2.3:80"], 2, "address is '300.1.2.3', but must be"),
        (["member", "create", "web", "127.0.0.1:99999"], 2, "99999"),
        (["member", "create", "web", "127.0.0.1:80", "--weight", "300"], 2, "weight is 300, but must be"),
        (["listener", "create", "web", "HTTP:80"], 2, "80"),
        (["listener", "create", "web", "TERMINATED_HTTPS:443"], 2, "tls_certificate_id"),
        (["listener", "set", "web", "--tls-versions", "TLSv9"], 2, "TLSv9"),
        (["monitor", "create", "web", "HTTP:/", "--delay", "0"], 2, "delay is 0"),
        (["monitor", "create", "web", "GUESS"], 2, "GUESS"),
        (["l7policy", "create", "web", "REDIRECT_TO_URL", "--redirect-url", "nowhere"], 2, "redirect_url"),
        (["listener", "create", "web", "TERMINATED_HTTPS:443", "--cert", "./typo.pem"], 2, "there is no file /"),
        (["lb", "set", "web"], 2, "nothing to change"),
        (["lb", "create", "--vip-address", "10.1.2.3"], 1, "10.1.2.3"),
        (["lb", "show", NOBODY], 3, f"no load balancer '{NOBODY}'; list what exists with: octavia-admin lb list"),
        (["listener", "show", NOBODY], 3, "octavia-admin listener list"),
        (["monitor", "show", NOBODY], 3, "octavia-admin monitor list"),
        (["pool", "delete", "nope"], 3, "no pool 'nope'"),
        (["member", "delete", "10.9.9.9:80"], 3, "no member '10.9.9.9:80'"),
        (["member", "show", f"1.1.1.1:{'9' * 5000}"], 3, "no member"),
        (["listener", "show", f"web:{'9' * 5000}"], 3, "no listener"),
        (["lb", "show", "caf\udce9"], 2, "'caf\\udce9' is not UTF-8 text"),
        (["lb", "create", "--name", "\udcff"], 2, "is not UTF-8 text"),
        (["amphora", "failover", NOBODY], 3, "octavia-admin amphora list"),
        (["operation", "cancel", NOBODY], 3, "octavia-admin operation list"),
        (["why", NOBODY], 3, f"no load balancer, amphora or operation '{NOBODY}'; list"),
        (["timeline", "nope"], 3, "nope"),
        (["events", "nope"], 3, "nope"),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_everything_goes_on(
    served: tuple[Admin, str], arguments: list[str], code: int, words: str
) -> None:
    admin, url = served
    said = admin.inside(*arguments, code=code)
    sentence = said.err.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert words in sentence
    shown = admin.inside("lb", "show", "web", "--json").data
    assert shown["provisioning_status"] == "ACTIVE"
    assert ask(url) == "one"


def certificate(folder: Path, kind: str) -> str:
    issued = trustme.CA().issue_cert("www.example.org")
    chain = issued.cert_chain_pems[0].bytes()
    if kind == "garbage":
        content = b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n" + issued.private_key_pem.bytes()
    elif kind == "a key of another certificate":
        content = chain + trustme.CA().issue_cert("www.example.org").private_key_pem.bytes()
    elif kind == "no key":
        content = chain
    else:
        return f"file://{folder}/absent.pem"
    (folder / "www.pem").write_bytes(content)
    (folder / "www.pem").chmod(0o600)
    return str(folder / "www.pem")


@pytest.mark.parametrize("kind", ["garbage", "a key of another certificate", "no key", "absent"])
def test_a_certificate_that_cannot_be_used_is_named_and_the_rest_serves_on(
    served: tuple[Admin, str], kind: str, tmp_path: Path
) -> None:
    admin, url = served
    path = certificate(tmp_path, kind)
    said = admin.inside("listener", "create", "web", "TERMINATED_HTTPS:443", "--cert", path, "--name", "bad", code=1)
    path = path.removeprefix("file://")
    assert path in said.err.splitlines()[-1]
    shown = admin.inside("lb", "show", "web", "--json").data
    assert {one["name"]: one["provisioning_status"] for one in shown["listeners"]} == {None: "ACTIVE", "bad": "ERROR"}
    assert ask(url) == "one"
    told = admin.inside("why", "web", "--json").data
    assert told["situation"] == "degraded"
    assert "listener bad" in told["problems"][0]
    assert path in told["problems"][0]
    assert admin.inside("why", "bad", "--json").data["situation"] == "failed"
    admin.inside("listener", "delete", "bad")
    assert admin.inside("why", "web", "--json").data["problems"] == []


def test_a_document_that_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "web.json"
    document.write_text(
        '{"name": "web", "listeners": [{"protocol": "HTTP", "protocol_port": 80, "protocol_port": 81}]}'
    )
    said = Admin(tmp_path / "state").inside("lb", "apply", "-f", str(document), code=2)
    assert "the name 'protocol_port' stands twice in one object" in said.err
    assert not (tmp_path / "state").exists()


def test_a_port_that_another_program_has_is_named(served: tuple[Admin, str]) -> None:
    admin, url = served
    vip = url.removeprefix("http://").partition(":")[0]
    with socket.socket() as taken:
        taken.bind((vip, 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = admin.inside("listener", "create", "web", f"TCP:{port}", "--name", "taken", code=1)
        assert str(port) in said.err.splitlines()[-1]
        assert ask(url) == "one"
    admin.inside("listener", "delete", "taken")


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "state")
    with prepare_state(admin.state).lock():
        said = admin.inside("up", code=4)
    assert f"a controller already runs on {admin.state} (process {os.getpid()})" in said.err
    assert said.err.count("\n") == 1


def test_a_state_directory_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "state")
    admin.inside("db", "upgrade")
    file = admin.state / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
    for command in (["up"], ["lb", "list"], ["lb", "create"]):
        said = admin.inside(*command, code=5)
        assert "has format 99" in said.err
        assert "install a newer octavia-core" in said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[local]\nhaproxy = "/nonexistent/haproxy"\n', "[local] haproxy = '/nonexistent/haproxy' is no program"),
        ("[health_manger]\n", "unknown group [health_manger]; did you mean health_manager?"),
        ("[engine]\nlease = 'long'\n", "[engine] lease must be a number, not 'long'"),
        ("[controller_worker]\ncompute_driver = 'nvoa'\n", "no compute driver named 'nvoa'; installed: "),
        ("what?", "octavia.toml is no TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, words: str) -> None:
    admin = Admin(tmp_path / "state")
    admin.inside("db", "upgrade")
    (admin.state / "octavia.toml").write_text(text)
    for command in (["config", "check"], ["lb", "create"]):
        said = admin.inside(*command, code=5)
        assert words in said.err
        assert said.err.count("\n") == 1


def test_a_haproxy_that_is_too_old_is_refused(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "state")
    admin.inside("db", "upgrade")
    old = tmp_path / "haproxy"
    old.write_text("#!/bin/sh\necho 'HA-Proxy version 1.8.4 2018/02/08'\n")
    old.chmod(0o755)
    (admin.state / "octavia.toml").write_text(f'[local]\nhaproxy = "{old}"\n')
    said = admin.inside("config", "check", code=5)
    assert "HAProxy 1.8.4" in said.err
    assert "2.4 is needed" in said.err


def test_a_state_directory_that_others_may_read_is_refused(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "state")
    admin.inside("db", "upgrade")
    admin.state.chmod(0o755)
    assert f"run: chmod 700 {admin.state}" in admin.inside("lb", "list", code=5).err


def test_a_directory_of_somebody_else_is_not_to_be_closed(tmp_path: Path) -> None:
    """`--state /etc` by mistake: `chmod 700 /etc` would be a bad advice."""
    (tmp_path / "passwd").write_text("")
    tmp_path.chmod(0o755)
    said = Admin(tmp_path).inside("lb", "create", code=5)
    assert "is not empty (passwd is in it) and is no state directory" in said.err
    assert "chmod" not in said.err


def small_disk(command: str, folder: Path, size: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command with a small file system of its own at the folder."""
    script = f"mount -t tmpfs -o size={size},mode=700 tmpfs {folder} && {command}"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    return subprocess.run(
        [*unshare, "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OCTAVIA_STATE": f"{folder}/state"},
    )


@pytest.mark.parametrize("size", ["64k", "900k"])
def test_a_full_disk_is_named(tmp_path: Path, size: str) -> None:
    if shutil.which("unshare") is None or small_disk("true", tmp_path, "64k").returncode:
        pytest.skip("needs a mount namespace; as root, or: sudo sysctl kernel.unprivileged_userns_clone=1")
    admin = f"{sys.executable} -m octavia_core.cli"
    done = small_disk(f"{admin} lb create --name web --listener HTTP:80", tmp_path, size)
    assert done.returncode in {1, 5}, done
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("Error: ")
    said = sentence.replace(str(tmp_path), "")  # its own name has such words
    assert any(words in said for words in ("is full", "No space left", "make room")), sentence


def test_down_waits_for_a_command_that_took_the_lock_when_the_controller_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = Admin(tmp_path / "state")
    state = prepare_state(admin.state)
    taken = []
    attempts: list[object] = []
    lock = StateDirectory.lock

    def controller(self: StateDirectory) -> None:  # nobody yet when `down` looks, and right after it somebody
        taken.append(lock(state))

    def locked(self: StateDirectory) -> ControllerLock:
        attempts.append(self)
        if len(attempts) == 2:
            taken.pop().close()
        return lock(self)

    monkeypatch.setattr(StateDirectory, "controller", controller)
    monkeypatch.setattr(StateDirectory, "lock", locked)
    said = admin.inside("down")
    assert "ended 0 amphora(e)" in said.out
    assert len(attempts) == 2


def test_down_says_who_does_not_let_go_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Admin(tmp_path / "state")
    with prepare_state(admin.state).lock():
        monkeypatch.setattr(StateDirectory, "controller", lambda self: None)
        said = admin.inside("down", "--timeout", "1", code=6)
    assert f"process {os.getpid()} works on {admin.state}" in said.err
    assert "octavia-admin down" not in said.err
