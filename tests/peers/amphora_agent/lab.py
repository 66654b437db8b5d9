"""A laboratory of network namespaces: the controller, its clients and the members in one, each amphora in its own.

Nothing of the machine's network is touched. The thread that enters the laboratory is in its namespace until it leaves;
sockets and programs it makes meanwhile are too, and so are threads it starts.

    controller  br-mgmt 10.10.0.1, br-vip 10.20.0.1, br-member 10.30.0.1 ---- amphora  mgmt, vip, member
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from tests.peers.environment import peer
from tests.peers.octavia_api.programs import Process, until
from tests.support import system

__all__ = ["MANAGEMENT", "MEMBERS", "PROGRAMS", "VIPS", "Lab", "Machine", "lab"]

MANAGEMENT, VIPS, MEMBERS = "10.10.0", "10.20.0", "10.30.0"
"""Networks of 24 bits; the controller is .1 on each."""
AMPHORA_ID = "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11"
KEY = "only-for-tests"
"""The heartbeat key."""
VIP, VRRP = f"{VIPS}.100", f"{VIPS}.11"
VIP6 = "fd00:198:51:100::64"
PROGRAMS = ("haproxy", "keepalived", "ipvsadm", "nft", "ip")
"""What an amphora's image has; `GET /info` asks the package manager for the first three."""

_CLONE_NEWNET = 0x40000000


def requirements() -> None:
    """Skip, with the command that helps, where the laboratory cannot be."""
    if os.geteuid() != 0:
        system.unavailable("an amphora made of namespaces needs root; to enable: sudo python3 noxfile.py -s peers")
    if not sys.platform.startswith("linux") or shutil.which("dpkg-query") is None:
        system.unavailable("the unmodified agent asks dpkg for versions: it needs Debian or Ubuntu")
    for name in PROGRAMS:
        system.require(name)


def _enter(what: int | None) -> None:
    """Move this thread into a network namespace: a new one, or that of the descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.unshare(_CLONE_NEWNET) if what is None else libc.setns(what, _CLONE_NEWNET)
    if done != 0:
        raise OSError(ctypes.get_errno(), "network namespaces")


def ip(*words: str) -> None:
    """The `ip` command, in the namespace of this thread."""
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@attrs.define(eq=False)
class Machine:
    """An amphora without a hypervisor: the unmodified agent and what it starts, in namespaces of its own."""

    amphora_id: str
    root: Path
    process: Process
    number: int

    @property
    def at(self) -> AgentAddress:
        """Where its agent answers."""
        return AgentAddress(amphora_id=self.amphora_id, host=f"{MANAGEMENT}.{self.number}")

    def mac(self, kind: str) -> str:
        """Address of one of its interfaces."""
        return f"fa:16:3e:00:{self.number:02x}:{'mgmt vip member'.split().index(kind):02x}"

    def inside(self, *command: str, namespace: bool = True) -> str:
        """What a command says inside, in the namespace of the load balancers or the amphora's own."""
        first = ["nsenter", "--target", str(self._pid), "--mount", "--net", "--pid", "--uts"]
        inner = ["ip", "netns", "exec", "amphora-haproxy"] if namespace else []
        done = subprocess.run(
            [*first, *inner, *command], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def _pid(self) -> int:
        return self.process.pids()[1]  # `unshare`, then its child, the first process inside

    def plug(self, kind: str, bridge: str) -> None:
        """A cable from a bridge of the laboratory to a new interface of the amphora."""
        outer = f"{kind}{self.number}"
        ip(
            "link",
            "add",
            outer,
            "type",
            "veth",
            "peer",
            "name",
            kind,
            "address",
            self.mac(kind),
            "netns",
            str(self._pid),
        )
        ip("link", "set", outer, "master", bridge, "up")

    def log(self, name: str) -> str:
        """What one of its services said."""
        path = self.root / "log" / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def requests(self) -> list[str]:
        """The requests that the agent logged, as "METHOD /path", oldest first."""
        lines = (line.partition('"')[2].partition('"')[0].split() for line in self.log("syslog").splitlines())
        return [f"{words[0]} {words[1]}" for words in lines if len(words) == 3 and words[2].startswith("HTTP/")]

    def said(self) -> str:
        """The ends of all logs, for a failing test."""
        logs = sorted((self.root / "log").glob("*")) + sorted((self.root / "var/log").glob("*.log"))
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs) + self.process.said()


class Lab:
    """See the module; use `lab()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = peer()
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._machines: list[Machine] = []
        _enter(None)
        ip("link", "set", "lo", "up")
        for name, network in (("br-mgmt", MANAGEMENT), ("br-vip", VIPS), ("br-member", MEMBERS)):
            ip("link", "add", name, "type", "bridge")
            ip("address", "add", f"{network}.1/24", "dev", name)
            ip("link", "set", name, "up")

    def address(self, network: str, number: int, bridge: str) -> str:
        """One more address of the laboratory, for a member or a client."""
        ip("address", "add", f"{network}.{number}/24", "dev", bridge)
        return f"{network}.{number}"

    def boot(self, amphora_id: str, files: Mapping[str, Secret], number: int) -> Machine:
        """An amphora with these boot files; it is up when its agent answers."""
        root = self.folder / f"amphora{number}"
        root.mkdir(mode=0o755)
        for path, content in files.items():
            if path.startswith("/etc/octavia/"):  # the rest is for programs that are not here
                own = root / path.lstrip("/")
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_bytes(content.reveal())
        inside = [str(self.programs / "python"), "-S", str(Path(__file__).with_name("first_process.py"))]
        unshare = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child", "--mount-proc"]
        command = [*unshare, *inside, str(root), str(self.programs)]
        machine = Machine(amphora_id, root, Process(f"amphora{number}", self.folder, command), number)
        machine.process.start()
        self._machines.append(machine)

        def ready() -> bool:
            assert machine.process.running(), machine.said()
            return (root / "ready").exists()

        until("the amphora's first process is ready", ready)
        machine.plug("mgmt", "br-mgmt")
        machine.inside("ip", "address", "add", f"{MANAGEMENT}.{number}/24", "dev", "mgmt", namespace=False)
        machine.inside("ip", "link", "set", "mgmt", "up", namespace=False)
        (root / "go").touch()
        return machine

    def close(self) -> None:
        """End all amphorae, and leave."""
        for machine in self._machines:
            machine.process.stop()
        _enter(self._before)
        os.close(self._before)


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A laboratory for this thread."""
    requirements()
    try:
        made = Lab(folder)
    except PermissionError as error:
        pytest.skip(f"this machine allows no network namespaces ({error}); a container needs: --cap-add SYS_ADMIN")
    try:
        yield made
    finally:
        made.close()
