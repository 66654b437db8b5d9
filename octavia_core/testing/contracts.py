"""What every driver must hold, as functions: for our drivers, the simulator, and those of plugin authors.

A case says how to reach the driver and how to bring about what only its outside can do; each function of a contract gets a
fresh case and raises `ContractBroken` with the broken sentence. With pytest:

    @pytest.mark.parametrize("law", COMPUTE_CONTRACT, ids=lambda law: law.__name__)
    def test_my_compute_keeps_the_contract(law, my_case):
        law(my_case)
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, PoolProtocol, Topology
from octavia_core.errors import OctaviaError, PermanentError, SecretMissing
from octavia_core.ports.compute import BootFiles, ComputePort, Death, Server, ServerSpec, ServerState
from octavia_core.ports.network import NetworkPort, VipRequest
from octavia_core.ports.secrets import SecretStorePort

__all__ = [
    "COMPUTE_CONTRACT",
    "NETWORK_CONTRACT",
    "SECRETS_CONTRACT",
    "ComputeCase",
    "ContractBroken",
    "NetworkCase",
    "SecretsCase",
]

T = TypeVar("T")

_PATIENCE = 20.0
"""Seconds that a law waits for something that must come."""


class ContractBroken(AssertionError):
    """A driver does not do what its port promises."""


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


@attrs.frozen(kw_only=True)
class NetworkCase:
    """A network driver and its outside.

    Attributes:
        network: the driver, with nothing reserved.
        again: another driver over the same outside.
        free: an address that may be asked for.
        foreign: an address that is not on the driver's network.
        subnets: two subnets that members may be on, of a driver that plugs them.
    """

    network: NetworkPort
    again: Callable[[], NetworkPort]
    free: str
    foreign: str
    subnets: tuple[str, str] = ("", "")


@attrs.frozen(kw_only=True)
class SecretsCase:
    """A secret store that holds one certificate with its key, and one plain payload."""

    store: SecretStorePort
    certificate_ref: str
    payload_ref: str
    absent_ref: str


def _must(condition: object, sentence: str) -> None:
    if not condition:
        raise ContractBroken(sentence)


def _raises(kind: type[OctaviaError], do: Callable[[], object], sentence: str) -> OctaviaError:
    try:
        do()
    except kind as error:
        return error
    raise ContractBroken(sentence)


def _eventually(see: Callable[[], T | None], sentence: str) -> T:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if (seen := see()) is not None:
            return seen
        time.sleep(0.005)
    raise ContractBroken(f"{sentence} (waited {_PATIENCE:.0f} s)")


def _spec() -> ServerSpec:
    id = str(uuid.uuid4())
    return ServerSpec(name=f"amphora-{id}", amphora_id=id)


def _running(compute: ComputePort, name: str) -> Server:
    def see() -> Server | None:
        server = compute.find(name)
        if server is None or server.state in (ServerState.ERROR, ServerState.STOPPED, ServerState.GONE):
            raise ContractBroken(f"a fresh server is {server and server.state}: {server and server.fault}")
        return server if server.state is ServerState.ACTIVE else None

    return _eventually(see, "a server that was booted becomes ACTIVE")


# -- compute ----------------------------------------------------------------------------------------------------------


def a_booted_server_becomes_active_with_an_address(case: ComputeCase) -> None:
    spec = _spec()
    booted = case.compute.boot(spec, lambda: case.files(spec.amphora_id))
    _must(booted.name == spec.name, "boot returns the server under the name that was asked for")
    _must(
        booted.state in (ServerState.BUILDING, ServerState.ACTIVE),
        "a server that was just booted is BUILDING or ACTIVE",
    )
    server = _running(case.compute, spec.name)
    _must(server.id == booted.id, "a server keeps its id")
    _must(server.management_ip, "an ACTIVE server has a management address")


def the_same_name_twice_is_the_same_server_and_makes_no_second_key(case: ComputeCase) -> None:
    spec = _spec()
    made: list[str] = []

    def files() -> BootFiles:
        made.append(spec.name)
        return case.files(spec.amphora_id)

    first = case.compute.boot(spec, files)
    second = case.compute.boot(spec, files)
    third = case.again().boot(spec, files)
    _must(first.id == second.id == third.id, "boot with a name that exists returns the server that exists")
    _must(made == [spec.name], "`files` is called once for one server")
    _must([s.name for s in case.compute.list()].count(spec.name) == 1, "a server is listed once")


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
    _must(len(ids) == len(drivers) and len(set(ids)) == 1, "boots that compete return one and the same server")
    _must(len(made) == 1, "of boots that compete one makes the files")


def what_is_not_there_is_none_or_gone(case: ComputeCase) -> None:
    spec = _spec()
    _must(case.compute.find(spec.name) is None, "find returns None for a name that was never booted")
    _must(case.compute.servers([spec.amphora_id])[spec.amphora_id].state is ServerState.GONE, "an unknown id is GONE")
    _must(dict(case.compute.servers([])) == {}, "no ids, no servers")


def a_restarted_controller_finds_the_servers(case: ComputeCase) -> None:
    server = case.boot()
    again = case.again()
    _must(again.find(server.name) == server, "another driver finds the server as it is")
    _must(again.servers([server.id])[server.id] == server, "and by its id")
    _must(server.name in [s.name for s in again.list()], "and lists it")


def a_destroyed_server_is_gone_and_destroying_it_again_is_success(case: ComputeCase) -> None:
    by_id, by_name = case.boot(), case.boot()
    for id_or_name, server in ((by_id.id, by_id), (by_name.name, by_name)):
        case.compute.destroy(id_or_name)
        _must(case.compute.find(server.name) is None, "a destroyed server is not found")
        _must(case.compute.servers([server.id])[server.id].state is ServerState.GONE, "a destroyed server is GONE")
        case.compute.destroy(id_or_name)
    spec = _spec()
    case.compute.destroy(spec.name)
    _must(not case.compute.list(), "nothing is listed when everything was destroyed")


def a_server_can_be_destroyed_while_it_is_built(case: ComputeCase) -> None:
    spec = _spec()
    case.compute.boot(spec, lambda: case.files(spec.amphora_id))
    case.compute.destroy(spec.name)
    _must(case.compute.find(spec.name) is None, "a server that was destroyed while it was built is not found")


def a_server_group_is_made_once_and_removed_for_good(case: ComputeCase) -> None:
    name = f"octavia-lb-{uuid.uuid4()}"
    made = case.compute.server_group(name, "anti-affinity")
    _must(case.again().server_group(name, "anti-affinity") == made, "a server group of a name that exists is that one")
    for group in (made or name, name, name):
        case.compute.remove_server_group(group)
    again = case.compute.server_group(name, "anti-affinity")
    _must(made is None or again not in (None, made), "a server group that was removed is made anew")
    case.compute.remove_server_group(name)


def a_frozen_server_can_be_destroyed(case: ComputeCase) -> None:
    if case.freeze is None:
        return
    server = case.boot()
    case.freeze(server)
    _must(
        case.compute.servers([server.id])[server.id].state is ServerState.ACTIVE,
        "a frozen server is not known to be dead",
    )
    case.compute.destroy(server.id)
    _must(case.compute.find(server.name) is None, "a frozen server can be destroyed")


def a_dead_server_is_stopped_and_can_be_destroyed(case: ComputeCase) -> None:
    server = case.boot()
    case.kill(server)
    seen = _eventually(lambda: _in_state(case.compute, server, ServerState.STOPPED), "a dead server is STOPPED")
    _must(seen.id == server.id, "a dead server keeps its id")
    case.compute.destroy(server.id)
    _must(case.compute.find(server.name) is None, "a dead server can be destroyed")


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
            _eventually(
                partial(_told, deaths, server), "a watch tells of the death of a server booted before or after it"
            )
        case.compute.servers([before.id, after.id])
        case.compute.list()
    finally:
        watch.close()
    watch.close()
    _must(sorted(d.server_id for d in deaths) == sorted([before.id, after.id]), "each death is told once, and no other")
    case.kill(survivor)
    _eventually(lambda: _in_state(case.compute, survivor, ServerState.STOPPED), "a dead server is STOPPED")
    _must(len(deaths) == 2, "a closed watch tells nothing")


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
        _eventually(partial(_told, deaths, server), "a watch tells of servers that another process booted")
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
            _eventually(partial(_told, deaths, server), "a listener that raised is told of the next death")
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


# -- network ----------------------------------------------------------------------------------------------------------


def _reserve(network: NetworkPort, load_balancer_id: str, address: str | None = None) -> LoadBalancer:
    plan = network.reserve_vip(VipRequest(load_balancer_id=load_balancer_id, ip_address=address))
    _must(plan.vip.ip_address and plan.vip.port_id, "a reserved VIP has an address and a port")
    return LoadBalancer(id=load_balancer_id, vip=plan.vip)


def _amphora() -> Amphora:
    return Amphora(id=str(uuid.uuid4()), status=AmphoraStatus.ALLOCATED, compute_id="server", lb_network_ip="127.0.0.1")


def the_same_load_balancer_twice_has_the_same_address(case: NetworkCase) -> None:
    id = str(uuid.uuid4())
    first = _reserve(case.network, id)
    _must(_reserve(case.network, id).vip == first.vip, "the same load balancer twice has the same VIP")
    _must(_reserve(case.again(), id).vip == first.vip, "also for another controller")


def competing_load_balancers_have_addresses_of_their_own(case: NetworkCase) -> None:
    ids = [str(uuid.uuid4()) for _ in range(12)]
    found: list[str | None] = []

    def reserve(id: str) -> None:
        found.append(_reserve(case.again(), id).vip.ip_address)

    threads = [threading.Thread(target=reserve, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _must(
        len(found) == len(ids) and len(set(found)) == len(ids), "load balancers that compete have different addresses"
    )


def a_wanted_address_is_given_once(case: NetworkCase) -> None:
    holder, other = str(uuid.uuid4()), str(uuid.uuid4())
    _must(
        _reserve(case.network, holder, case.free).vip.ip_address == case.free, "a free address that is wanted is given"
    )
    error = _raises(PermanentError, lambda: _reserve(case.again(), other, case.free), "a taken address is refused")
    _must(case.free in str(error), "the refusal names the address")
    case.network.release_vip(holder, None)
    _must(_reserve(case.network, other, case.free).vip.ip_address == case.free, "a released address can be had again")


def a_foreign_address_is_refused(case: NetworkCase) -> None:
    for address in (case.foreign, "no address"):
        error = _raises(
            PermanentError,
            partial(_reserve, case.network, str(uuid.uuid4()), address),
            f"{address} is refused",
        )
        _must(address in str(error), "the refusal names the address")
    _must(not case.network.list(), "a refused wish leaves nothing behind")


def a_plug_is_made_once_and_seen(case: NetworkCase) -> None:
    load_balancer, amphora = _reserve(case.network, str(uuid.uuid4())), _amphora()
    _must(not case.network.plugged(amphora), "nothing is plugged at first")
    plug = case.network.plug_vip(load_balancer, amphora)
    _must(plug.vip == load_balancer.vip.ip_address, "the plug is for the VIP")
    _must(plug.mac_address == plug.mac_address.lower(), "MAC addresses are lower case")
    _must(case.again().plug_vip(load_balancer, amphora) == plug, "plugging again returns the port that exists")
    seen = case.network.plugged(amphora)
    _must([network.port_id for network in seen] == [plug.port_id], "what is plugged is seen, once")
    case.network.plug_member_networks(load_balancer, amphora)
    case.network.unplug_vip(load_balancer, amphora)
    case.network.unplug_vip(load_balancer, amphora)
    _must(not case.network.plugged(amphora), "what was unplugged is not seen; unplugging again is success")


def two_amphorae_have_ports_of_their_own(case: NetworkCase) -> None:
    load_balancer, one, two = _reserve(case.network, str(uuid.uuid4())), _amphora(), _amphora()
    first, second = case.network.plug_vip(load_balancer, one), case.network.plug_vip(load_balancer, two)
    _must(first.port_id != second.port_id, "each amphora has a port of its own")
    case.network.unplug_vip(load_balancer, one)
    _must(case.network.plugged(two), "unplugging one amphora leaves the other")


def member_networks_come_and_go_as_members_do(case: NetworkCase) -> None:
    bare, amphora = _reserve(case.network, str(uuid.uuid4())), _amphora()
    vip = case.network.plug_vip(bare, amphora)

    def after(*subnets: str) -> set[str]:
        """Subnets that are plugged for members, after it was asked for these."""
        members = tuple(Member(id=s, address="192.0.2.1", protocol_port=80, subnet_id=s) for s in subnets)
        pool = Pool(id="pool", protocol=PoolProtocol.HTTP, members=members)
        wanted = attrs.evolve(bare, pools=(pool,))
        changed = case.network.plug_member_networks(wanted, amphora)
        _must(not case.again().plug_member_networks(wanted, amphora), "asked for again, nothing changes")
        seen = [network for network in case.network.plugged(amphora) if network.port_id != vip.port_id]
        _must({n.port_id for n in changed} <= {n.port_id for n in seen}, "what changed is plugged")
        for network in seen:
            _must(network.mac_address == network.mac_address.lower(), "MAC addresses are lower case")
            _must(all(fixed.get("ip_address") for fixed in network.fixed_ips), "a plug has its addresses")
        return {str(fixed["subnet_id"]) for network in seen for fixed in network.fixed_ips}

    if not case.network.plugs_members:
        _must(after(*filter(None, case.subnets)) == set(), "a network that reaches all members plugs nothing for them")
        return
    one, two = case.subnets
    _must(after(one) == {one}, "a member's subnet is plugged")
    _must(after(one, two) == {one, two}, "a second one too")
    _must(after(two) == {two}, "what no member needs is unplugged")
    _must(after() == set(), "without members nothing is left of them")
    _must([n.port_id for n in case.network.plugged(amphora)] == [vip.port_id], "the VIP stays")


def releasing_leaves_nothing_and_twice_is_success(case: NetworkCase) -> None:
    load_balancer = _reserve(case.network, str(uuid.uuid4()))
    case.network.plug_vip(load_balancer, _amphora())
    _must(case.network.list(), "what is reserved is listed")
    case.network.release_vip(load_balancer.id, load_balancer.vip)
    case.network.release_vip(load_balancer.id, load_balancer.vip)
    case.again().release_vip(str(uuid.uuid4()), None)
    _must(not case.network.list(), "a released VIP leaves nothing, plugs included")


def a_listener_is_reachable_somewhere(case: NetworkCase) -> None:
    address = _reserve(case.network, str(uuid.uuid4())).vip.ip_address
    for port in (80, 8080, 65535):
        host, _, reached = case.network.reachable_at(str(address), port).rpartition(":")
        _must(host == address and 0 < int(reached) < 65536, "reachable_at gives host:port of the VIP")


def a_topology_is_carried_or_objected_to_in_a_sentence(case: NetworkCase) -> None:
    _must(case.network.objection(Topology.SINGLE) is None, "a network carries load balancers of one amphora")
    said = case.network.objection(Topology.ACTIVE_STANDBY)
    _must(said is None or "ACTIVE_STANDBY" in said, "an objection names the topology")
    _must(not case.network.list(), "asking reserves nothing")


NETWORK_CONTRACT: tuple[Callable[[NetworkCase], None], ...] = (
    the_same_load_balancer_twice_has_the_same_address,
    competing_load_balancers_have_addresses_of_their_own,
    a_wanted_address_is_given_once,
    a_foreign_address_is_refused,
    a_plug_is_made_once_and_seen,
    two_amphorae_have_ports_of_their_own,
    member_networks_come_and_go_as_members_do,
    releasing_leaves_nothing_and_twice_is_success,
    a_listener_is_reachable_somewhere,
    a_topology_is_carried_or_objected_to_in_a_sentence,
)


# -- secrets ----------------------------------------------------------------------------------------------------------


def a_certificate_has_its_key(case: SecretsCase) -> None:
    payloads = case.store.fetch(case.certificate_ref)
    _must(payloads.keys() >= {"certificate", "private_key"} or "pkcs12" in payloads, "a certificate comes with its key")
    _all_secret(payloads)


def a_plain_secret_is_a_payload(case: SecretsCase) -> None:
    payloads = case.store.fetch(case.payload_ref)
    _must("payload" in payloads, "a plain secret is a payload")
    _all_secret(payloads)


def _all_secret(payloads: Mapping[str, Secret]) -> None:
    _must(all(isinstance(value, Secret) for value in payloads.values()), "every value is a Secret")
    _must(all(payloads.values()), "no value is empty")


def an_absent_secret_is_missing_by_name(case: SecretsCase) -> None:
    error = _raises(SecretMissing, lambda: case.store.fetch(case.absent_ref), "an absent secret is SecretMissing")
    _must(case.absent_ref in str(error), "the error names the reference")


SECRETS_CONTRACT: tuple[Callable[[SecretsCase], None], ...] = (
    a_certificate_has_its_key,
    a_plain_secret_is_a_payload,
    an_absent_secret_is_missing_by_name,
)
