"""Drivers of the simulated cloud: compute, network, amphora agents and a secret store, in no machine but SQLite.

They pass the same contract tests as the real drivers. Amphorae accept any configuration, remember it and serve nobody.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, PermanentError, SecretMissing
from octavia_core.ports.amphora import AgentInfo, BootIdentity, Delivery, Pushed, VrrpDelivery
from octavia_core.ports.compute import BootFiles, Death, Server, ServerSpec, ServerState
from octavia_core.ports.network import AddressPlan, PluggedNetwork, VipPlug, VipRequest
from octavia_core.testing import vrrp
from octavia_core.testing.outside import SimulatedCloud, Things

__all__ = ["MANAGEMENT", "VIPS", "SimulatedAmphorae", "SimulatedCompute", "SimulatedNetwork", "SimulatedSecrets"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

MANAGEMENT = ipaddress.IPv4Network("10.64.0.0/12")
"""Where simulated agents are."""

VIPS = ipaddress.IPv4Network("10.128.0.0/16")
"""Where simulated VIPs are."""

HOSTS = 4
"""Machines that simulated servers are spread over, one after the other."""

_NETWORK_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "vips.octavia-core.invalid"))
_SUBNET_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "subnet.vips.octavia-core.invalid"))
_LOOK_AGAIN = 0.01


class SimulatedCompute:
    """ComputePort."""

    time_limit = 5.0
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
            return _server(self._cloud, spec.name, known)

        return self._cloud.call("compute.boot", spec.name, do)

    def find(self, name: str) -> Server | None:
        def see(things: Things) -> Server | None:
            known = things.get("server", name)
            return None if known is None else _server(self._cloud, name, known)

        return self._cloud.call("compute.find", name, see)

    def servers(self, ids: Sequence[str]) -> Mapping[str, Server]:
        def see(things: Things) -> dict[str, Server]:
            found = {id: things.by_id("server", id) for id in ids}
            return {
                id: _server(self._cloud, *known) if known else Server(id=id, name="", state=ServerState.GONE)
                for id, known in found.items()
            }

        return self._cloud.call("compute.servers", ",".join(sorted(ids)[:3]), see)

    def list(self) -> Sequence[Server]:
        return self._cloud.call(
            "compute.list",
            "",
            lambda things: [_server(self._cloud, *known) for known in things.every("server", "amphora-")],
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


def _server(cloud: SimulatedCloud, name: str, known: Mapping[str, Any]) -> Server:
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


class SimulatedNetwork:
    """NetworkPort. Names of ports are those that upstream gives in Neutron."""

    time_limit = 5.0
    plugs_members = True

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def objection(self, topology: Topology) -> str | None:
        return None

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        name = f"octavia-lb-{request.load_balancer_id}"

        def do(things: Things) -> AddressPlan:
            known = things.get("vip", name)
            if known is None:
                # a port that exists, made by upstream's API or brought by the user, has its address from elsewhere
                made = request.port_id is not None and request.ip_address is not None
                address = str(request.ip_address) if made else self._address(things, request.ip_address)
                known = {"address": address, "port_id": request.port_id or str(uuid.uuid4())}
                things.put("vip", name, known, id=address)
            return AddressPlan(
                vip=Vip(
                    ip_address=known["address"],
                    port_id=known["port_id"],
                    subnet_id=request.subnet_id or _SUBNET_ID,
                    network_id=request.network_id or _NETWORK_ID,
                    octavia_owned=request.port_id is None,
                )
            )

        return self._cloud.call("network.reserve_vip", name, do)

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        name = f"octavia-lb-{load_balancer_id}"

        def do(things: Things) -> None:
            things.remove("vip", name)
            for port, known in things.every("port"):
                if known["load_balancer_id"] == load_balancer_id:
                    things.remove("port", port)

        self._cloud.call("network.release_vip", name, do)

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        name = f"octavia-lb-vrrp-{amphora.id}"

        def do(things: Things) -> VipPlug:
            vip = things.get("vip", f"octavia-lb-{load_balancer.id}")
            if vip is None:
                raise PermanentError(f"load balancer {load_balancer.id} has no VIP to plug; reserve it first")
            known = things.get("port", name)
            if known is None:
                known = self._port(amphora, load_balancer.id, _NETWORK_ID)
                things.put("port", name, known, id=known["port_id"])
            return VipPlug(
                port_id=known["port_id"],
                mac_address=known["mac"],
                vip=vip["address"],
                subnet_cidr=str(VIPS),
                gateway=str(VIPS[1]),
                vrrp_ip=known["address"],
                mtu=1450,
            )

        return self._cloud.call("network.plug_vip", name, do)

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        name = f"octavia-lb-vrrp-{amphora.id}"
        self._cloud.call("network.unplug_vip", name, lambda things: things.remove("port", name))

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        def see(things: Things) -> list[PluggedNetwork]:
            vip = things.get("port", f"octavia-lb-vrrp-{amphora.id}")
            members = [known for _, known in things.every("port", f"octavia-lb-member-{amphora.id}-")]
            return [_network(known) for known in [vip, *members] if known is not None]

        return self._cloud.call("network.plugged", amphora.id, see)

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        prefix = f"octavia-lb-member-{amphora.id}-"
        wanted = {m.subnet_id for pool in load_balancer.pools for m in pool.members if m.subnet_id}
        wanted -= {_SUBNET_ID, load_balancer.vip.subnet_id}

        def do(things: Things) -> list[PluggedNetwork]:
            changed: list[PluggedNetwork] = []
            present = {name.removeprefix(prefix) for name, _ in things.every("port", prefix)}
            for subnet in sorted(present - wanted):
                things.remove("port", prefix + subnet)
            for subnet in sorted(wanted - present):
                known = self._port(amphora, load_balancer.id, subnet)
                things.put("port", prefix + subnet, known, id=known["port_id"])
                changed.append(_network(known))
            return changed

        return self._cloud.call("network.plug_member_networks", amphora.id, do)

    def lose(self, amphora: Amphora, subnet_id: str | None = None) -> None:
        """Take a plug away behind everybody's back: of that subnet of members, or (None) the VIP's."""
        name = f"octavia-lb-member-{amphora.id}-{subnet_id}" if subnet_id else f"octavia-lb-vrrp-{amphora.id}"
        self._cloud.look(lambda things: things.remove("port", name))

    def reachable_at(self, address: str, port: int) -> str:
        return f"{address}:{port}"

    def list(self) -> Sequence[tuple[str, str]]:
        def see(things: Things) -> list[tuple[str, str]]:
            return [(kind, name) for kind in ("port", "vip") for name, _ in things.every(kind)]

        return self._cloud.call("network.list", "", see)

    @staticmethod
    def _address(things: Things, wanted: str | None) -> str:
        if wanted is not None:
            try:
                inside = ipaddress.ip_address(wanted) in VIPS
            except ValueError:
                inside = False
            if not inside:
                raise PermanentError(f"VIP address {wanted} is not on the simulated network {VIPS}")
            holder = things.by_id("vip", wanted)
            if holder is not None:
                raise PermanentError(f"VIP address {wanted} is taken by {holder[0]}")
            return wanted
        taken = {known["address"] for _, known in things.every("vip")}
        return next(str(host) for host in _hosts() if str(host) not in taken)

    @staticmethod
    def _port(amphora: Amphora, load_balancer_id: str, network: str) -> dict[str, str]:
        id = uuid.uuid4()
        return {
            "port_id": str(id),
            "mac": "fa:16:3e:" + id.bytes[:3].hex(":"),
            "address": str(VIPS[int.from_bytes(id.bytes[:2], "big") % 65000 + 256]),
            "network_id": network,
            "amphora_id": amphora.id,
            "load_balancer_id": load_balancer_id,
        }


def _hosts() -> Iterator[ipaddress.IPv4Address]:
    for number in range(10, VIPS.num_addresses - 1):
        yield VIPS[number]


def _network(known: Mapping[str, str]) -> PluggedNetwork:
    """Networks of members have one subnet, with the same id."""
    subnet = _SUBNET_ID if known["network_id"] == _NETWORK_ID else known["network_id"]
    return PluggedNetwork(
        network_id=known["network_id"],
        port_id=known["port_id"],
        mac_address=known["mac"],
        fixed_ips=({"ip_address": known["address"], "subnet_id": subnet},),
        mtu=1450,
    )


class SimulatedAmphorae:
    """AmphoraPort: every agent of the simulated cloud. An agent answers while its server is ACTIVE."""

    time_limit = 5.0

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def boot_files(self, identity: BootIdentity) -> BootFiles:
        return {
            "/etc/octavia/certs/server.pem": identity.server_pem,
            "/etc/octavia/certs/client_ca.pem": Secret(identity.controller_ca_pem),
        }

    def info(self, at: AgentAddress, *, limit: float | None = None) -> AgentInfo:
        answer = AgentInfo(api_version="1.0", hostname=f"amphora-{at.amphora_id}", haproxy_version="simulated")
        return self._ask("amphora.info", at, lambda _: answer)

    def plug_vip(self, at: AgentAddress, plug: VipPlug) -> None:
        self._ask("amphora.plug_vip", at, lambda things: self._note(things, at, vip=plug.vip))

    def plug_network(self, at: AgentAddress, network: PluggedNetwork) -> None:
        def do(things: Things) -> None:
            networks = {*self._agent(things, at).get("networks", ()), network.network_id}
            self._note(things, at, networks=sorted(networks))

        self._ask("amphora.plug_network", at, do)

    def push(self, at: AgentAddress, delivery: Delivery) -> Pushed:
        skipped = tuple(
            listener.id
            for listener in delivery.load_balancer.listeners
            if listener.tls_certificate_id in delivery.material.missing
        )
        text = "\n".join(text for _, text in self.render(delivery))
        etag = hashlib.sha256(text.encode()).hexdigest()

        def do(things: Things) -> Pushed:
            agent = self._agent(things, at)
            self._fenced(things, at, delivery.fence)
            changed = agent.get("etag") != etag
            if changed:
                self._note(things, at, etag=etag, configuration=text, pushes=agent.get("pushes", 0) + 1)
            return Pushed(etag=etag, changed=changed, skipped_listeners=skipped)

        return self._ask("amphora.push", at, do)

    def remove(self, at: AgentAddress, load_balancer_id: str) -> None:
        self._ask("amphora.remove", at, lambda things: self._note(things, at, etag=None, configuration=None))

    def interface(self, at: AgentAddress, address: str) -> str | None:
        def see(things: Things) -> str | None:
            port = things.get("port", f"octavia-lb-vrrp-{at.amphora_id}")
            own = port is not None and port["address"] == address
            if own or vrrp.holder(things, address, self._runs) == at.amphora_id:
                return "eth1"
            told = self._agent(things, at).get("networks", ())
            members = (known for _, known in things.every("port", f"octavia-lb-member-{at.amphora_id}-"))
            return "eth2" if any(m["address"] == address and m["network_id"] in told for m in members) else None

        return self._ask("amphora.interface", at, see)

    def start_vrrp(self, at: AgentAddress, delivery: VrrpDelivery) -> None:
        share = vrrp.share_of(delivery)

        def do(things: Things) -> None:
            self._fenced(things, at, delivery.fence)
            self._note(things, at, vrrp=share)
            vrrp.judge(things, delivery.load_balancer.id, self._runs)

        self._ask("amphora.start_vrrp", at, do)

    def stop_vrrp(self, at: AgentAddress) -> None:
        self._ask("amphora.stop_vrrp", at, lambda things: self._note(things, at, vrrp=None))

    def rotate_certificate(self, at: AgentAddress, server_pem: Secret) -> None:
        fingerprint = hashlib.sha256(server_pem.reveal()).hexdigest()
        self._ask("amphora.rotate_certificate", at, lambda things: self._note(things, at, certificate=fingerprint))

    def update_agent(self, at: AgentAddress, identity: BootIdentity) -> None:
        self._ask("amphora.update_agent", at, lambda things: self._note(things, at, updated=True))

    def render(self, delivery: Delivery) -> Sequence[tuple[str, str]]:
        tree = attrs.asdict(delivery.load_balancer, recurse=True)
        return [("configuration.json", json.dumps(_without_statuses(tree), sort_keys=True, default=str, indent=1))]

    def close(self) -> None:
        """Nothing is kept open; the cloud is closed by who made it."""

    def configuration(self, amphora_id: str) -> Mapping[str, Any] | None:
        """The tree that an amphora serves, as JSON, or None: for tests."""
        text = self._cloud.look(lambda things: self._content(things, amphora_id).get("configuration"))
        return None if text is None else json.loads(text)

    def vip_holder(self, address: str) -> str | None:
        """The amphora that holds a VIP which a pair shares, or None: for tests."""
        return self._cloud.look(lambda things: vrrp.holder(things, address, self._runs))

    def shares(self, amphora_id: str) -> Mapping[str, Any] | None:
        """What an amphora was given to share the VIP with, while it does so, or None: for tests."""
        found: Mapping[str, Any] | None = self._cloud.look(lambda things: self._content(things, amphora_id).get("vrrp"))
        return found

    def split_brains(self) -> Sequence[str]:
        """Load balancers of which two amphorae did, at any time, not listen to each other: for tests."""
        return self._cloud.look(lambda things: [name for name, _ in things.every("split-brain")])

    def pushes(self, amphora_id: str) -> int:
        """How often an amphora's configuration was changed: for tests."""
        return int(self._cloud.look(lambda things: self._content(things, amphora_id).get("pushes", 0)))

    def _ask(self, name: str, at: AgentAddress, do: Callable[[Things], T]) -> T:
        def answer(things: Things) -> T:
            server = self._answering(things, at)
            if server is None:
                raise AmphoraUnreachable(f"amphora {at.amphora_id} does not answer at {at.host}:{at.port}")
            if server != at.amphora_id:
                raise AmphoraRefused(f"amphora {server} answers at {at.host}:{at.port}, not {at.amphora_id}", status=0)
            return do(things)

        return self._cloud.call(name, at.amphora_id, answer)

    def _answering(self, things: Things, at: AgentAddress) -> str | None:
        """The amphora whose agent answers at that address."""
        name = f"amphora-{at.amphora_id}"
        known = things.get("server", name)
        if known is None or known["address"] != at.host:
            others = things.every("server")
            name, known = next(((n, k) for n, k in others if k["address"] == at.host), (name, None))
        if known is None or _server(self._cloud, name, known).state is not ServerState.ACTIVE:
            return None
        return str(known["amphora_id"])

    def _runs(self, known: Mapping[str, Any]) -> bool:
        return _server(self._cloud, "", known).state is ServerState.ACTIVE

    def _fenced(self, things: Things, at: AgentAddress, fence: tuple[str, int] | None) -> None:
        """Refuse an older holder of an operation, as our own agent does."""
        if fence is None:
            return
        seen = self._agent(things, at).get("fences", {})
        held = seen.get(fence[0], -1)
        if fence[1] < held:
            raise AmphoraRefused(
                f"amphora {at.amphora_id} has seen fence {held} of operation {fence[0]}; {fence[1]} is older",
                status=409,
            )
        self._note(things, at, fences={**seen, fence[0]: fence[1]})

    @staticmethod
    def _content(things: Things, amphora_id: str) -> dict[str, Any]:
        server = things.get("server", f"amphora-{amphora_id}") or {}
        content: dict[str, Any] = server.get("agent", {})
        return content

    def _agent(self, things: Things, at: AgentAddress) -> dict[str, Any]:
        return self._content(things, at.amphora_id)

    @staticmethod
    def _note(things: Things, at: AgentAddress, **what: Any) -> None:
        """What an agent remembers lives and dies with its server."""
        name = f"amphora-{at.amphora_id}"
        server = things.get("server", name)
        if server is not None:
            things.put("server", name, server | {"agent": server.get("agent", {}) | what})


def _without_statuses(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            k: _without_statuses(v) for k, v in tree.items() if k not in ("provisioning_status", "operating_status")
        }
    if isinstance(tree, (list, tuple)):
        return [_without_statuses(item) for item in tree]
    return tree


class SimulatedSecrets:
    """SecretStorePort. `put` is for tests; what it is given must be made for tests, it is kept as it is."""

    time_limit = 5.0

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def put(self, ref: str, payloads: Mapping[str, bytes]) -> None:
        """Store payloads under a reference, or replace them."""
        content = {key: base64.b64encode(value).decode("ascii") for key, value in payloads.items()}
        self._cloud.look(lambda things: things.put("secret", ref, content))

    def remove(self, ref: str) -> None:
        """Take a secret away."""
        self._cloud.look(lambda things: things.remove("secret", ref))

    def fetch(self, ref: str) -> Mapping[str, Secret]:
        def do(things: Things) -> dict[str, Secret]:
            content = things.get("secret", ref)
            if content is None:
                raise SecretMissing(f"the simulated store has no secret {ref!r}")
            return {key: Secret(base64.b64decode(value)) for key, value in content.items()}

        return self._cloud.call("secrets.fetch", ref, do)
