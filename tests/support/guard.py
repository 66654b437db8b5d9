"""Run a server for as long as another process lives: `python guard.py PID SIGNAL ACCOUNT FOLDER COMMAND...`.

Test servers must not outlive their test run, even when that is killed with SIGKILL, and must not die with the xdist
worker that happened to start them. This process is the server's parent: when PID is gone, or it is told to stop by
SIGTERM, it sends SIGNAL to the server, waits, and after ten seconds kills it. ACCOUNT is whom the server runs as
(empty: whoever runs this), FOLDER where. Standard library only.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import subprocess
import sys


def start(command: list[str], account: str, folder: str) -> subprocess.Popen[bytes]:
    """Start a program under that account (empty: one's own), in that folder."""
    if not account:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder)
    group = pwd.getpwnam(account).pw_gid
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder, user=account, group=group, extra_groups=[])


def main(watched: int, last_word: int, account: str, folder: str, command: list[str]) -> int:
    """Start the command and stay until it, or the watched process, ends."""
    stop_reader, stop_writer = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(stop_writer, b"x"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; pytest decides when it is over
    try:
        watched_fd = os.pidfd_open(watched)
    except ProcessLookupError:
        return 1
    server = start(command, account, folder)
    waiter = select.poll()
    for descriptor in (watched_fd, stop_reader, os.pidfd_open(server.pid)):
        waiter.register(descriptor, select.POLLIN)
    waiter.poll()
    if server.poll() is None:
        server.send_signal(last_word)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:]))
