"""Talking to a running HAProxy over its stats socket: changing it, verifying the change, reading its statistics."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from octavia_local.agent.changes import AddServer, RemoveServer, ServerLine, SetCertificate, SetState, SetWeight, Step
from octavia_local.agent.syntax import quoted

__all__ = ["Channel", "StatRow", "Unexpected", "apply", "down_members", "read_stats", "remove", "verify"]

_FORCED_MAINTENANCE = 0x01  # srv_admin_state, HAProxy management guide, "show servers state"
_LARGEST_ANSWER = 64 * 1024 * 1024


class Unexpected(Exception):
    """HAProxy answered something else than success; a reload is the way out."""


class Channel:
    """The stats socket of one HAProxy process. The agent listens on it and hands it on, so it is there before the process.

    The path may be longer than an AF_UNIX address can hold, so the socket is reached through its folder's descriptor.

    Args:
        folder: a folder that only this user can enter.
        name: file name of the socket there, not used before.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._address = f"/proc/self/fd/{self._folder}/{name}"
        self.path = f"{folder}/{name}"
        try:
            if os.path.lexists(self._address):
                os.unlink(self._address)
            self._socket.bind(self._address)
            os.chmod(self._address, 0o600)
            self._socket.listen(64)
        except OSError:
            self._socket.close()
            os.close(self._folder)
            raise

    @property
    def descriptor(self) -> int:
        """The number under which the child finds the listening socket."""
        return self._socket.fileno()

    def connect(self, timeout: float) -> socket.socket:
        """A connection of its own; it waits in the queue until a process serves the socket."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(timeout)
        try:
            made.connect(self._address)
        except OSError:
            made.close()
            raise
        return made

    def ask(self, command: str, timeout: float = 4.0) -> str:
        """One command, its whole answer.

        Raises:
            OSError: no process serves the socket, or not in time.
        """
        with self.connect(timeout) as connection:
            connection.sendall(command.encode() + b"\n")
            answer = bytearray()
            while chunk := connection.recv(65536):
                answer += chunk
                if len(answer) > _LARGEST_ANSWER:
                    raise OSError("the answer of HAProxy is too large")
        return answer.decode("utf-8", "replace")

    def close(self) -> None:
        """Stop listening and remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._address)
        self._socket.close()
        os.close(self._folder)


def apply(channel: Channel, steps: Iterable[Step], pem: Mapping[str, bytes]) -> list[str]:
    """Carry out the steps. Returns the members that are out but could not be deleted yet: they still have connections.

    Args:
        channel: the process to change.
        steps: from `changes.compare`.
        pem: new contents of certificates, by name.

    Raises:
        Unexpected: a step was not answered as success; later steps were not tried.
        OSError: the process does not answer.
    """
    leaving: list[str] = []
    for step in steps:
        if isinstance(step, SetCertificate):
            _set_certificate(channel, step.name, pem[step.name])
        elif isinstance(step, AddServer):
            _add(channel, step.server)
        elif isinstance(step, SetWeight):
            _expect(channel, f"set server {step.path} weight {step.weight}", "")
        elif isinstance(step, SetState):
            _expect(channel, f"set server {step.path} state {'maint' if step.disabled else 'ready'}", "")
        elif not remove(channel, step):
            leaving.append(step.path)
    return leaving


def remove(channel: Channel, step: RemoveServer) -> bool:
    """Take a member out, and delete it. False: it is out, but still has connections, so ask again later."""
    _expect(channel, f"set server {step.path} state maint", "")
    answer = channel.ask(f"del server {step.path}").strip()
    if answer in ("Server deleted.", "No such server."):
        return True
    if answer.startswith("Server still has connections"):
        return False
    raise Unexpected(f"del server {step.path}: {answer}")


def _add(channel: Channel, server: ServerLine) -> None:
    rest = " ".join(quoted(word) for word in (*(server.rest or ()), *_said_by_itself(server)))
    _expect(
        channel, f"add server {server.path} {server.address} weight {server.weight} {rest}", "New server registered."
    )
    if server.checked:
        _expect(channel, f"enable health {server.path}", "")
    if not server.disabled:
        _expect(channel, f"set server {server.path} state ready", "")


def _said_by_itself(server: ServerLine) -> tuple[str, ...]:
    """What a line of a configuration means and `add server` has to be told: that a check comes as other connections do.

    A check that goes elsewhere (`addr`, `port`) says no PROXY in either (management guide, "add server").
    """
    words = server.rest or ()
    alike = server.checked and "addr" not in words and "port" not in words
    return ("check-send-proxy",) if alike and any(word.startswith("send-proxy") for word in words) else ()


def _set_certificate(channel: Channel, name: str, pem: bytes) -> None:
    text = "\n".join(line for line in pem.decode("ascii", "replace").splitlines() if line.strip())
    started = channel.ask(f"set ssl cert {name} <<\n{text}\n").strip()
    if not started.startswith("Transaction created"):
        channel.ask(f"abort ssl cert {name}")
        raise Unexpected(f"set ssl cert {name} was not accepted")
    done = channel.ask(f"commit ssl cert {name}", timeout=10.0)
    if "Success!" not in done:
        channel.ask(f"abort ssl cert {name}")
        raise Unexpected(f"commit ssl cert {name} was not accepted")


def _expect(channel: Channel, command: str, wanted: str) -> None:
    answer = channel.ask(command).strip()
    if answer != wanted:
        raise Unexpected(f"{command}: {answer}")


def verify(channel: Channel, wanted: Mapping[str, ServerLine]) -> None:
    """Read back all members and compare weight and state with what is wanted.

    Raises:
        Unexpected: one of them is missing or different.
    """
    try:
        found = dict(_states(channel.ask("show servers state")))
    except (ValueError, IndexError) as error:
        raise Unexpected("the states of members cannot be read") from error
    for path, server in wanted.items():
        if found.get(path) != (server.weight, server.disabled):
            raise Unexpected(f"{path} is {found.get(path)} after the change")


def down_members(dump: str, wanted: Mapping[str, ServerLine]) -> str:
    """A server state file for the next process: only that members are down by their health check.

    Everything else (weights, states) the configuration says better: the full dump would bring back values that were
    set at run time and have been changed since.

    Args:
        dump: answer of `show servers state`.
        wanted: members of the new configuration.
    """
    version, header, lines = "1", "", []
    for line in dump.splitlines():
        if line.startswith("#"):
            header = line
        elif header:
            row = dict(zip(header[2:].split(), line.split(), strict=False))
            server = wanted.get(f"{row.get('be_name')}/{row.get('srv_name')}")
            if (
                server is not None
                and server.checked
                and not server.disabled
                and row["srv_op_state"] == "0"
                and row["srv_admin_state"] == "0"
            ):
                row["srv_uweight"] = row["srv_iweight"] = str(server.weight)
                lines.append(" ".join(row.values()))
        elif line.strip().isdigit():
            version = line.strip()
    return "\n".join([version, header, *lines, ""]) if lines else ""


def _states(dump: str) -> Iterable[tuple[str, tuple[int, bool]]]:
    """(path, (weight, disabled)) of each member. Only the four columns that tell are looked at: there may be thousands of rows."""
    backend = name = weight = admin = -1
    for line in dump.splitlines():
        if line.startswith("#"):
            columns = line[2:].split()
            backend, name = columns.index("be_name"), columns.index("srv_name")
            weight, admin = columns.index("srv_uweight"), columns.index("srv_admin_state")
        elif backend >= 0 and line:
            cells = line.split()
            yield (
                f"{cells[backend]}/{cells[name]}",
                (int(cells[weight]), bool(int(cells[admin]) & _FORCED_MAINTENANCE)),
            )


class StatRow(NamedTuple):
    """One row of `show stat`: kind is `frontend`, `backend` or `server`.

    `counters` of a frontend are traffic; of a backend `act` and `bck`, how many members work; of a member there are none.
    """

    kind: str
    proxy: str
    name: str
    status: str
    weight: int
    counters: Mapping[str, int]


_KINDS = {"FRONTEND": "frontend", "BACKEND": "backend"}
_COUNTERS = {"frontend": ("scur", "stot", "bin", "bout", "ereq"), "backend": ("act", "bck")}
_NONE: Mapping[str, int] = MappingProxyType({})


def read_stats(text: str) -> list[StatRow]:
    """The rows of `show stat` that a heartbeat needs; Prometheus internals are left out.

    Only the columns up to `bck` are looked at; free text, where commas may be quoted, comes later.
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        return []
    columns = {name: index for index, name in enumerate(lines[0][2:].split(","))}
    status, weight = columns["status"], columns["weight"]
    counted = {kind: [(name, columns[name]) for name in names if name in columns] for kind, names in _COUNTERS.items()}
    last = max(status, weight, *(place for places in counted.values() for _, place in places))
    rows = []
    for line in lines[1:]:
        cells = line.split(",", last + 1)
        if len(cells) <= last or "prometheus" in cells[0]:
            continue
        kind = _KINDS.get(cells[1], "server")
        counters = _NONE if kind == "server" else {name: int(cells[place] or 0) for name, place in counted[kind]}
        rows.append(StatRow(kind, cells[0], cells[1], cells[status], int(cells[weight] or 0), counters))
    return rows
