"""The VRRP calls' own parts: the check that keepalived runs, and the copy of a configuration that is run."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from octavia_local.agent import check
from octavia_local.agent.root import Root
from octavia_local.agent.vrrp import NoVrrp, Vrrp
from octavia_local.agent.wire import Refusal, Request

CONFIGURATION = """\
vrrp_script check_script {
    script /var/lib/octavia/vrrp/check_script.sh
    interval 5
}
"""


def checked(*sockets: Path) -> int:
    """The exit code of the check, run as keepalived's script runs it."""
    line = [sys.executable, "-I", "-S", str(check.__file__), *map(str, sockets)]
    return subprocess.run(line, check=False, timeout=30).returncode


@pytest.fixture
def stats(tmp_path):
    """A socket on which something answers, at a path longer than an address of a socket can be."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    before = os.getcwd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        os.chdir(folder)
        try:
            listening.bind("stats.sock")
        finally:
            os.chdir(before)
        listening.listen()

        def answer() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(100)
                client.sendall(b"Name: HAProxy\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield folder / "stats.sock"
        thread.join(20)


def test_an_amphora_that_answers_everywhere_may_have_the_vip(stats):
    assert checked(stats) == 0


def test_one_with_nothing_to_serve_or_that_does_not_answer_may_not(tmp_path, stats):
    assert checked() == 1
    assert checked(tmp_path / "absent.sock") == 1
    assert checked(stats, tmp_path / "absent.sock") == 1


@pytest.fixture
def vrrp(tmp_path):
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    return Vrrp(Root(str(root)), "/var/lib/octavia", "/usr/sbin/keepalived", None, lambda: None)


def request(body: str) -> Request:
    return Request("PUT", "/1.0/vrrp/upload", {}, body.encode(), keep_alive=True)


def test_what_was_uploaded_is_kept_and_what_runs_has_this_machines_paths(vrrp, tmp_path):
    answer = vrrp.upload(request(CONFIGURATION))
    folder = tmp_path / "root" / "var" / "lib" / "octavia" / "vrrp"
    assert answer.status == 200
    assert (folder / "octavia-keepalived.conf").read_text() == CONFIGURATION
    run = (folder / "keepalived.conf").read_text()
    assert f"    script {folder}/check_script.sh\n" in run
    assert f"script_user {pwd.getpwuid(os.geteuid()).pw_name}\n" in run
    assert (folder / "check_script.sh").read_text() == "#!/bin/sh\nexit 1\n"
    vrrp.serving(["/a/stats.sock"])
    assert "check.py /a/stats.sock" in (folder / "check_script.sh").read_text()
    assert not (folder / "check_script.sh").stat().st_mode & 0o077


def test_nothing_is_started_before_something_was_uploaded(vrrp):
    with pytest.raises(Refusal) as caught:
        vrrp.act(request(""), "start")
    assert caught.value.status == 500
    assert vrrp.act(request(""), "stop").status == 202  # what does not run is stopped


def test_a_home_that_keepalived_cannot_name_is_refused(tmp_path):
    home = tmp_path / "with a blank"
    home.mkdir(mode=0o700)
    vrrp = Vrrp(Root(str(home)), "/var/lib/octavia", "/usr/sbin/keepalived", None, lambda: None)
    with pytest.raises(Refusal, match="blank"):
        vrrp.upload(request(CONFIGURATION))


def test_without_a_namespace_or_a_program_the_calls_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(Refusal, match="network namespace"):
        NoVrrp().upload(request(CONFIGURATION))
    with pytest.raises(Refusal, match="Unknown action"):
        NoVrrp().act(request(""), "restart")
    with pytest.raises(Refusal, match="apt-get install keepalived"):
        Vrrp(Root(str(tmp_path)), "/var/lib/octavia", "", None, lambda: None).upload(request(CONFIGURATION))
