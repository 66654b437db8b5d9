"""UDP on loopback: one nginx with its stream module for each listener, on sockets that the agent holds.

It is a master with one worker, which outlives a master that is killed: so the kernel ends the master gently when the agent
ends (SIGTERM), and a worker that was left behind all the same is found by its working directory and killed before another one
starts. The sockets are bound exclusively by the agent and inherited (nginx's own way of replacing its binary: the variable
NGINX), so a port that is taken is refused in a sentence, and while a killed nginx is replaced the kernel keeps what comes.

A change of members is a new configuration and SIGHUP. To know when it holds, each configuration listens on a Unix socket of
its own number too, and says that number there. A worker that no longer does stands still: it is killed, and another one serves.

A session is a client's address and port: all its datagrams go to one member until it was idle for `udp_idle` seconds or
the configuration was changed. nginx counts a session when it ends; its line in the log of sessions is the statistics.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

from octavia_local.agent.generation import remove_tree
from octavia_local.agent.lvs import Group, Service
from octavia_local.agent.root import Root, log
from octavia_local.agent.sockets import Bind, HeldSockets
from octavia_local.agent.supervisor import Child, Spawn, Supervisor
from octavia_local.agent.wire import Refusal

__all__ = ["Nginx", "configuration"]

_CONFIG, _SESSIONS, _OUTPUT = "nginx.conf", "sessions.log", "nginx.log"
_READY_WITHIN = 10.0
_STOPPED_WITHIN, _KILLED_WITHIN = 3.0, 1.0
_LET_GO_WITHIN = 5.0
_SAYS_WITHIN, _SILENT_FOR = 0.5, 3.0
"""Seconds for an answer on the readiness socket, and of silence at every look until a process is taken for one that stands still."""
_GRACE = "1s"
"""How long a worker that was replaced waits for answers of members; then its sessions end, and are counted."""
_QUICK_DEATH, _PAUSE = 0.5, 1.0
_LARGEST_LOG = 1024 * 1024
_LARGEST_ANSWER = "64k"
"""Beyond the largest datagram (65,507 bytes); nginx cuts answers at its `proxy_buffer_size`, 16 KiB unless told."""
_MILD = ("[notice]", "[warn]", "[error]")
"""Levels of what nginx says that are no reason for it not to start."""
_DENIED = "403"  # nginx's status of a session whose client is not let in
_NOBODY = "server 0.0.0.1:9 down;"
"""An upstream block may not be empty; this one is never asked."""
_ESTABLISHED = "01"  # state of a connected UDP socket in /proc/net/udp


def configuration(service: Service, usable: Collection[str], *, ready: str, idle: float, most: int) -> str:
    """The text of nginx.conf.

    Args:
        service: what is served.
        usable: members that get traffic: up, or not looked at yet.
        ready: what the readiness socket says; its name is `ready-` and this.
        idle: seconds after which a session ends.
        most: the most sessions at a time.
    """
    lines = [
        "daemon off;",
        *_account(),
        "worker_processes 1;",
        f"worker_shutdown_timeout {_GRACE};",
        "error_log stderr error;",
        "pid nginx.pid;",
        f"events {{ worker_connections {most}; }}",
        "stream {",
        "    log_format counted '$bytes_received $bytes_sent';",
        f'    map $status $served {{ {_DENIED} ""; default 1; }}',
        f"    access_log {_SESSIONS} counted buffer=32k flush=1s if=$served;",
        f"    proxy_buffer_size {_LARGEST_ANSWER};",
        f"    server {{ listen unix:ready-{ready}; return {ready}; access_log off; }}",
    ]
    for number, group in enumerate(service.groups):
        lines += [f"    {line}" for line in _group(number, group, usable, idle)]
        lines += [f"        allow {network};" for network in service.allowed]
        lines += ["        deny all;"] if service.allowed else []
        lines += ["    }"]
    return "\n".join([*lines, "}", ""])


def _group(number: int, group: Group, usable: Collection[str], idle: float) -> Iterator[str]:
    """Its members, and its server without the end."""
    sticky = group.persistence > 0
    if sticky:
        yield from _clients(number, group)
    yield f"upstream members{number} {{"
    if sticky or group.algorithm == "sh":
        yield f"    hash {f'$client{number}' if sticky else '$remote_addr'} consistent;"
    elif group.algorithm == "lc":
        yield "    least_conn;"
    yield f"    {_NOBODY}"
    for real in group.reals:
        place = f"[{real.address}]:{real.port}" if ":" in real.address else f"{real.address}:{real.port}"
        words = [f"server {place}", f"weight={max(1, real.weight)}", "max_fails=0"]
        words += [f"max_conns={real.limit}"] if real.limit else []
        words += ["down"] if real.weight == 0 or real.id not in usable else []
        yield f"    {' '.join(words)};"
    yield "}"
    yield "server {"
    yield from (f"    listen {bind} udp;" for bind in group.binds)
    yield f"    proxy_pass members{number};"
    yield f"    proxy_timeout {max(1, round(idle * 1000))}ms;"


def _clients(number: int, group: Group) -> Iterator[str]:
    """What counts as one client: an address, or as many whole bytes of it as the granularity has."""
    bytes_ = group.prefix // 8
    yield f"map $remote_addr $client{number} {{"
    yield "    default $remote_addr;"
    if ipaddress.ip_address(group.binds[0].host).version == 4 and group.prefix < 32:
        yield f'    "~^(?<net{number}>{_octets(bytes_)})" $net{number};' if bytes_ else '    "~." all;'
    yield "}"


def _octets(count: int) -> str:
    return r"\.".join([r"\d+"] * count) + r"\."


class Counts(NamedTuple):
    """What was counted since the listener was started."""

    received: int = 0
    sent: int = 0
    sessions: int = 0


class Nginx:
    """Serves one listener. `apply`, `stop` and `counters` may be called from any thread but the main one, one at a time.

    Args:
        program: absolute path of nginx.
        supervisor: starts it.
        root: the amphora's file system.
        home: a folder of the image for this listener alone.
        sockets: holds its addresses; of datagrams.
        idle: seconds after which a session ends.
    """

    def __init__(
        self, program: str, supervisor: Supervisor, root: Root, home: str, sockets: HeldSockets, idle: float
    ) -> None:
        self._program, self._supervisor, self._idle = program, supervisor, idle
        self._folder = root.inside(home)
        self._sockets = sockets
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._binds: tuple[Bind, ...] = ()
        self._number = 0
        self._text = ""
        self._confirmed, self._silent_since = 0, 0.0
        self._heard: Child | None = None
        self._counts, self._read = Counts(), 0
        self._most = _most_sessions()

    def hold(self, service: Service) -> list[Bind]:
        """Take the addresses of a listener; returns those that were not held before.

        Raises:
            Refusal: 400, one of them cannot be had, or its protocol is not served here.
        """
        if service.protocol != "UDP":
            raise Refusal(
                400, "Invalid request", f"{service.protocol} cannot be served on loopback: nginx speaks UDP only"
            )
        return self._sockets.hold(service.binds)

    def release(self, binds: Collection[Bind]) -> None:
        """Give addresses back that `hold` returned."""
        self._sockets.release(binds)

    def apply(self, service: Service, usable: Collection[str]) -> None:
        """Serve it like this.

        Raises:
            Refusal: nginx does not take it; what ran, runs.
        """
        binds = service.binds
        self.hold(service)
        real = service._replace(groups=tuple(self._here(group) for group in service.groups))
        running = self._child is not None and self._child.running
        text = self._render(real, usable)
        if running and binds == self._binds and text.partition("stream {")[2] == self._text.partition("stream {")[2]:
            return
        answers = running and self._answers()
        self._number += 1
        self._text = text = self._render(real, usable)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        _write(f"{self._folder}/{_CONFIG}", text)
        old = self._workers()
        if answers and binds == self._binds and self._child is not None:
            self._child.signal(signal.SIGHUP)
        else:
            self._end(signal.SIGQUIT if answers else signal.SIGKILL)
            self._binds = binds
            self._supervisor.call(self._start)
        self._wait_until_it_says(self._number)
        self._wait_until_they_let_go(old)
        self._sockets.keep_only(set(binds))

    def stop(self) -> None:
        """End it and close its addresses; not running is fine. Sessions end at once: nobody asks for what they counted any more,
        and waiting for each (`_GRACE`) would take a second for each listener.
        """
        self._end(signal.SIGTERM)
        self._sockets.keep_only(())
        self._binds = ()

    def delete(self) -> None:
        """Forget everything."""
        self.stop()
        remove_tree(self._folder)

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._child is not None and self._child.running

    @property
    def processes(self) -> int:
        """Running processes."""
        return int(self.running)

    def counters(self) -> dict[str, int]:
        """Sessions that have ended, their bytes, and the sessions of now. See that it does not stand still."""
        self._look_after()
        path = f"{self._folder}/{_SESSIONS}"
        try:
            with open(path, "r+b") as file:
                file.seek(self._read)
                data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._read += len(whole)
                if self._read > _LARGEST_LOG and len(whole) == len(data):
                    file.truncate(0)  # what is written this very instant is not counted
                    self._read = 0
        except OSError:
            whole = b""
        received, sent, sessions = self._counts
        for line in whole.splitlines():
            first, _, second = line.partition(b" ")
            if first.isdigit() and second.isdigit():
                received, sent, sessions = received + int(first), sent + int(second), sessions + 1
        self._counts = Counts(received, sent, sessions)
        return {"scur": self._sessions_now(), "stot": sessions, "bin": received, "bout": sent, "ereq": 0}

    # -- inside ----------------------------------------------------------------------------------------------------
    def _render(self, service: Service, usable: Collection[str]) -> str:
        return configuration(service, usable, ready=str(self._number), idle=self._idle, most=self._most)

    def _here(self, group: Group) -> Group:
        """With the places where its sockets really are."""
        return group._replace(binds=tuple(Bind(*self._sockets.address(bind)) for bind in group.binds))

    def _wait_until_it_says(self, number: int) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline and self.running:
            if self._says(number):
                self._confirmed, self._silent_since, self._heard = number, 0.0, self._child
                return
            time.sleep(0.002)
        raise Refusal(500, "Error starting nginx", self._words() or f"nginx was not ready within {_READY_WITHIN:.0f} s")

    def _says(self, number: int) -> bool:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _says(f"/proc/self/fd/{folder}/ready-{number}") == str(number).encode()
        finally:
            os.close(folder)

    def _answers(self) -> bool:
        """Whether its worker does anything; True also where that is not known, since what was asked of it last was refused."""
        return self._confirmed != self._number or self._says(self._number)

    def _look_after(self) -> None:
        """Kill one that stands still; its end is followed by another one, which takes the same sockets."""
        child, now = self._child, time.monotonic()
        if child is None or not child.running:
            self._silent_since = 0.0
        elif self._answers():
            self._silent_since, self._heard = 0.0, child
        elif not self._silent_since:
            self._silent_since = now
        elif now - self._silent_since > (_SILENT_FOR if child is self._heard else _READY_WITHIN):
            log(f"nginx {child.pid} has not answered for {now - self._silent_since:.0f} s; it is killed")
            self._silent_since = 0.0
            child.signal(signal.SIGKILL)

    def _workers(self) -> list[int]:
        """The processes under the master."""
        child = self._child
        if child is None:
            return []
        try:
            with open(f"/proc/{child.pid}/task/{child.pid}/children", encoding="ascii") as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []  # it has just ended

    def _wait_until_they_let_go(self, workers: Collection[int]) -> None:
        """Workers that are being replaced read datagrams until they have closed the sockets; then only the new one does."""
        held = {f"socket:[{self._sockets.inode(bind)}]" for bind in self._binds}
        deadline = time.monotonic() + _LET_GO_WITHIN
        for pid in workers:
            while time.monotonic() < deadline and held & _open_files(pid):
                time.sleep(0.002)

    def _words(self) -> str:
        with open(f"{self._folder}/{_OUTPUT}", encoding="utf-8", errors="replace") as file:
            lines = file.read()[-2000:].splitlines()
        return "\n".join(line for line in lines if not any(level in line for level in _MILD)).strip()

    def _start(self) -> None:
        """On the main thread."""
        output = os.open(f"{self._folder}/{_OUTPUT}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(output).st_size > _LARGEST_LOG:
                os.ftruncate(output, 0)
            descriptors = [self._sockets.descriptor(bind) for bind in self._binds]
            inherited = {"NGINX": "".join(f"{descriptor};" for descriptor in descriptors)}
            argv = [self._program, "-p", f"{self._folder}/", "-c", _CONFIG, "-e", "stderr"]
            _end_left_behind(self._folder)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/ready-{self._number}")  # of one that was killed
            spawn = Spawn(
                argv, self._folder, output, descriptors, self._ended, inherited, signal.SIGTERM, signal.SIGQUIT
            )
            child = self._supervisor.spawn(spawn)
        finally:
            os.close(output)
        with self._lock:
            self._child = child

    def _end(self, by: int) -> None:
        """Ask it to end: SIGQUIT when sessions have to be counted, SIGTERM at once."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.signal(by)
            if child.wait(_STOPPED_WITHIN) is None:
                child.signal(signal.SIGKILL)
                child.wait(_STOPPED_WITHIN)
            _end_left_behind(self._folder)

    def _ended(self, child: Child) -> None:
        """On the main thread."""
        with self._lock:
            if self._child is not child:
                return
        log(f"nginx {child.pid} ended with status {child.status}; another one is started")
        quick = time.monotonic() - child.started < _QUICK_DEATH
        self._supervisor.after(_PAUSE if quick else 0.0, lambda: self._again(child))

    def _again(self, dead: Child) -> None:
        with self._lock:
            wanted = self._child is dead
        if wanted:
            self._start()

    def _sessions_now(self) -> int:
        """Each session has a connected socket to its member."""
        own = {link for pid in self._workers() for link in _open_files(pid)}
        return sum(f"socket:[{inode}]" in own for inode in _connected()) if own else 0


def _open_files(pid: int) -> set[str]:
    """What its descriptors are; none when it has ended."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        return set()
    return found


def _connected() -> Iterator[str]:
    """Inodes of connected UDP sockets (proc(5), net/udp: state is field 3, inode field 9)."""
    for path in ("/proc/self/net/udp", "/proc/self/net/udp6"):
        try:
            with open(path, encoding="ascii") as file:
                for line in file.readlines()[1:]:
                    fields = line.split()
                    if fields[3] == _ESTABLISHED:
                        yield fields[9]
        except FileNotFoundError:
            continue


def _end_left_behind(folder: str) -> None:
    """Kill workers of nginx that work in this folder and whose master is no more, and wait for their end a moment."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{name}/cwd") != folder:
                continue
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue  # not ours, or it has ended
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                known = file.read().startswith(b"nginx:")
            if known and os.readlink(f"/proc/{name}/cwd") == folder:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(_KILLED_WITHIN * 1000)
        except OSError:
            continue
        finally:
            os.close(pidfd)


def _account() -> list[str]:
    """Who the worker is: whoever this is. Only as root would nginx become somebody else."""
    if os.geteuid() != 0:
        return []
    import grp
    import pwd

    try:
        return [f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};"]
    except KeyError:
        return []


def _says(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_SAYS_WITHIN)
        try:
            client.connect(path)
            return client.recv(64)
        except OSError:
            return b""


def _write(path: str, text: str) -> None:
    from octavia_local.agent.root import write_atomically

    write_atomically(path, text.encode())


def _most_sessions() -> int:
    """As many as the limit of open files allows, a few left for the process itself."""
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    soft = getrlimit(RLIMIT_NOFILE)[0]
    return 16_384 if soft == RLIM_INFINITY else max(64, min(16_384, soft - 32))
