"""A real controller on a state directory of its own, with the shortcuts that stories of the main job need."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from octavia_core import Controller, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.secret import CertificateBundle
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, Provisioning
from tests.support.calm import write_settings
from tests.support.running import Answer, Echo
from tests.support.running import ask as ask_at

__all__ = ["PATIENCE", "Stage", "behind", "http", "leftovers", "open_stage", "processes_of", "until"]

PATIENCE = 60.0
"""Seconds within which anything here happens on the slowest machine."""

PORT = 8080


def until(condition: Callable[[], Any], what: str = "it", patience: float = PATIENCE) -> Any:
    """Wait for a true answer and return it."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true in time")


def behind(*servers: Echo, **options: Any) -> tuple[NewMember, ...]:
    """Members for these servers, named like them."""
    return tuple(NewMember(s.address, s.port, name=s.name, **options) for s in servers)


def http(*members: NewMember, port: int = PORT, pool: dict[str, Any] | None = None, **options: Any) -> NewListener:
    """An HTTP listener with a pool of these members."""
    made = NewPool(members=members, **(pool or {}))
    return NewListener(protocol=ListenerProtocol.HTTP, protocol_port=port, default_pool=made, **options)


class Stage:
    """A running controller; `reopen` ends it and opens the next one."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.controller = Controller.open(state)

    # -- the controller's life -------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Without a controller inside the block."""
        self.controller.close()
        try:
            yield
        finally:
            self.controller = Controller.open(self.state)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[Controller]:
        """A client inside the block; what it asks for is begun when the controller is back, however long asking takes."""
        with self.away(), Controller.open(self.state, run=False) as client:
            yield client

    def rest(self) -> None:
        """Wait until nothing is under way, of what nobody here has asked for either; what never ends is told by `leftovers`."""
        with contextlib.suppress(AssertionError):
            until(lambda: not self.controller.operations(open_only=True), "the end of all operations")

    # -- wishing ---------------------------------------------------------------------------------------------------
    def build(self, *listeners: NewListener, **options: Any) -> LoadBalancer:
        """A load balancer that serves."""
        return self.create(NewLoadBalancer(listeners=listeners, **options))

    def create(self, wish: NewLoadBalancer) -> LoadBalancer:
        operation = self.controller.create_load_balancer(wish)
        operation.wait(PATIENCE)
        return self.tree(operation.load_balancer_id)

    def update(self, kind: Kind, id: str, **values: Any) -> None:
        self.controller.update(kind, id, **values).wait(PATIENCE)

    def update_load_balancer(self, id: str, **values: Any) -> None:
        self.controller.update_load_balancer(id, **values).wait(PATIENCE)

    def delete(self, kind: Kind, id: str) -> None:
        self.controller.delete(kind, id).wait(PATIENCE)

    def drop(self, *ids: str) -> None:
        """Delete load balancers, busy ones when they are no more."""
        for operation in [self.controller.delete_load_balancer(id, wait=PATIENCE) for id in ids]:
            operation.wait(PATIENCE)

    # -- looking ---------------------------------------------------------------------------------------------------
    def tree(self, id: str) -> LoadBalancer:
        return self.controller.load_balancer(id)

    def find(self, id: str, child_id: str) -> Any:
        """What is below a load balancer, by its id or name."""
        for _, node in self.tree(id).nodes():
            if child_id in (node.id, getattr(node, "name", None)):
                return node
        raise AssertionError(f"{child_id} is not below {id}")

    def operating(self, id: str, child_id: str, status: Operating) -> None:
        """Wait until it is said to be that."""
        until(lambda: self.find(id, child_id).operating_status is status, f"{child_id} {status}")

    def statuses(self, id: str) -> set[Provisioning]:
        tree = self.tree(id)
        return {tree.provisioning_status, *(node.provisioning_status for _, node in tree.nodes())}

    def at(self, lb: LoadBalancer, listener: Listener | int = 0) -> tuple[str, int]:
        """Where a listener (or the one at that place, by their ports) is reached."""
        in_order = sorted(lb.listeners, key=lambda one: one.protocol_port)
        found = in_order[listener] if isinstance(listener, int) else listener
        host, _, port = str(self.controller.reachable_at(lb, found)).rpartition(":")
        return host, int(port)

    def ask(self, lb: LoadBalancer, path: str = "/", *, listener: Listener | int = 0, **options: Any) -> Answer:
        """One request over a new connection."""
        return ask_at(*self.at(lb, listener), path, **options)

    def served(self, lb: LoadBalancer, count: int = 4, **options: Any) -> list[str]:
        """Which members answer that many requests, in their order."""
        return [self.ask(lb, **options).member for _ in range(count)]

    def agent_pid(self, amphora_id: str) -> int:
        return int(json.loads((self.state / "amphorae" / amphora_id / "agent.json").read_text())["pid"])

    def remembered(self, lb: LoadBalancer) -> int:
        """How many clients the newest HAProxy of its amphora has in its stick tables: it is told by the one before it."""
        (amphora,) = self.controller.amphorae(lb.id)
        folder = self.state / "amphorae" / amphora.id / "var/lib/octavia" / lb.id / "run"
        newest = max(folder.glob("stats-*.sock"), key=lambda path: int(path.stem.partition("-")[2]))
        descriptor = os.open(folder, os.O_RDONLY)  # since an address of AF_UNIX is short
        try:
            with socket.socket(socket.AF_UNIX) as console:
                console.settimeout(PATIENCE)
                console.connect(f"/proc/self/fd/{descriptor}/{newest.name}")
                console.sendall(b"show table\n")
                said = b"".join(iter(lambda: console.recv(65536), b""))
        finally:
            os.close(descriptor)
        return sum(int(used) for used in re.findall(r"used:(\d+)", said.decode()))

    # -- secrets ---------------------------------------------------------------------------------------------------
    def put_secret(self, name: str, bundle: CertificateBundle) -> str:
        """Store a certificate with its key where the controller looks for it; returns its reference."""
        parts = [bundle.certificate, bundle.private_key.reveal().decode(), *bundle.intermediates]
        return self.put_payload(f"{name}.pem", "\n".join(parts) + "\n").removesuffix(".pem")

    def put_payload(self, name: str, text: str) -> str:
        """Store a text, such as a client authority; returns its reference."""
        folder = self.state / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.write_text(text)
        path.chmod(0o600)
        return name


def one(items: Sequence[Any]) -> Any:
    """The only one."""
    (found,) = items
    return found


def only_pool(lb: LoadBalancer) -> Pool:
    found: Pool = one(lb.pools)
    return found


def only_member(lb: LoadBalancer) -> Member:
    found: Member = one(only_pool(lb).members)
    return found


def processes_of(state: Path) -> dict[int, str]:
    """Processes that belong to that state directory (they work inside it), with their command lines."""
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            folder = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if pid != os.getpid() and (Path(folder).is_relative_to(state) or f"{state}/" in line):
                found[pid] = line
    return found


def leftovers(stage: Stage) -> list[str]:
    """What is still there of load balancers and amphorae, when all were deleted."""
    controller = stage.controller
    found = [f"server {server.name}" for server in controller.world.compute.list()]
    found += [f"{kind} {name}" for kind, name in controller.world.network.list()]
    found += [f"row of load balancer {row.id}" for row in controller.load_balancers()]
    found += [f"row of amphora {row.id}" for row in controller.amphorae()]
    found += [f"orphan {orphan.kind} {orphan.id}" for orphan in controller.orphans()]
    found += [f"operation {row.id} {row.flow}" for row in controller.operations(open_only=True)]
    found += [f"file {path}" for path in (stage.state / "amphorae").glob("*")]
    return found + [f"process {line}" for line in processes_of(stage.state).values()]


@contextlib.contextmanager
def open_stage(state: Path, settings: str = "") -> Iterator[Stage]:
    """A stage that is cleared at the end; after a good story nothing may be left. `settings` is its octavia.toml."""
    if settings:
        write_settings(state, settings)
    stage = Stage(state)
    try:
        yield stage
    finally:
        try:
            stage.drop(*[row.id for row in stage.controller.load_balancers()])
            stage.rest()
            left = leftovers(stage)
        finally:
            stage.controller.close()
    assert left == []
