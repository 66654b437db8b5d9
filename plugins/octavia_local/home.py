"""`<state directory>/amphorae/<amphora id>/`: the file system of one local amphora, and all that is known about it.

| file           | written by | says |
|---             |---         |---   |
| (boot files)   | compute    | absolute path P of the amphora is kept as `<home>/P` |
| `boot.json`    | compute    | the boot files are complete, and under which boot of the kernel they were written |
| `local.json`   | compute    | what the agent must know of this machine: addresses, port, HAProxy, controllers |
| `process.json` | compute    | which process the agent is |
| `agent.json`   | agent      | it answers: where, and which process says so |
| `heirlooms`    | agent      | a socket: by it come the VIP's sockets of the amphora before |
| `heir.json`    | drivers    | it is being replaced: which amphora gets its sockets |
| `shared.json`  | agent      | which amphora has them |
| `removing`     | compute    | it is being destroyed on purpose: its end is no news |
| `agent.log`    | agent      | what it says |

The directory is 0700 and its files are 0600. Whoever changes it holds a lock on the directory itself, which ends with
the holder; a file is complete or absent (it is written aside and renamed).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from octavia_core.errors import PermanentError, TransientError
from octavia_local.processes import Process

__all__ = ["PREFIX", "Home", "amphora_id_of", "as_port_error", "private_directory", "write_private"]

PREFIX = "amphora-"
"""Server names are `amphora-<amphora id>`, as upstream's compute driver names them."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_LOOK_AGAIN = 0.005
_HIGHEST_PID = 2**22  # PID_MAX_LIMIT of the kernel, proc_sys_kernel(5)
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.EINTR})
"""What may be gone at the next attempt: full disks and tables."""


def as_port_error(error: OSError, doing: str) -> TransientError | PermanentError:
    """The error of the ports for one of the operating system: full disks may be emptied, missing rights stay."""
    kind = TransientError if error.errno in _PASSING else PermanentError
    return kind(f"cannot {doing}: {error.strerror or error}")


def private_directory(path: Path) -> None:
    """Make the directory, and those above it that are missing, for this user alone. Existing is success."""
    if not path.is_dir():
        private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a file for this user alone: complete or absent, never half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def amphora_id_of(id_or_name: str) -> str | None:
    """The amphora id in a server's id or name; None for what cannot be one of ours."""
    amphora_id = id_or_name.removeprefix(PREFIX)
    return amphora_id if _ID.fullmatch(amphora_id) else None


@attrs.frozen
class Home:
    """One amphora's directory. All reading tolerates that it vanishes at any moment."""

    path: Path

    @property
    def amphora_id(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "agent.log"

    @property
    def removing(self) -> bool:
        """Is it being destroyed on purpose?"""
        return (self.path / "removing").exists()

    def read(self, name: str) -> Mapping[str, Any] | None:
        """The JSON object in that file; None when the file is absent or not such an object."""
        try:
            content = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON object."""
        write_private(self.path / name, json.dumps(content, indent=1).encode())

    def process(self) -> Process | None:
        """The agent's process as it was started, alive or not; None when it was not started yet, or the file is damaged."""
        match self.read("process.json"):
            case {"boot_id": str(boot_id), "pid": int(pid), "start_time": int(start_time)} if 0 < pid <= _HIGHEST_PID:
                return Process(boot_id=boot_id, pid=pid, start_time=start_time)
        return None

    def answers_at(self, process: Process) -> tuple[str, int] | None:
        """Where that process's agent answers; None until it has said so, or when the file is damaged."""
        match self.read("agent.json"):
            case {"pid": process.pid, "start_time": process.start_time, "host": str(host), "port": int(port)}:
                return host, port
        return None

    def inside(self, path: str) -> Path:
        """Where the amphora's absolute path is kept.

        Raises:
            PermanentError: the path is not absolute, or leads out of the amphora.
        """
        parts = path.split("/")
        if not path.startswith("/") or ".." in parts or not parts[-1]:
            raise PermanentError(f"boot file {path!r} is not an absolute path inside the amphora")
        return self.path.joinpath(*[part for part in parts if part])

    def last_words(self) -> str | None:
        """The last line of the agent's log, at most 500 characters."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return None
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), None)

    @contextmanager
    def locked(self, within: float) -> Iterator[bool]:
        """Hold the directory alone. Gives False when there is no such directory.

        Raises:
            TransientError: somebody else has held it for `within` seconds.
        """
        deadline = time.monotonic() + within
        while True:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                yield False
                return
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is(fd):
                    break
                os.close(fd)  # it was destroyed, perhaps made again, while we waited
                continue
            except BlockingIOError:
                os.close(fd)
            if time.monotonic() > deadline:
                raise TransientError(f"{self.path} is held by another process; try again")
            time.sleep(_LOOK_AGAIN)
        try:
            yield True
        finally:
            os.close(fd)

    def _is(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def empty(self) -> None:
        """Remove everything in it."""
        for entry in list(self.path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
