"""One configuration made ready to run: a folder with the translated text and copies of all files that it names.

HAProxy runs with this folder as its working directory, and every name in the configuration is relative to it. So two
generations of the same configuration are equal texts, whatever their folders are called. Only the external check stands
beside it under its whole path: HAProxy starts it again and again, also when a change at run time has replaced the folder.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Mapping
from typing import NamedTuple

from octavia_local.agent import ping
from octavia_local.agent.changes import Content, content_of
from octavia_local.agent.root import Root
from octavia_local.agent.sockets import HeldSockets
from octavia_local.agent.translate import PING_SCRIPT, STATE_FILE, Document

__all__ = ["CONFIG", "OWN_CONFIG", "Generation", "make", "remove_tree"]

CONFIG, OWN_CONFIG = "haproxy.cfg", "agent.cfg"
_MOST_THREADS = 4
"""Many amphorae share one machine; HAProxy's own default would be a thread per CPU for each."""


class Generation(NamedTuple):
    """A configuration on disk.

    Attributes:
        folder: where, on this machine.
        content: what it says.
        digests: name of each copied file to the digest of its contents.
        descriptors: the held sockets it uses.
        threads: whether the configuration sets `nbthread` itself.
        listeners: names of its frontends.
        tables: name under which it has to run, so that stick tables outlive it; empty: any.
    """

    folder: str
    content: Content
    digests: Mapping[str, bytes]
    descriptors: tuple[int, ...]
    threads: bool
    listeners: tuple[str, ...] = ()
    tables: str = ""

    def changed_files(self, other: Generation) -> list[str]:
        """Names whose contents differ; names that only one has are not looked at."""
        return [name for name, digest in self.digests.items() if other.digests.get(name, digest) != digest]

    def contents(self, name: str) -> bytes:
        """The bytes of a copied file."""
        with open(f"{self.folder}/{name}", "rb") as file:
            return file.read()

    def write_own(self, stats_descriptor: int | None) -> None:
        """Write the agent's own part of the configuration: the stats socket, and what an unprivileged process needs.

        Args:
            stats_descriptor: the held stats socket; None for a mere check, which opens none (but without one HAProxy
                refuses a load balancer that has no listener).
        """
        place = "unix@check.sock" if stats_descriptor is None else f"fd@{stats_descriptor}"
        lines = ["global", f"    stats socket {place} level admin", "    no strict-limits"]
        if not self.threads:
            lines.append(f"    nbthread {min(_MOST_THREADS, os.cpu_count() or 1)}")
        if self.tables:
            lines.append(f"    localpeer {self.tables}")
        _write(self.folder, OWN_CONFIG, "\n".join([*lines, ""]).encode())

    def write_states(self, text: str) -> None:
        """Write the server state file, which the next start reads when the configuration asks for it."""
        _write(self.folder, STATE_FILE, text.encode())


def make(folder: str, document: Document, sockets: HeldSockets, root: Root, tables: str) -> Generation:
    """Render and write a generation.

    Args:
        folder: a new folder on this machine.
        document: what was received.
        sockets: holds every bind of the document.
        root: where the files that it names are.
        tables: the name by which stick tables are handed on.

    Raises:
        Refusal: it names a file that is not there.
        OSError: the folder cannot be written; nothing is left of it.
    """
    os.makedirs(folder, mode=0o700)
    try:
        script = f"{os.path.dirname(os.path.abspath(folder))}/{PING_SCRIPT}"
        rendered = document.render(sockets.descriptor, sockets.address, root.read, script, tables)
        digests: dict[str, bytes] = {}
        for copy in (*rendered.files, *(copy for listed in rendered.crt_lists for copy in listed.certificates)):
            data = root.read(copy.source)
            _write(folder, copy.name, data)
            digests[copy.name] = hashlib.sha256(data).digest()
        for listed in rendered.crt_lists:
            _write(folder, listed.name, listed.text.encode())
        _write(folder, CONFIG, rendered.text.encode())
        _write(folder, STATE_FILE, b"")
        if rendered.pings:
            _write_script(script)
    except BaseException:  # no folder with keys in it is left behind
        remove_tree(folder)
        raise
    threads = any(
        line.word(0) == "nbthread"
        for section in document.sections
        if section.kind == "global"
        for line in section.lines
    )
    descriptors = tuple(sockets.descriptor(bind) for bind in document.binds)
    listeners = tuple(name for name, _ in document.listeners)
    name = tables if document.tables is not None else ""
    return Generation(folder, content_of(rendered), digests, descriptors, threads, listeners, name)


def remove_tree(path: str) -> None:
    """Remove a folder with all in it; missing is fine. (shutil would cost more memory than this agent's own code.)"""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for entry in list(os.scandir(folder)):
            os.unlink(entry.path) if entry.is_symlink() else os.rmdir(entry.path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


def _write_script(path: str) -> None:
    """The external check. One that is there is left alone: it may be about to be started."""
    if os.path.exists(path):
        return
    command = shlex.join([sys.executable, "-I", "-S", str(ping.__file__)])
    folder, name = os.path.split(path)
    _write(folder, f"{name}.new", f'#!/bin/sh\nexec {command} "$3"\n'.encode())  # $3: the member's address
    os.chmod(f"{path}.new", 0o700)
    os.rename(f"{path}.new", path)


def _write(folder: str, name: str, data: bytes) -> None:
    path = f"{folder}/{name}"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
