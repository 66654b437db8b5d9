"""The VRRP calls: keepalived as a child of the agent, in the foreground, with every file it needs in the amphora's home.

What was uploaded is kept as it came. What runs is a copy with the check script's path of this machine and the account that
runs it. A keepalived that dies is started again; one that was told to stop gives the VIP up and stays away.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from octavia_local.agent import check
from octavia_local.agent.root import Root, log
from octavia_local.agent.supervisor import Child, Spawn, Supervisor
from octavia_local.agent.wire import Refusal, Request, Response, answer, md5

__all__ = ["NoVrrp", "Vrrp"]

_ACTIONS = ("start", "stop", "reload")
_UPLOADED, _CHECK = "octavia-keepalived.conf", "check_script.sh"
_RUN = "keepalived.conf"
_STOPPED_WITHIN = 5.0
_QUICK_DEATH, _PAUSE = 1.0, 1.0
_LARGEST_LOG = 1024 * 1024
_NO_NAMESPACE = (
    "keepalived needs a network namespace of its own, which a local amphora without privileges does not have"
)
_NO_PROGRAM = "keepalived is not installed on this machine; install it (Debian: apt-get install keepalived)"


class NoVrrp:
    """The calls of an amphora on loopback: refused, in a sentence."""

    running = False

    def upload(self, request: Request) -> Response:
        """PUT /vrrp/upload."""
        raise Refusal(400, "Invalid Request", _NO_NAMESPACE)

    def act(self, request: Request, action: str) -> Response:
        """PUT /vrrp/{action}."""
        if action not in ("upload", *_ACTIONS):
            raise Refusal(400, "Invalid Request", f"Unknown action: {action}")
        raise Refusal(400, "Invalid Request", _NO_NAMESPACE)

    def serving(self, sockets: Sequence[str], *, datagrams: bool = False) -> None:
        """The stats sockets of what serves now, and whether any UDP listener is served."""

    @property
    def silent(self) -> bool:
        """Whether keepalived should run and does not, so that heartbeats are withheld, as upstream's agent does."""
        return False


class Vrrp(NoVrrp):
    """The calls of an amphora in a namespace.

    Args:
        root: the amphora's file system.
        base_path: upstream's /var/lib/octavia.
        program: absolute path of keepalived; empty: there is none.
        supervisor: starts it.
        withdraw: takes the VIPs from the interfaces.
    """

    def __init__(
        self, root: Root, base_path: str, program: str, supervisor: Supervisor, withdraw: Callable[[], None]
    ) -> None:
        self._root, self._program, self._supervisor, self._withdraw = root, program, supervisor, withdraw
        self._base, self._folder = base_path, f"{base_path}/vrrp"
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._wanted = False
        self._sockets: tuple[str, ...] = ()
        self._datagrams = False

    def upload(self, request: Request) -> Response:
        """Keep a configuration; what runs goes on with the old one until `start` or `reload`."""
        if not self._program:
            raise Refusal(400, "Invalid Request", _NO_PROGRAM)
        try:
            text = request.body.decode()
        except UnicodeDecodeError as error:
            raise Refusal(400, "Invalid Request", "the configuration is not UTF-8 text") from error
        self._root.write(f"{self._folder}/{_RUN}", self._translated(text).encode())
        self._root.write(f"{self._folder}/{_UPLOADED}", request.body)
        self._write_check()
        return answer(200, {"message": "OK"}, etag=md5(request.body))

    def act(self, request: Request, action: str) -> Response:
        word = action.lower()
        if word not in _ACTIONS:
            raise Refusal(400, "Invalid Request", f"Unknown action: {action}")
        if word == "stop":
            self._stop()
            return answer(202, {"message": "OK", "details": "keepalived stopped"})
        if not os.path.exists(self._root.inside(f"{self._folder}/{_RUN}")):
            raise Refusal(500, f"Failed to {word} octavia-keepalived service", "no configuration was uploaded yet")
        with self._lock:
            self._wanted = True
            child = self._child
        if child is not None and child.running:
            child.signal(signal.SIGHUP)
            return answer(202, {"message": "OK", "details": "keepalived reloaded"})
        self._supervisor.call(self._start)
        return answer(202, {"message": "OK", "details": "keepalived started"})

    def serving(self, sockets: Sequence[str], *, datagrams: bool = False) -> None:
        with self._lock:
            now = tuple(sockets), datagrams
            changed, (self._sockets, self._datagrams) = (self._sockets, self._datagrams) != now, now
        if changed and os.path.exists(self._root.inside(f"{self._folder}/{_CHECK}")):
            self._write_check()

    @property
    def silent(self) -> bool:
        with self._lock:
            return self._wanted and (self._child is None or not self._child.running)

    # -- inside ----------------------------------------------------------------------------------------------------
    def _translated(self, text: str) -> str:
        """The copy that is run: the image's paths are those in the amphora's home."""
        home = self._root.inside(self._base)
        if re.search(r"\s|\"", home) and f"{self._base}/" in text:
            raise Refusal(
                400, "Invalid Request", f"keepalived cannot run a check in {home}: its path has a blank or a quote"
            )
        account = _account()
        head = f"global_defs {{\n    script_user {account}\n    vrrp_garp_master_delay 1\n}}\n" if account else ""
        return head + re.sub(rf"(?<![\w/]){re.escape(self._base)}/", f"{home}/", text)

    def _write_check(self) -> None:
        """The script that says whether this amphora can serve: with nothing to serve it cannot."""
        sockets = self._sockets
        if sockets:
            line = f"exec {shlex.join([sys.executable, '-I', '-S', str(check.__file__), *sockets])}"
        else:
            line = "exit 0" if self._datagrams else "exit 1"  # datagrams are sent on by rules, which do not die
        path = self._root.write(f"{self._folder}/{_CHECK}", f"#!/bin/sh\n{line}\n".encode())
        os.chmod(path, 0o700)

    def _start(self) -> None:
        """On the main thread."""
        folder, logs = self._root.inside(self._folder), self._root.inside("/var/log/octavia")
        os.makedirs(logs, mode=0o700, exist_ok=True)
        output = os.open(f"{logs}/keepalived.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(output).st_size > _LARGEST_LOG:
                os.ftruncate(output, 0)
            own = [f"--{name}={folder}/{name}.pid" for name in ("pid", "vrrp_pid", "checkers_pid")]
            options = ["--dont-fork", "--vrrp", f"--use-file={folder}/{_RUN}", "--log-console", "--log-detail", *own]
            child = self._supervisor.spawn(Spawn([self._program, *options], folder, output, on_exit=self._ended))
        finally:
            os.close(output)
        with self._lock:
            self._child = child

    def _ended(self, child: Child) -> None:
        """On the main thread."""
        with self._lock:
            if not self._wanted or self._child is not child:
                return
        quick = time.monotonic() - child.started < _QUICK_DEATH
        log(f"keepalived {child.pid} ended with status {child.status}; another one is started")
        self._supervisor.after(_PAUSE if quick else 0.0, self._again)

    def _again(self) -> None:
        with self._lock:
            wanted = self._wanted and (self._child is None or not self._child.running)
        if wanted:
            self._start()

    def _stop(self) -> None:
        with self._lock:
            self._wanted, child = False, self._child
        if child is not None:
            child.signal(signal.SIGTERM)
            if child.wait(_STOPPED_WITHIN) is None:
                child.signal(signal.SIGKILL)
                child.wait(_STOPPED_WITHIN)
        self._withdraw()


def _account() -> str:
    """The name of the user that this process runs as; empty when it has none."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
