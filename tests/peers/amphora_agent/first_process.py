"""The first process of an amphora made of namespaces: `python first_process.py ROOT BIN`.

It runs inside private mount, process-id, network and host-name namespaces, lays folders of ROOT over those that the
amphora agent has hard-coded (ROOT/etc/octavia, ROOT/var/lib/octavia, ROOT/var/log, ...), makes what an image would bring, starts the agent, and is its service manager: a
stand-in `systemctl` talks to it through a socket. Nothing outside of the namespaces changes. Standard library only.

ROOT/log gets a file per service, `agent` for the agent's own words, `syslog` for what is sent to the log socket.
ROOT/ready appears when the service manager takes commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from units import Unit, words

NAMESPACE = "amphora-haproxy"
UNITS = Path("/usr/lib/systemd/system")
SOCKET = "/run/service-manager.sock"
PATIENCE = 60.0
_MEMORY = "".join(
    f"{name}: {kilobytes} kB\n"
    for name, kilobytes in {
        "MemTotal": 1000000, "MemFree": 600000, "MemAvailable": 700000, "Buffers": 50000, "Cached": 150000,
        "SwapCached": 0, "SwapTotal": 0, "SwapFree": 0, "Shmem": 1000, "Slab": 20000,
    }.items()
)  # fmt: skip
_SYSTEMCTL = f"""#!{sys.executable} -S
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect({SOCKET!r})
client.sendall("\\n".join(sys.argv[1:]).encode() + b"\\0")
answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
code, _, text = answer.partition(" ")
print(text, end="", file=sys.stdout if code == "0" else sys.stderr)
sys.exit(int(code))
"""


def run(*command: str) -> None:
    """A command that has to succeed."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


class Processes:
    """Starts programs and collects all that end, orphans included: the first process is everybody's last parent."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._ended: dict[int, int] = {}
        self._changed = threading.Condition()
        self._begun = threading.Event()
        threading.Thread(target=self._reap, daemon=True).start()

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> int:
        """Start it in a session of its own; what it says goes to the log of that name."""
        log = str(self._logs / name)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawnp(command[0], command, environment, file_actions=actions, setsid=True)
        self._begun.set()
        return pid

    def wait(self, pid: int, within: float = PATIENCE) -> int | None:
        """Its exit code, or None when it still runs by then."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._ended, within)
            return self._ended.get(pid)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                self._begun.wait(0.05)
                self._begun.clear()
                continue
            with self._changed:
                self._ended[pid] = os.waitstatus_to_exitcode(status)
                self._changed.notify_all()


class Service:
    """One unit."""

    def __init__(self, name: str, manager: Manager, processes: Processes) -> None:
        self.name, self._manager, self._processes = name, manager, processes
        self.main = 0
        self.done = False  # a oneshot that has run
        self._wanted = False
        self._lock = threading.RLock()

    def unit(self) -> Unit:
        """As the file is now."""
        return Unit((UNITS / self.name).read_text(encoding="utf-8").replace("%n", self.name))

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return self.done or (self.main > 0 and _alive(self.main))

    def start(self) -> tuple[int, str]:
        """Start it; a running one stays."""
        with self._lock:
            if self.active:
                return 0, ""
            unit = self.unit()
            for required in " ".join(unit.all("Unit.Requires")).split():
                if (UNITS / required).exists():
                    self._manager.service(required).start()
            self._wanted = True
            return self._start(unit)

    def _start(self, unit: Unit) -> tuple[int, str]:
        for line in unit.all("Service.ExecStartPre"):
            code = self._run(unit, line)
            if code:
                return 1, f"Job for {self.name} failed: {line} ended with {code}.\n"
        kind = unit.one("Service.Type", "simple")
        commands = unit.all("Service.ExecStart")
        if kind == "oneshot":
            for line in commands:
                code = self._run(unit, line)
                if code:
                    return 1, f"Job for {self.name} failed: {line} ended with {code}.\n"
            self.done = unit.one("Service.RemainAfterExit") in ("yes", "true", "1")
            return 0, ""
        told = None
        more = {}
        if kind == "notify":
            told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            more["NOTIFY_SOCKET"] = f"/run/notify-{self.name}-{time.monotonic_ns()}"
            told.bind(more["NOTIFY_SOCKET"])
            told.settimeout(0.1)
        pid = self._spawn(unit, commands[0], more)
        if not self._ready(unit, kind, pid, told):
            return 1, f"Job for {self.name} failed because the control process exited.\n"
        threading.Thread(target=self._watch, args=(self.main, told), daemon=True).start()
        return 0, ""

    def _ready(self, unit: Unit, kind: str, pid: int, told: socket.socket | None) -> bool:
        """Whether it came up; sets the main process."""
        if kind == "forking":
            if self._processes.wait(pid) != 0:
                return False
            file = unit.one("Service.PIDFile")
            self.main = _number(file) if file else 0
            return self.main > 0
        self.main = pid
        deadline = time.monotonic() + PATIENCE
        while told is not None:
            with contextlib.suppress(TimeoutError):
                if "READY=1" in told.recv(4096).decode():
                    return True
            if self._processes.wait(pid, 0) is not None or time.monotonic() > deadline:
                self.main = 0
                return False
        return True

    def _watch(self, pid: int, told: socket.socket | None) -> None:
        """Start it again when it ends by itself and the unit says so."""
        while self._processes.wait(pid, 0.2) is None and _alive(pid):
            if told is not None:
                with contextlib.suppress(TimeoutError):
                    told.recv(4096)
        if told is not None:
            told.close()
        with self._lock:
            if self._wanted and self.main == pid:
                self.main = 0
                unit = self.unit()
                if unit.one("Service.Restart", "no") != "no":
                    time.sleep(0.1)
                    self._start(unit)

    def stop(self) -> tuple[int, str]:
        """End it, and what it left behind."""
        with self._lock:
            self._wanted = False
            self.done = False
            pid, self.main = self.main, 0
            if pid and _alive(pid):
                family = [pid, *_descendants(pid)]
                unit = self.unit() if (UNITS / self.name).exists() else Unit("")
                os.kill(pid, signal.Signals[unit.one("Service.KillSignal", "SIGTERM")])
                deadline = time.monotonic() + 10
                while _alive(pid) and time.monotonic() < deadline:
                    time.sleep(0.02)
                for one in family:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
            return 0, ""

    def reload(self) -> tuple[int, str]:
        """Run its reload commands."""
        with self._lock:
            if not self.active:
                return 1, f"{self.name} is not active, cannot reload.\n"
            unit = self.unit()
            for line in unit.all("Service.ExecReload"):
                code = self._run(unit, line)
                if code:
                    return 1, f"Job for {self.name} failed: {line} ended with {code}.\n"
            return 0, ""

    def _run(self, unit: Unit, line: str) -> int:
        code = self._processes.wait(self._spawn(unit, line, {}))
        return 0 if line.startswith("-") or code is None else code

    def _spawn(self, unit: Unit, line: str, more: dict[str, str]) -> int:
        environment = {**os.environ, **unit.environment(), "MAINPID": str(self.main), **more}
        return self._processes.start(self.name, words(line.lstrip("-@+!:"), environment), environment)


class Manager:
    """What `systemctl` is told."""

    def __init__(self, processes: Processes, log: Path) -> None:
        self._processes, self._log = processes, log
        self._services: dict[str, Service] = {}
        self._enabled: set[str] = set()
        self._lock = threading.Lock()

    def service(self, name: str) -> Service:
        """The service of that unit."""
        name = name if "." in name else f"{name}.service"
        with self._lock:
            if name not in self._services:
                self._services[name] = Service(name, self, self._processes)
            return self._services[name]

    def do(self, arguments: list[str]) -> tuple[int, str]:
        """Exit code and text of a command line."""
        plain = [word for word in arguments if not word.startswith("-")]
        if not plain or plain[0] in ("daemon-reload", "reset-failed"):
            return 0, ""
        action, names = plain[0], plain[1:]
        answers = [self._do(action, name) for name in names]
        return max(code for code, _ in answers), "".join(text for _, text in answers)

    def _do(self, action: str, name: str) -> tuple[int, str]:
        service = self.service(name)
        if action == "is-active":
            return (0, "active\n") if service.active else (3, "inactive\n")
        if action == "is-enabled":
            return (0, "enabled\n") if service.name in self._enabled else (1, "disabled\n")
        if action in ("disable", "stop"):
            self._enabled.discard(service.name) if action == "disable" else None
            return service.stop() if action == "stop" else (0, "")
        if not (UNITS / service.name).exists():
            return 5, f"Unit {service.name} not found.\n"
        if action == "enable":
            self._enabled.add(service.name)
            return 0, ""
        if action == "start":
            return service.start()
        if action == "reload":
            return service.reload()
        if action in ("restart", "reload-or-restart"):
            service.stop()
            return service.start()
        return 1, f"Unknown command verb {action}.\n"

    def serve(self) -> None:
        """Answer clients, each on a thread of its own."""
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(SOCKET)
        listening.listen()
        while True:
            client, _ = listening.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            data = b""
            while not data.endswith(b"\0"):
                data += client.recv(4096)
            arguments = data[:-1].decode().split("\n")
            try:
                code, text = self.do(arguments)
            except Exception as error:  # noqa: BLE001 - the caller gets the reason, as from a real service manager
                code, text = 1, f"{type(error).__name__}: {error}\n"
            with self._log.open("a") as log:
                log.write(json.dumps([arguments, code, text]) + "\n")
            client.sendall(f"{code} {text}".encode())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text(encoding="ascii").split():
                found += [int(child), *_descendants(int(child))]
    return found


def _number(path: str) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text(encoding="ascii"))
        time.sleep(0.02)
    return 0


def cover(root: Path, place: str, *own: str) -> Path:
    """Lay a folder of ROOT over a folder of the machine: it has what that has, but these entries are its own."""
    original, cover = root / "machine" / place[1:], root / place[1:]
    original.mkdir(parents=True)
    cover.mkdir(parents=True, exist_ok=True)
    run("mount", "--rbind", place, str(original))
    for entry in original.iterdir():
        if entry.name not in own:
            (cover / entry.name).symlink_to(entry)
    for name in own:
        (cover / name).mkdir(exist_ok=True)
    run("mount", "--bind", str(cover), place)
    return cover


def replace(root: Path, place: str) -> None:
    """Lay an empty folder of ROOT over a folder of the machine."""
    own = root / place[1:]
    own.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", str(own), place)


def script(path: Path, text: str) -> None:
    """A program."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def lay_out(root: Path, programs: Path) -> None:
    """Private folders over the hard-coded ones, and what an image brings and the package does not."""
    run("mount", "--make-rprivate", "/")
    cover(root, "/etc", "octavia", "sysctl.d")
    cover(root, "/var/lib", "octavia")
    local = cover(root, "/usr/local/bin")
    for place in (str(UNITS), "/var/log", "/run"):
        replace(root, place)
    script(local / "lvs-masquerade.sh", "#!/bin/sh\nexit 0\n")
    memory = root / "meminfo"  # of a small machine: the driver sizes caches by it, and HAProxy fills them at each start
    memory.write_text(_MEMORY, encoding="ascii")
    run("mount", "--bind", str(memory), "/proc/meminfo")
    shims = root / "shims"
    shims.mkdir()
    script(shims / "systemctl", _SYSTEMCTL)
    for name in ("sysctl", "modprobe"):  # what they change belongs to the whole machine
        script(shims / name, "#!/bin/sh\nexit 0\n")
        real = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if real is not None:
            run("mount", "--bind", str(shims / name), os.path.realpath(real))
    for name in ("amphora-interface", "haproxy-vrrp-check", "prometheus-proxy", "amphora-health-checker"):
        (shims / name).symlink_to(programs / name)
    for folder in ("/run/rsyslog/octavia", "/run/lock", "/run/netns"):
        Path(folder).mkdir(parents=True)
    Path("/var/lib/octavia/haproxy-default-user-group.conf").write_text("global\n    group nogroup\n", encoding="ascii")
    os.environ["PATH"] = f"{shims}:{programs}:/usr/sbin:/usr/bin:/sbin:/bin"


def make_network() -> None:
    """The namespace that load balancers run in, as the image's unit would."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "netns", "add", NAMESPACE)
    inside = ("ip", "netns", "exec", NAMESPACE, "sh", "-c")
    run(*inside, "ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind")
    run(*inside, "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")


def collect_logs(root: Path) -> None:
    """The log socket that HAProxy and the agent's server write to."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind("/run/rsyslog/octavia/log")
    os.chmod("/run/rsyslog/octavia/log", 0o666)

    def drain() -> None:
        with (root / "log" / "syslog").open("ab", buffering=0) as file:
            while True:
                file.write(receiver.recv(65536).rstrip(b"\n\0") + b"\n")

    threading.Thread(target=drain, daemon=True).start()


def main(root: Path, programs: Path) -> None:
    """Become the amphora."""
    os.umask(0o022)
    (root / "log").mkdir()
    lay_out(root, programs)
    make_network()
    os.chdir("/")
    collect_logs(root)
    processes = Processes(root / "log")
    threading.Thread(target=Manager(processes, root / "log" / "systemctl").serve, daemon=True).start()
    (root / "ready").touch()
    while not (root / "go").exists():  # the wires come after the namespace
        time.sleep(0.02)
    socket.sethostname(f"amphora-{root.name}")
    command = [str(programs / "amphora-agent"), "--config-file", "/etc/octavia/amphora-agent.conf"]
    agent = processes.start("agent", command, dict(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    processes.wait(agent, 86400)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
