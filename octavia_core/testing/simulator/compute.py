"""Servers of the simulated cloud, and who watches them die."""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavia_core.ports.compute import BootFiles, Death, Server, ServerSpec, ServerState
from octavia_core.testing.outside import SimulatedCloud, Things
from octavia_core.testing.simulator.places import HOSTS, MANAGEMENT

__all__ = ["SimulatedCompute", "SimulatedWatch", "server_of"]

_log = logging.getLogger(__name__)
_LOOK_AGAIN = 0.01


class SimulatedCompute:
    """ComputePort."""

    time_limit = 2.0
    poll_interval = 0.01

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def boot(self, spec: ServerSpec, files: Callable[[], BootFiles]) -> Server:
        def do(things: Things) -> Server:
            known = things.get("server", spec.name)
            if known is None:
                content = files()
                number = int((things.get("counter", "server") or {"last": 0})["last"]) + 1
                known = {
                    "id": str(uuid.uuid4()),
                    "address": str(MANAGEMENT[number]),
                    "ready_at": self._cloud.clock.now() + self._cloud.boot_seconds,
                    "state": None,
                    "amphora_id": spec.amphora_id,
                    "host": f"host-{number % HOSTS + 1}",
                    "group": spec.server_group_id,
                    # what was booted can be told apart later, and cannot be read
                    "files": {path: hashlib.sha256(secret.reveal()).hexdigest() for path, secret in content.items()},
                }
                things.put("counter", "server", {"last": number})
                things.put("server", spec.name, known, id=known["id"])
            return server_of(self._cloud, spec.name, known)

        return self._cloud.call("compute.boot", spec.name, do)

    def find(self, name: str) -> Server | None:
        def see(things: Things) -> Server | None:
            known = things.get("server", name)
            return None if known is None else server_of(self._cloud, name, known)

        return self._cloud.call("compute.find", name, see)

    def servers(self, ids: Sequence[str]) -> Mapping[str, Server]:
        def see(things: Things) -> dict[str, Server]:
            found = {id: things.by_id("server", id) for id in ids}
            return {
                id: server_of(self._cloud, *known) if known else Server(id=id, name="", state=ServerState.GONE)
                for id, known in found.items()
            }

        return self._cloud.call("compute.servers", ",".join(sorted(ids)[:3]), see)

    def list(self) -> Sequence[Server]:
        return self._cloud.call(
            "compute.list",
            "",
            lambda things: [server_of(self._cloud, *known) for known in things.every("server", "amphora-")],
        )

    def destroy(self, id_or_name: str) -> None:
        def do(things: Things) -> None:
            known = things.by_id("server", id_or_name)
            name = known[0] if known else id_or_name
            things.remove("server", name)

        self._cloud.call("compute.destroy", id_or_name, do)

    def server_group(self, name: str, policy: str) -> str | None:
        def do(things: Things) -> str:
            known = things.get("server-group", name)
            if known is None:
                known = {"id": str(uuid.uuid4()), "policy": policy}
                things.put("server-group", name, known, id=known["id"])
            return str(known["id"])

        return self._cloud.call("compute.server_group", name, do)

    def remove_server_group(self, id_or_name: str) -> None:
        def do(things: Things) -> None:
            known = things.by_id("server-group", id_or_name)
            things.remove("server-group", known[0] if known else id_or_name)

        self._cloud.call("compute.remove_server_group", id_or_name, do)

    def server_groups(self) -> Mapping[str, Sequence[str]]:
        """For tests: name of each server group -> the servers that were booted into it."""
        with_group = self._cloud.look(lambda things: (things.every("server-group"), things.every("server")))
        return {
            name: [server for server, of in with_group[1] if of.get("group") == known["id"]]
            for name, known in with_group[0]
        }

    def watch(self, on_death: Callable[[Death], None]) -> SimulatedWatch:
        return SimulatedWatch(self._cloud, on_death)

    def kill(self, id_or_name: str) -> None:
        """Let a server die: it is STOPPED from now on, and its agent answers nobody."""
        self._change(id_or_name, ServerState.STOPPED)

    def break_(self, id_or_name: str) -> None:
        """Let a server fail to build."""
        self._change(id_or_name, ServerState.ERROR)

    def _change(self, id_or_name: str, state: ServerState) -> None:
        def do(things: Things) -> None:
            name, known = things.by_id("server", id_or_name) or (id_or_name, things.get("server", id_or_name))
            if known is not None:
                things.put("server", name, known | {"state": state.value})

        self._cloud.look(do)


def server_of(cloud: SimulatedCloud, name: str, known: Mapping[str, Any]) -> Server:
    """A server as it is now, from what the cloud holds of it."""
    ready = cloud.clock.now() >= known["ready_at"]
    state = ServerState(known["state"]) if known["state"] else ServerState.ACTIVE if ready else ServerState.BUILDING
    return Server(
        id=known["id"],
        name=name,
        state=state,
        management_ip=known["address"] if ready else None,
        zone="simulated",
        host=known.get("host"),
        image_id="simulated",
        flavor="simulated",
        fault=f"the simulated server is {state}" if known["state"] else None,
    )


class SimulatedWatch:
    """Reports simulated deaths from a thread of its own."""

    def __init__(self, cloud: SimulatedCloud, on_death: Callable[[Death], None]) -> None:
        self._cloud = cloud
        self._on_death = on_death
        self._told: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-deaths", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_AGAIN):
            servers = self._cloud.look(lambda things: things.every("server"))
            dead = [known["id"] for _, known in servers if known["state"] == ServerState.STOPPED]
            for id in dead:
                if id not in self._told and not self._closing.is_set():
                    self._told.add(id)
                    self._tell(
                        Death(server_id=id, at=self._cloud.clock.now(), evidence="the simulated server was stopped")
                    )

    def _tell(self, death: Death) -> None:
        try:
            self._on_death(death)
        except Exception:  # a listener's mistake must not end the watch
            _log.exception("the listener for deaths failed for server %s", death.server_id)
