"""One load balancer on this amphora: its configuration as received, its sockets, its HAProxy; what each request does."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from octavia_local.agent.changes import (
    AddServer,
    RemoveServer,
    ServerLine,
    SetCertificate,
    SetState,
    SetWeight,
    Step,
    compare,
    needs_no_check,
)
from octavia_local.agent.generation import Generation, make, remove_tree
from octavia_local.agent.process import Haproxy, NotStarted, Running
from octavia_local.agent.root import Root, log
from octavia_local.agent.runtime import StatRow, Unexpected, apply, down_members, read_stats, remove, verify
from octavia_local.agent.sockets import HeldSockets, Inherit
from octavia_local.agent.supervisor import Supervisor
from octavia_local.agent.tables import Settling
from octavia_local.agent.translate import TABLES, Document, Limits
from octavia_local.agent.wire import Refusal

__all__ = ["Balancer", "Observation", "Surroundings", "frontend", "peer_name"]


_CHANGES_WITHIN = 0.5  # seconds that a look at the statistics waits for members that are being changed
_COUNTED_WITHIN = 2.0  # seconds that a process which is being replaced has to say what it knows
_ANSWERS_WITHIN = 3.0  # seconds that HAProxy has to say more of its statistics; heartbeats do not wait for it
_KNOWN_FOR = 5.0
"""Seconds for which a process that does not answer is reported as it was seen last: on a busy machine it is merely late."""
_SEEN, _MEMBERS = 3, 4  # types of rows of `show stat`: frontends and backends; servers (HAProxy management guide)


class Surroundings(NamedTuple):
    """What a balancer needs of its agent.

    Attributes:
        root: the amphora's file system.
        base_path: upstream's /var/lib/octavia, an absolute path of the image.
        supervisor: starts processes.
        haproxy: absolute path of HAProxy.
        limits: what this machine gives.
        offset: how much higher a port is served that needs privileges.
        counted: told what a process has counted, at each look and just before another one takes over from it.
        changed: told that a process was started, replaced or ended.
        inherit: finds sockets that an amphora before this one has left.
        let_go: told that no others of these are wanted.
        tables: gives the secret name by which the HAProxies of a load balancer hand on their stick tables.
    """

    root: Root
    base_path: str
    supervisor: Supervisor
    haproxy: str
    limits: Limits
    offset: int
    counted: Callable[[Observation], None]
    changed: Callable[[], None]
    inherit: Inherit
    let_go: Callable[[], None]
    tables: Callable[[str], str]


class Observation(NamedTuple):
    """What a process says about itself.

    Attributes:
        balancer: id of the load balancer.
        pid: the process that counted; another one begins at zero.
        rows: its statistics.
        leaving: members (`backend/server`) that are out already and wait for their last connection.
    """

    balancer: str
    pid: int
    rows: tuple[StatRow, ...]
    leaving: frozenset[str]


def frontend(name: str) -> StatRow:
    """A listener that has just begun: its process answers, so it is open."""
    return StatRow("frontend", name, "FRONTEND", "OPEN", 0, dict.fromkeys(("scur", "stot", "bin", "bout", "ereq"), 0))


def peer_name(amphora_id: str) -> str:
    """The name of an amphora in a `peers` section: base64 of SHA-1 of its id, with `_` for `+` and `-` for `/`, `x` for
    a leading `-`, without `=` (agent API reference, 6.1).
    """
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = base64.b64encode(digest, altchars=b"_-").decode().rstrip("=")
    return "x" + name[1:] if name.startswith("-") else name


class Balancer:
    """A load balancer of this amphora. One request at a time calls it; `observe`, `known` and `tidy` may be called beside them.

    Args:
        id: the load balancer's id.
        around: what it needs.
    """

    def __init__(self, id: str, around: Surroundings) -> None:
        self.id = id
        self._around = around
        self._home = f"{around.base_path}/{id}"
        self._run = around.root.inside(self._home + "/run")
        self._sockets = HeldSockets(around.offset, anywhere=around.limits.namespace, inherit=self._inherit)
        self._changing = threading.Lock()
        self._members = threading.Lock()
        """Held while members change one after the other: in between, one on its way in looks like one in maintenance."""
        self._counting = threading.Lock()
        """Held from the question what a process has counted until that is told, so that nothing is told twice."""
        self._seen: Mapping[str, StatRow] = {}
        self._heard = 0.0
        self._generations = 0
        self._leaving: dict[str, ServerLine] = {}
        self._settling = Settling()
        remove_tree(self._run)  # of an earlier agent on the same root
        os.makedirs(self._run, mode=0o700)
        log_folder = around.root.inside("/var/log/octavia")
        os.makedirs(log_folder, mode=0o700, exist_ok=True)
        self._haproxy = Haproxy(around.haproxy, around.supervisor, self._run, f"{log_folder}/haproxy-{id}.log")
        self._haproxy.respawned = self._respawned

    # -- what requests do ------------------------------------------------------------------------------------------

    def received(self) -> bytes:
        """The configuration as it was uploaded.

        Raises:
            FileNotFoundError: none was.
        """
        return self._around.root.read(self._home + "/haproxy.cfg")

    def document(self) -> Document:
        """The same, understood."""
        return Document(self.received().decode(), self._around.limits)

    def upload(self, data: bytes, amphora_id: str) -> None:
        """Check and keep a configuration. It is not run before `reload`; until then its new addresses are held.

        Raises:
            Refusal: 400, it cannot be run; what runs and what was kept is untouched.
            OSError: it cannot be written.
        """
        with self._changing:
            document = self._understood(data)
            new = self._sockets.hold(document.binds)
            try:
                generation = self._make(document)
                try:
                    self._judge(generation, peer_name(amphora_id), self._steps(generation, peer_name(amphora_id)))
                finally:
                    remove_tree(generation.folder)
                self._keep(data, amphora_id)
            except BaseException:  # sockets that nothing serves are let go
                self._sockets.release(new)
                raise
            self._keep_sockets(document)

    def start(self) -> None:
        """Run the kept configuration; a running one takes it over (see `reload`)."""
        self.reload()

    def reload(self) -> bool:
        """Let what runs do what was uploaded: by the Runtime API where that is enough, otherwise by a new process.

        Returns:
            True when a new process was started.

        Raises:
            Refusal: 400, an address cannot be had or a file is missing; 500, HAProxy did not come up. What ran, runs.
        """
        with self._changing:
            document = self.document()
            fresh = self._serve(document, self._around.root.read(self._home + "/peer").decode(), judged=True)
            self._mark_stopped(stopped=False)
            self._keep_sockets(document)
        self._around.changed()
        return fresh

    def apply(self, data: bytes, amphora_id: str) -> bool:
        """`upload` and `reload` in one, without judging first what a start judges anyway. What runs is kept afterwards, so
        that a configuration which cannot be run leaves nothing behind.

        Returns:
            True when a new process was started.

        Raises:
            Refusal: 400, it cannot be run; 500, HAProxy did not come up. What ran, runs, and what was kept is kept.
            OSError: it runs and cannot be written: the next start has the one before.
        """
        with self._changing:
            document = self._understood(data)
            fresh = self._serve(document, peer_name(amphora_id), judged=False)
            self._keep(data, amphora_id)
            self._mark_stopped(stopped=False)
            self._keep_sockets(document)
        self._around.changed()
        return fresh

    def stop(self) -> None:
        """End HAProxy and close the addresses; the configuration stays. Not running is fine."""
        with self._changing:
            generation = self._haproxy.generation
            self._haproxy.stop()
            self._settling.begun(None, "")
            self._sockets.keep_only(())
            self._leaving.clear()
            self._mark_stopped(stopped=True)
            if generation is not None:
                remove_tree(generation.folder)
        self._around.changed()

    def delete(self) -> None:
        """End HAProxy and forget everything of this load balancer but its certificates."""
        self.stop()
        remove_tree(self._around.root.inside(self._home))

    def was_stopped(self) -> bool:
        """True when its last order was to stop."""
        return os.path.exists(self._around.root.inside(self._home + "/stopped"))

    # -- what the agent asks beside requests ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """True while a process is (or is about to be again) in service."""
        return self._haproxy.current is not None

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets of its addresses."""
        return self._sockets.all

    def labelled(self) -> dict[str, socket.socket]:
        """Sockets that whoever follows finds by a label. What has to be told there soon, can be."""
        self._settling.settle(in_need=True)
        return {self._label(TABLES): one for one in self._sockets.labelled(TABLES)}

    @property
    def stats_path(self) -> str | None:
        """Path of the stats socket of what is in service; None when nothing is."""
        running = self._haproxy.current
        return running.channel.path if running is not None else None

    @property
    def processes(self) -> int:
        """Running HAProxy processes."""
        return self._haproxy.count

    def observe(self, *, members: bool = True) -> Observation | None:
        """What the process says of itself; None when there is none, it does not answer, or it was replaced meanwhile.

        Args:
            members: of its members, too, which may be thousands.
        """
        if not self._members.acquire(timeout=_CHANGES_WITHIN):
            return None
        try:
            return self._observe(_SEEN | _MEMBERS if members else _SEEN, _ANSWERS_WITHIN)
        finally:
            self._members.release()

    def known(self) -> Observation | None:
        """Its listeners as they were seen last; None when none is in service, or for too long none was heard of. Asks nobody."""
        generation = self._haproxy.generation
        if generation is None or self._haproxy.current is None or time.monotonic() - self._heard > _KNOWN_FOR:
            return None
        rows = tuple(self._seen.get(name) or frontend(name) for name in generation.listeners)
        return Observation(self.id, 0, rows, frozenset())

    def _observe(self, kinds: int, within: float) -> Observation | None:
        running, leaving = self._haproxy.current, frozenset(self._leaving)
        if running is None or not running.child.running:
            return None
        with self._counting:
            try:
                rows = read_stats(running.channel.ask(f"show stat -1 {kinds} -1", timeout=within))
            except (OSError, ValueError, KeyError):
                return None
            if self._haproxy.current is not running:
                return None
            found = Observation(self.id, running.child.pid, tuple(rows), leaving)
            self._around.counted(found)
        self._seen = {row.proxy: row for row in rows if row.kind == "frontend"}
        self._heard = time.monotonic()
        return found

    def tidy(self) -> None:
        """Delete members whose last connection has ended; see that stick tables can be handed on."""
        self._settling.settle()
        if not self._leaving or not self._changing.acquire(blocking=False):
            return
        try:
            running = self._haproxy.current
            for path in list(self._leaving):
                if running is not None and remove(running.channel, RemoveServer(path)):
                    del self._leaving[path]
        except (OSError, Unexpected):
            return  # they are out of service, and the next start does not know them
        finally:
            self._changing.release()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _inherit(self, kind: int, host: str, port: int) -> socket.socket | None:
        return self._around.inherit(kind, host if port else self._label(host), port)

    def _label(self, label: str) -> str:
        return f"{label} {self.id}"

    def _make(self, document: Document) -> Generation:
        self._generations += 1
        folder, around = f"{self._run}/{self._generations}", self._around
        return make(folder, document, self._sockets, around.root, around.tables(self.id))

    def _understood(self, data: bytes) -> Document:
        try:
            return Document(data.decode(), self._around.limits)
        except UnicodeDecodeError as error:
            raise Refusal(400, "Invalid request", "the configuration is not UTF-8 text") from error

    def _keep(self, data: bytes, amphora_id: str) -> None:
        root = self._around.root
        root.write(self._home + "/peer", peer_name(amphora_id).encode())
        root.write(self._home + "/haproxy.cfg", data)

    def _serve(self, document: Document, peer: str, *, judged: bool) -> bool:
        """Run it; True when that took a new process. `judged`: HAProxy was asked about it before."""
        before = self._haproxy.generation
        new = self._sockets.hold(document.binds)
        try:
            generation = self._make(document)
            try:
                steps = self._steps(generation, peer)
                if steps is not None and not judged:
                    self._judge(generation, peer, steps)
                fresh = not self._change_in_place(generation, peer, steps)
                if fresh:
                    self._replace(generation, peer, judged=judged)
            except BaseException:  # no folder with keys in it is left behind
                if self._haproxy.generation is not generation:
                    remove_tree(generation.folder)
                raise
        except BaseException:  # sockets that nothing serves are let go
            self._sockets.release(new)
            raise
        if fresh:
            self._heard = time.monotonic()  # it answered
            tables = self._sockets.address(document.tables) if document.tables is not None else None
            self._settling.begun(tables, generation.tables)
        if before is not None:
            remove_tree(before.folder)
        return fresh

    def _steps(self, wanted: Generation, peer: str) -> tuple[Step, ...] | None:
        """What makes the running process do what `wanted` says; None when only another process can."""
        running, before = self._haproxy.current, self._haproxy.generation
        if running is None or before is None or not running.child.running or peer != self._haproxy.peer:
            return None
        return compare(before.content, wanted.content, before.changed_files(wanted))

    def _judge(self, wanted: Generation, peer: str, steps: tuple[Step, ...] | None) -> None:
        """Let HAProxy judge it, unless what runs differs so little that it need not be asked.

        Raises:
            Refusal: 400, with HAProxy's words.
        """
        before = self._haproxy.generation
        if before is not None and steps is not None and needs_no_check(before.content, wanted.content, steps):
            return
        complaint = self._haproxy.check(wanted, peer)
        if complaint is not None:
            raise Refusal(400, "Invalid request", complaint)

    def _change_in_place(self, wanted: Generation, peer: str, steps: tuple[Step, ...] | None) -> bool:
        """True when the running process does now what `wanted` says."""
        running, before = self._haproxy.current, self._haproxy.generation
        if running is None or before is None or steps is None:
            return False
        try:
            self._apply(running, steps, before, wanted)
        except (Unexpected, OSError) as error:
            log(f"load balancer {self.id}: reloading, because at run time: {error}")
            return False
        self._haproxy.adopt(wanted, peer)
        return self._haproxy.current is running and running.child.running

    def _apply(self, running: Running, steps: tuple[Step, ...], before: Generation, wanted: Generation) -> None:
        pem = {step.name: wanted.contents(step.name) for step in steps if isinstance(step, SetCertificate)}
        members = before.content.members
        with self._members:
            revived = tuple(other for step in steps for other in self._revived(running, step))
            for path in apply(running.channel, revived, pem):
                self._leaving[path] = members[path]
        if any(not isinstance(step, SetCertificate) for step in steps):
            verify(running.channel, wanted.content.members)

    def _revived(self, running: Running, step: Step) -> tuple[Step, ...]:
        """A member that comes back before its last connection has ended is still there: it only has to be let in."""
        if not isinstance(step, AddServer) or step.server.path not in self._leaving:
            return (step,)
        server, old = step.server, self._leaving[step.server.path]
        if old.same(server):
            del self._leaving[server.path]
            return (SetWeight(server.path, server.weight), SetState(server.path, server.disabled))
        if not remove(running.channel, RemoveServer(server.path)):
            raise Unexpected(f"{server.path} comes back as another one while its old connections are still open")
        del self._leaving[server.path]
        return (step,)

    def _replace(self, generation: Generation, peer: str, *, judged: bool) -> None:
        try:
            running = self._haproxy.current
            if running is not None and running.child.running:
                self._settling.settle(in_need=True)
                try:
                    dump = running.channel.ask("show servers state", _COUNTED_WITHIN)
                    generation.write_states(down_members(dump, generation.content.members))
                except (OSError, KeyError):
                    log(f"load balancer {self.id}: members' states are not carried over")
            self._haproxy.switch(generation, peer, self._hand_over)
        except NotStarted as error:
            if not judged:  # whose fault is it?
                self._judge(generation, peer, None)
            raise Refusal(500, "Error reloading haproxy", str(error)) from error
        self._leaving.clear()

    def _hand_over(self) -> None:
        """What the old one has counted until now is told by the look."""
        self._observe(_SEEN, _COUNTED_WITHIN)

    def _keep_sockets(self, uploaded: Document) -> None:
        """Hold what is uploaded and what runs, nothing else."""
        generation = self._haproxy.generation
        used = set(generation.descriptors) if generation is not None else set()
        self._sockets.keep_only(set(uploaded.binds) | self._sockets.with_descriptors(used))
        self._around.let_go()

    def _respawned(self) -> None:
        self._settling.begun_again()
        self._leaving.clear()
        self._around.changed()

    def _mark_stopped(self, *, stopped: bool) -> None:
        path = self._around.root.inside(self._home + "/stopped")
        if stopped and os.path.isdir(os.path.dirname(path)):
            self._around.root.write(self._home + "/stopped", b"")
        elif not stopped and os.path.exists(path):
            os.unlink(path)
