"""How the core speaks to the amphora itself: one driver per kind of amphora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from octavia_core.domain.amphora import AgentAddress, Amphora, VrrpGroup
from octavia_core.domain.secret import CertificateBundle, Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Topology
from octavia_core.ports.compute import BootFiles
from octavia_core.ports.network import PluggedNetwork, VipPlug

__all__ = ["AgentInfo", "AmphoraPort", "BootIdentity", "Delivery", "Material", "Pushed", "VrrpDelivery"]


@attrs.frozen(kw_only=True)
class AgentInfo:
    """What an agent says of itself."""

    api_version: str
    hostname: str
    haproxy_version: str


@attrs.frozen(kw_only=True)
class BootIdentity:
    """What makes a server this amphora: its certificate and key, and the authority it must obey."""

    amphora_id: str
    topology: Topology
    server_pem: Secret
    """Certificate, then key, PEM, in one file."""
    controller_ca_pem: bytes
    """The authority that signed the controllers' client certificates."""


@attrs.frozen(kw_only=True)
class Material:
    """The secrets a configuration needs, fetched before the push.

    Attributes:
        bundles: certificate reference -> certificate with key. References to one certificate have one chain, that of all
            of them: an amphora has one file for it.
        payloads: reference of a client CA or CRL -> PEM text.
        missing: reference -> why it could not be had, or is of the wrong kind for one who refers to it. A listener that
            needs one keeps the files it has on the amphora.
        doubts: reference -> what is doubtful about it, though it is served: it is expired, holds only later, or its
            certificate has other intermediates in another secret.
    """

    bundles: Mapping[str, CertificateBundle] = attrs.field(factory=dict)
    payloads: Mapping[str, str] = attrs.field(factory=dict)
    missing: Mapping[str, str] = attrs.field(factory=dict)
    doubts: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Delivery:
    """One configuration for one amphora: the resolved tree, and who sends it.

    Attributes:
        load_balancer: the tree to render; what is left out of it is not served.
        amphora: the receiver; `peers` are the other amphorae of the pair.
        fence: (operation id, fence): our own agent refuses an older holder of the same operation.
    """

    load_balancer: LoadBalancer
    amphora: Amphora
    peers: tuple[Amphora, ...] = ()
    material: Material = attrs.field(factory=Material)
    fence: tuple[str, int] | None = None


@attrs.frozen(kw_only=True)
class Pushed:
    """What the amphora holds after a push. `changed` is False when it already held exactly this."""

    etag: str
    changed: bool
    skipped_listeners: tuple[str, ...] = ()
    """Listeners left out, or kept with old files, because a secret is missing; and those it cannot serve at all."""
    kept_listeners: tuple[str, ...] = ()
    """Those of them that go on with the files the amphora has."""
    partial_listeners: tuple[str, ...] = ()
    """Those of them that are served with their default certificate, without the SNI certificates that are missing."""
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    """Listener -> why it was left out, where the amphora itself says it; for a missing secret, `Material` does."""


@attrs.frozen(kw_only=True)
class VrrpDelivery:
    """What one amphora of a pair needs to share the VIP with the other.

    Attributes:
        load_balancer: its VIPs; what is below it does not matter here.
        amphora: the receiver, with its address, interface and priority of VRRP.
        peers: those it shares with, each with its address of VRRP.
        group: what all of them agree on.
        subnet: what the network says of the VIP's subnet: range, gateway, routes. Ports and addresses of an amphora in
            it do not matter, so that of either amphora will do.
        fence: as in `Delivery`.
    """

    load_balancer: LoadBalancer
    amphora: Amphora
    peers: tuple[Amphora, ...]
    group: VrrpGroup
    subnet: VipPlug
    fence: tuple[str, int] | None = None


class AmphoraPort(Protocol):
    """The amphora's own interface."""

    time_limit: float
    """Seconds within which each call returns or raises (one request of the agent; a push is several)."""

    def boot_files(self, identity: BootIdentity) -> BootFiles:
        """The files that the image expects at boot. Pure: no request is made."""

    def info(self, at: AgentAddress, *, limit: float | None = None) -> AgentInfo:
        """Ask the agent who it is, within `limit` seconds (None: `time_limit`).

        Raises:
            AmphoraUnreachable: it does not answer (yet).
            AmphoraRefused: something answers that is not this amphora's agent.
        """

    def plug_vip(self, at: AgentAddress, plug: VipPlug) -> None:
        """Tell the agent to configure the VIP. Already plugged is success."""

    def plug_network(self, at: AgentAddress, network: PluggedNetwork) -> None:
        """Tell the agent to configure a member network. Repeated, it rewrites the same."""

    def push(self, at: AgentAddress, delivery: Delivery) -> Pushed:
        """Make the amphora serve this configuration, and read back that it does. Identical content is not sent again.

        Raises:
            AmphoraUnreachable: no answer; nothing is known about what it serves.
            AmphoraRefused: the agent refused the configuration; it goes on with what it had.
        """

    def remove(self, at: AgentAddress, load_balancer_id: str) -> None:
        """Stop serving that load balancer and forget its files. Absent is success."""

    def interface(self, at: AgentAddress, address: str) -> str | None:
        """The amphora's own name of the interface that carries an address now, or None when none does.

        Asked for the VIP, it tells which amphora of a pair holds it at the moment.

        Raises:
            AmphoraUnreachable: it does not answer.
        """

    def start_vrrp(self, at: AgentAddress, delivery: VrrpDelivery) -> None:
        """Make the amphora share the VIP: give it what it needs, and start that, or make what runs use it.

        Identical content is not sent again. Repeated, it goes on as it is; who holds the VIP does not change by it.
        An amphora that was `push`ed nothing to serve takes no VIP until it is.

        Raises:
            AmphoraUnreachable: no answer; nothing is known about whether it shares the VIP.
            AmphoraRefused: the agent refused, or an object has what cannot be written.
        """

    def stop_vrrp(self, at: AgentAddress) -> None:
        """Make the amphora give the VIP up, and not take it again; the other one has it at once. Not running is success.

        Raises:
            AmphoraUnreachable: no answer; it may hold the VIP still.
        """

    def rotate_certificate(self, at: AgentAddress, server_pem: Secret) -> None:
        """Give the agent a new certificate; it presents it from the next connection on."""

    def update_agent(self, at: AgentAddress, identity: BootIdentity) -> None:
        """Push the agent's settings (heartbeat key, controller list, interval) again."""

    def render(self, delivery: Delivery) -> Sequence[tuple[str, str]]:
        """The files a push would send, as (name, text), secrets left out: for `lb show --config` and for tests."""

    def close(self) -> None:
        """Give back connections that are kept open. Twice is harmless; a call afterwards opens them again."""
