"""Agents of the simulated cloud: they accept any configuration, remember it and serve nobody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable
from octavia_core.ports.amphora import AgentInfo, BootIdentity, Delivery, Pushed, VrrpDelivery
from octavia_core.ports.compute import BootFiles, ServerState
from octavia_core.ports.network import PluggedNetwork, VipPlug
from octavia_core.testing import vrrp
from octavia_core.testing.outside import SimulatedCloud, Things
from octavia_core.testing.simulator.compute import server_of

__all__ = ["SimulatedAmphorae"]

T = TypeVar("T")


class SimulatedAmphorae:
    """AmphoraPort: every agent of the simulated cloud. An agent answers while its server is ACTIVE."""

    time_limit = 2.0

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
        if known is None or server_of(self._cloud, name, known).state is not ServerState.ACTIVE:
            return None
        return str(known["amphora_id"])

    def _runs(self, known: Mapping[str, Any]) -> bool:
        return server_of(self._cloud, "", known).state is ServerState.ACTIVE

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
