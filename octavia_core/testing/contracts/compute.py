"""What a compute driver must hold."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from functools import partial

import attrs

from octavia_core.ports.compute import BootFiles, ComputePort, Death, Server, ServerSpec, ServerState
from octavia_core.testing.contracts.words import ContractBroken, eventually, must

__all__ = ["COMPUTE_CONTRACT", "ComputeCase"]


@attrs.frozen(kw_only=True)
class ComputeCase:
    """A compute driver and its outside.

    Attributes:
        compute: the driver, with nothing booted.
        again: another driver over the same outside, as after a restart of the controller.
        files: boot files for an amphora id.
        kill: lets a running server die, without the driver's help.
        freeze: stops a running server without ending it, or None where that cannot be.
    """

    compute: ComputePort
    again: Callable[[], ComputePort]
    files: Callable[[str], BootFiles]
    kill: Callable[[Server], None]
    freeze: Callable[[Server], None] | None = None

    def boot(self) -> Server:
        """Boot a server and wait until it runs."""
        spec = _spec()
        self.compute.boot(spec, lambda: self.files(spec.amphora_id))
        return _running(self.compute, spec.name)


def _spec() -> ServerSpec:
    id = str(uuid.uuid4())
    return ServerSpec(name=f"amphora-{id}", amphora_id=id)


def _running(compute: ComputePort, name: str) -> Server:
    def see() -> Server | None:
        server = compute.find(name)
        if server is None or server.state in (ServerState.ERROR, ServerState.STOPPED, ServerState.GONE):
            raise ContractBroken(f"a fresh server is {server and server.state}: {server and server.fault}")
        return server if server.state is ServerState.ACTIVE else None

    return eventually(see, "a server that was booted becomes ACTIVE")


def a_booted_server_becomes_active_with_an_address(case: ComputeCase) -> None:
    spec = _spec()
    booted = case.compute.boot(spec, lambda: case.files(spec.amphora_id))
    must(booted.name == spec.name, "boot returns the server under the name that was asked for")
    must(
        booted.state in (ServerState.BUILDING, ServerState.ACTIVE),
        "a server that was just booted is BUILDING or ACTIVE",
    )
    server = _running(case.compute, spec.name)
    must(server.id == booted.id, "a server keeps its id")
    must(server.management_ip, "an ACTIVE server has a management address")


def the_same_name_twice_is_the_same_server_and_makes_no_second_key(case: ComputeCase) -> None:
    spec = _spec()
    made: list[str] = []

    def files() -> BootFiles:
        made.append(spec.name)
        return case.files(spec.amphora_id)

    first = case.compute.boot(spec, files)
    second = case.compute.boot(spec, files)
    third = case.again().boot(spec, files)
    must(first.id == second.id == third.id, "boot with a name that exists returns the server that exists")
    must(made == [spec.name], "`files` is called once for one server")
    must([s.name for s in case.compute.list()].count(spec.name) == 1, "a server is listed once")


def competing_boots_of_one_name_make_one_server(case: ComputeCase) -> None:
    spec = _spec()
    made: list[int] = []
    ids: list[str] = []
    drivers = [case.compute, case.again(), case.again(), case.compute]

    def boot(number: int) -> None:
        def files() -> BootFiles:
            made.append(number)
            return case.files(spec.amphora_id)

        ids.append(drivers[number].boot(spec, files).id)

    threads = [threading.Thread(target=boot, args=(number,)) for number in range(len(drivers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    must(len(ids) == len(drivers) and len(set(ids)) == 1, "boots that compete return one and the same server")
    must(len(made) == 1, "of boots that compete one makes the files")


def what_is_not_there_is_none_or_gone(case: ComputeCase) -> None:
    spec = _spec()
    must(case.compute.find(spec.name) is None, "find returns None for a name that was never booted")
    must(case.compute.servers([spec.amphora_id])[spec.amphora_id].state is ServerState.GONE, "an unknown id is GONE")
    must(dict(case.compute.servers([])) == {}, "no ids, no servers")


def a_restarted_controller_finds_the_servers(case: ComputeCase) -> None:
    server = case.boot()
    again = case.again()
    must(again.find(server.name) == server, "another driver finds the server as it is")
    must(again.servers([server.id])[server.id] == server, "and by its id")
    must(server.name in [s.name for s in again.list()], "and lists it")


def a_destroyed_server_is_gone_and_destroying_it_again_is_success(case: ComputeCase) -> None:
    by_id, by_name = case.boot(), case.boot()
    for id_or_name, server in ((by_id.id, by_id), (by_name.name, by_name)):
        case.compute.destroy(id_or_name)
        must(case.compute.find(server.name) is None, "a destroyed server is not found")
        must(case.compute.servers([server.id])[server.id].state is ServerState.GONE, "a destroyed server is GONE")
        case.compute.destroy(id_or_name)
    spec = _spec()
    case.compute.destroy(spec.name)
    must(not case.compute.list(), "nothing is listed when everything was destroyed")


def a_server_can_be_destroyed_while_it_is_built(case: ComputeCase) -> None:
    spec = _spec()
    case.compute.boot(spec, lambda: case.files(spec.amphora_id))
    case.compute.destroy(spec.name)
    must(case.compute.find(spec.name) is None, "a server that was destroyed while it was built is not found")


def a_server_group_is_made_once_and_removed_for_good(case: ComputeCase) -> None:
    name = f"octavia-lb-{uuid.uuid4()}"
    made = case.compute.server_group(name, "anti-affinity")
    must(case.again().server_group(name, "anti-affinity") == made, "a server group of a name that exists is that one")
    for group in (made or name, name, name):
        case.compute.remove_server_group(group)
    again = case.compute.server_group(name, "anti-affinity")
    must(made is None or again not in (None, made), "a server group that was removed is made anew")
    case.compute.remove_server_group(name)


def a_frozen_server_can_be_destroyed(case: ComputeCase) -> None:
    if case.freeze is None:
        return
    server = case.boot()
    case.freeze(server)
    must(
        case.compute.servers([server.id])[server.id].state is ServerState.ACTIVE,
        "a frozen server is not known to be dead",
    )
    case.compute.destroy(server.id)
    must(case.compute.find(server.name) is None, "a frozen server can be destroyed")


def a_dead_server_is_stopped_and_can_be_destroyed(case: ComputeCase) -> None:
    server = case.boot()
    case.kill(server)
    seen = eventually(lambda: _in_state(case.compute, server, ServerState.STOPPED), "a dead server is STOPPED")
    must(seen.id == server.id, "a dead server keeps its id")
    case.compute.destroy(server.id)
    must(case.compute.find(server.name) is None, "a dead server can be destroyed")


def _in_state(compute: ComputePort, server: Server, state: ServerState) -> Server | None:
    now = compute.servers([server.id])[server.id]
    return now if now.state is state else None


def a_watch_tells_each_death_once(case: ComputeCase) -> None:
    before = case.boot()
    deaths: list[Death] = []
    watch = case.compute.watch(deaths.append)
    if watch is None:
        return  # allowed: the driver cannot do better than being asked
    try:
        after, survivor = case.boot(), case.boot()
        for server in (before, after):
            case.kill(server)
            eventually(
                partial(_told, deaths, server), "a watch tells of the death of a server booted before or after it"
            )
        case.compute.servers([before.id, after.id])
        case.compute.list()
    finally:
        watch.close()
    watch.close()
    must(sorted(d.server_id for d in deaths) == sorted([before.id, after.id]), "each death is told once, and no other")
    case.kill(survivor)
    eventually(lambda: _in_state(case.compute, survivor, ServerState.STOPPED), "a dead server is STOPPED")
    must(len(deaths) == 2, "a closed watch tells nothing")


def _told(deaths: list[Death], server: Server) -> Death | None:
    return next((death for death in deaths if death.server_id == server.id), None)


def a_watch_sees_servers_of_another_controller(case: ComputeCase) -> None:
    deaths: list[Death] = []
    watch = case.again().watch(deaths.append)
    if watch is None:
        return
    try:
        server = case.boot()
        case.kill(server)
        eventually(partial(_told, deaths, server), "a watch tells of servers that another process booted")
    finally:
        watch.close()


def a_failing_listener_does_not_end_the_watch(case: ComputeCase) -> None:
    deaths: list[Death] = []

    def fail_once(death: Death) -> None:
        deaths.append(death)
        if len(deaths) == 1:
            raise RuntimeError("a listener's mistake")

    watch = case.compute.watch(fail_once)
    if watch is None:
        return
    try:
        for server in (case.boot(), case.boot()):
            case.kill(server)
            eventually(partial(_told, deaths, server), "a listener that raised is told of the next death")
    finally:
        watch.close()


COMPUTE_CONTRACT: tuple[Callable[[ComputeCase], None], ...] = (
    a_booted_server_becomes_active_with_an_address,
    the_same_name_twice_is_the_same_server_and_makes_no_second_key,
    competing_boots_of_one_name_make_one_server,
    what_is_not_there_is_none_or_gone,
    a_restarted_controller_finds_the_servers,
    a_destroyed_server_is_gone_and_destroying_it_again_is_success,
    a_server_can_be_destroyed_while_it_is_built,
    a_server_group_is_made_once_and_removed_for_good,
    a_frozen_server_can_be_destroyed,
    a_dead_server_is_stopped_and_can_be_destroyed,
    a_watch_tells_each_death_once,
    a_watch_sees_servers_of_another_controller,
    a_failing_listener_does_not_end_the_watch,
)
