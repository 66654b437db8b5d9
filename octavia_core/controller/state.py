"""The state directory: everything that one machine without a cloud keeps, for one user alone (0700, files 0600).

| name              | what |
|---                |---   |
| `state.json`      | format version, random id, the loopback network that was chosen |
| `octavia.toml`    | settings, for people to edit |
| `heartbeat.key`   | random key that signs heartbeats |
| `controller.lock` | held by the running controller; its pid is inside |
| `authority/`      | the two certificate authorities (`octavia_core.certs`) |
| `octavia.db`      | the database (`octavia_core.db`) |
| `amphorae/`, `network/`, `secrets/` | of the local drivers |
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import socket
import stat
import time
import tomllib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError, StateDirectoryBusy, StateDirectoryError
from octavia_core.hooks.specs import hookimpl
from octavia_core.settings import Settings, local_defaults

__all__ = [
    "FORMAT",
    "ControllerLock",
    "StateDirectory",
    "choose_network",
    "octavia_settings_sources",
    "prepare_state",
    "read_toml",
]

FORMAT = 1
"""Version of the directory's layout; a newer one is refused, an older one is converted by `prepare_state`."""

_OURS = frozenset(
    {
        "state.json",
        "octavia.toml",
        "heartbeat.key",
        "heartbeat.port",
        "controller.lock",
        "authority",
        "octavia.db",
        "octavia.db-wal",
        "octavia.db-shm",
        "octavia.db-turn",
        "amphorae",
        "network",
        "secrets",
    }
)

_PRIVATE = (
    "state.json",
    "octavia.toml",
    "heartbeat.key",
    "authority",
    "authority/agents.key",
    "authority/controllers.key",
    "authority/controller.pem",
    "secrets",
    "amphorae",
)
"""What must be closed to others, each for itself; the directory's own mode covers the rest, the database included."""

_NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse.ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "afs",
        "ocfs2",
        "gfs2",
    ]
)
"""Types in /proc/self/mountinfo on which SQLite's locks and shared memory cannot be trusted."""

_ALL_NETWORKS = ipaddress.IPv4Network("127.64.0.0/10")
_AGENT_PORT = 9443

_TOML = """\
# Settings of this state directory. Groups and names are those of octavia.conf; see docs/reference/settings.
# What stands here wins over the defaults; remove a '#' and restart the controller.

[health_manager]
# heartbeat_interval = 0.2      # seconds between the heartbeats of an amphora
# heartbeat_timeout = 1.0       # seconds of silence after which an amphora counts as dead
# health_check_interval = 0.2   # seconds between two looks for silent amphorae

[local]
# network = "{network}"   # VIPs (lower half) and amphorae (upper half); chosen when this directory was made
# haproxy = ""                  # path of HAProxy; empty finds the best one

[certificates]
# cert_validity_time = 2592000  # seconds that certificates of amphorae are valid
"""


@attrs.frozen(kw_only=True)
class StateDirectory:
    """A state directory that exists, is ours and has been checked.

    Attributes:
        path: absolute, without links.
        id: random, made with the directory.
        network: the /23 of loopback for this directory's VIPs and amphorae.
    """

    path: str
    id: str
    network: str

    @property
    def authority(self) -> str:
        """Where `certs.authority.create_authorities` puts its files."""
        return f"{self.path}/authority"

    def sources(self) -> list[tuple[str, Mapping[str, Mapping[str, Any]]]]:
        """The settings sources of one machine, weakest first, as `Settings.load` takes them.

        Raises:
            ConfigurationError: octavia.toml is no TOML.
            StateDirectoryError: a file cannot be read.
        """
        found: list[tuple[str, Mapping[str, Mapping[str, Any]]]] = [
            ("local defaults", local_defaults(self.path)),
            (f"{self.path}/state.json", {"local": {"network": self.network}}),
        ]
        try:
            key = Secret(Path(self.path, "heartbeat.key").read_bytes().strip())
        except OSError as error:
            raise _cannot(self.path, "read heartbeat.key", error) from error
        if not key:
            raise StateDirectoryError(
                f"{self.path}/heartbeat.key is empty, so no heartbeat could be believed; restore it from a backup"
            )
        found.append((f"{self.path}/heartbeat.key", {"health_manager": {"heartbeat_key": key}}))
        toml = f"{self.path}/octavia.toml"
        if os.path.exists(toml):
            found.append((toml, read_toml(toml)))
        return found

    def settings(self, *more: tuple[str, Mapping[str, Mapping[str, Any]]]) -> Settings:
        """The settings of this directory; `more` sources win over its files."""
        return Settings.load(*self.sources(), *more, state_directory=self.path)

    def lock(self) -> ControllerLock:
        """Become the running controller of this directory; held until `close` or the end of the process.

        Raises:
            StateDirectoryBusy: another process is.
        """
        return ControllerLock(self.path)

    def controller(self) -> int | None:
        """The pid of the running controller, 0 when it has not said it yet, or None when none runs."""
        try:
            fd = os.open(f"{self.path}/controller.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said_pid(fd) or 0
        else:
            return None
        finally:
            os.close(fd)


_HELD_WITHIN, _ASKED_WITHIN = 0.2, 5.0
"""Seconds after which a lock is somebody's: one that another one holds, and one that others only ask about, for a moment each."""


def _is_shared(fd: int) -> bool:
    """Whether whoever has that lock now only asks who has it. The lock is free of us afterwards."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


class ControllerLock:
    """The mark of the running controller: a lock on a file, which the kernel drops when the process ends, however."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(f"{path}/controller.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot(path, "open controller.lock", error) from error
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began > (_ASKED_WITHIN if _is_shared(self._fd) else _HELD_WITHIN):
                    pid = _said_pid(self._fd)
                    os.close(self._fd)
                    raise StateDirectoryBusy(path, pid) from None
                time.sleep(0.005)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._fd)
            raise _cannot(path, "write controller.lock", error) from error

    def close(self) -> None:
        """Give it up. Twice is harmless."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare_state(path: str | Path) -> StateDirectory:
    """Make the state directory when there is none, and check it.

    Any number of processes may do this at the same time; they get the same id, key and network.

    Args:
        path: where; `~` is understood. Directories above it are made when missing.

    Raises:
        StateDirectoryError: others may read it, it belongs to somebody else, it lies on a network file system, it holds
            other things, a newer version wrote it, or the disk is full; one sentence says which and what to do.
    """
    real = os.path.realpath(os.path.expanduser(path))
    try:
        _make_above(os.path.dirname(real))
        try:
            os.mkdir(real, 0o700)
        except FileExistsError:
            _check_directory(real)
        _check_file_system(real, Path("/proc/self/mountinfo"))
        known = _read_state(real)
        if known is None:
            _make_state(real)
            known = _read_state(real)
        _check_private(real)
    except OSError as error:
        raise _cannot(real, "use", error) from error
    if known is None:
        raise StateDirectoryError(f"{real}/state.json vanished while it was being made; try again")
    return known


def _read_state(path: str) -> StateDirectory | None:
    try:
        content = json.loads(Path(path, "state.json").read_bytes())
        version, id, network = int(content["version"]), str(content["id"]), str(content["network"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OverflowError) as error:  # the last for 1e400, which is infinite
        raise StateDirectoryError(
            f"{path}/state.json is damaged; restore it, or begin with a new state directory"
        ) from error
    if version > FORMAT:
        raise StateDirectoryError(
            f"state directory {path} has format {version}, and this program knows up to {FORMAT}; install a newer octavia-core"
        )
    return StateDirectory(path=path, id=id, network=network)


def _check_foreign(path: str) -> None:
    foreign = sorted(name for name in os.listdir(path) if name not in _OURS and not name.startswith(".new-"))
    if foreign:
        raise StateDirectoryError(
            f"{path} is not empty ({foreign[0]} is in it) and is no state directory; give an empty or a new one"
        )


def _make_state(path: str) -> None:
    _check_foreign(path)
    id = uuid.uuid4().hex
    network = choose_network(id)
    _write_once(path, "heartbeat.key", secrets.token_urlsafe(32) + "\n")
    _write_once(path, "octavia.toml", _TOML.format(network=network))
    _write_once(path, "state.json", json.dumps({"version": FORMAT, "id": id, "network": network}) + "\n")


def _write_once(path: str, name: str, text: str) -> None:
    """Write a file that appears complete, and only if there is none: of several processes the first counts."""
    aside = f"{path}/.new-{name}-{uuid.uuid4().hex[:8]}"
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        try:
            os.link(aside, f"{path}/{name}")
        except FileExistsError:
            return
    finally:
        Path(aside).unlink(missing_ok=True)


def _make_above(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StateDirectoryError(
            f"{path} is no directory, so no state directory can be in it; give another path"
        ) from None


def _check_directory(path: str) -> None:
    about = os.stat(path)
    if not stat.S_ISDIR(about.st_mode):
        raise StateDirectoryError(f"{path} is no directory; give another path as state directory")
    if about.st_uid != os.geteuid():
        raise StateDirectoryError(
            f"state directory {path} belongs to user {about.st_uid}, not to this one; use your own"
        )
    if not os.path.exists(f"{path}/state.json"):
        _check_foreign(path)  # before any advice is given about a directory that is somebody else's
    if about.st_mode & 0o077:
        raise StateDirectoryError(
            f"state directory {path} is open to other users (mode {about.st_mode & 0o777:04o}); run: chmod 700 {path}"
        )


def _check_private(path: str) -> None:
    for name in _PRIVATE:
        file = f"{path}/{name}"
        try:
            about = os.stat(file)
        except FileNotFoundError:
            continue
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            mode = "700" if stat.S_ISDIR(about.st_mode) else "600"
            raise StateDirectoryError(f"{file} is open to other users or belongs to one; run: chmod {mode} {file}")


def _check_file_system(path: str, mountinfo: Path) -> None:
    """Refuse network file systems (proc(5), mountinfo: field 5 is the mount point; the type follows the ` - `)."""
    best, kind = "", ""
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return  # not Linux: nothing to tell by
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two mounts on one point the later one counts
            best, kind = point, after.split(" ")[0]
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StateDirectoryError(
            f"state directory {path} lies on {best}, a network file system ({kind}), where a database file is not safe;"
            " use a local disk"
        )


def choose_network(identity: str) -> str:
    """A /23 of 127.64.0.0/10 that the identity decides on and where nobody listens yet; of 8192, two seldom meet.

    The upper half is tried, where agents live. Meeting another directory later is no harm either: agents and VIPs are
    bound exclusively and move on.
    """
    network = _ALL_NETWORKS
    for attempt in range(16):
        digest = hashlib.sha256(f"{identity}/{attempt}".encode()).digest()
        offset = int.from_bytes(digest[:4], "big") % (_ALL_NETWORKS.num_addresses // 512) * 512
        network = ipaddress.IPv4Network((_ALL_NETWORKS.network_address + offset, 23))
        if not any(_taken(str(host)) for host in list(network.subnets())[1].hosts()):
            break
    return str(network)


def _taken(host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, _AGENT_PORT))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # without a loopback range (macOS) the network driver will say so
    return False


def _said_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _cannot(path: str, doing: str, error: OSError) -> StateDirectoryError:
    advice = {
        errno.ENOSPC: "; free some space there",
        errno.EDQUOT: "; free some space there",
        errno.EACCES: "; give another path, or the right to write there",
        errno.EROFS: "; give a path that can be written",
    }.get(error.errno or 0, "")
    return StateDirectoryError(f"state directory {path}: cannot {doing}: {error.strerror or error}{advice}")


def read_toml(path: str) -> Mapping[str, Mapping[str, Any]]:
    """Read a settings file: TOML tables are groups, their keys options.

    Raises:
        ConfigurationError: it cannot be read, or is no TOML (with the line), or holds an option outside a group.
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error
    for name, group in content.items():
        if not isinstance(group, dict):
            raise ConfigurationError(f"{path}: {name} stands outside a group; put it under its [group]")
    return content


@hookimpl
def octavia_settings_sources() -> Mapping[str, Callable[[str], Mapping[str, Mapping[str, Any]]]]:
    """The core's own settings file."""
    return {"octavia.toml": read_toml}
