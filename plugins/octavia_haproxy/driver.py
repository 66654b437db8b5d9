"""The amphora driver: what the core asks of an amphora, in terms of its agent's REST API."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from octavia_core.errors import AmphoraRefused, PermanentError, TransientError
from octavia_core.ports.amphora import AgentInfo, BootIdentity, Delivery, Pushed, VrrpDelivery
from octavia_core.ports.compute import BootFiles
from octavia_core.ports.network import PluggedNetwork, VipPlug
from octavia_core.settings import Settings
from octavia_haproxy import datagrams, pair
from octavia_haproxy.boot import agent_conf, boot_files
from octavia_haproxy.client import APPLY, About, AgentClient
from octavia_haproxy.complaints import explained
from octavia_haproxy.recent import Known, Recent
from octavia_haproxy.render.config import Configuration, configure
from octavia_haproxy.render.held import Held, read_back
from octavia_haproxy.render.lvs import configure_lvs, lvs_listeners
from octavia_haproxy.render.model import Facts, PemFile, haproxy_listeners
from octavia_haproxy.render.names import cert_directory
from octavia_haproxy.rules import let_in
from octavia_haproxy.too_many import refusal
from octavia_haproxy.transport import Transport

__all__ = ["APPLIED", "HaproxyDriver"]

APPLIED = "octavia-applied.pem"
"""A file of ours beside the certificates, holding the ETag of the configuration that was last loaded.

The agent can say which configuration it has stored, but not whether HAProxy runs it: a controller that died between
upload and reload would find what it wanted and leave the old one running. It is removed before an upload and written
after a reload; where certificates vanish at a reboot (RAM disk), so does it, and everything is sent again.
"""

_FIXED_IP = ("ip_address", "subnet_cidr", "host_routes", "gateway")
_NO_ROUTES: dict[str, Any] = {"host_routes": [], "gateway": None}
"""What the agent wants to know of each address of a port; it insists on all four."""

_VERSION = re.compile(r"(\d+)\.(\d+)")


class HaproxyDriver:
    """Amphorae that run HAProxy behind upstream's agent, or ours. Safe for threads; opens nothing before the first call.

    Args:
        settings: groups `haproxy_amphora`, `amphora_agent`, `health_manager`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._transport = Transport(settings)
        self.time_limit = self._transport.time_limit
        # agents that are known to speak the current version; asked once each, as one is not put back in time
        self._current: Recent[AgentAddress, bool] = Recent()
        self._known: Recent[tuple[AgentAddress, str], Known] = Recent()

    def close(self) -> None:
        """Close kept connections."""
        self._transport.close()

    def boot_files(self, identity: BootIdentity) -> BootFiles:
        """See `AmphoraPort.boot_files`."""
        return boot_files(identity, self._settings)

    def info(self, at: AgentAddress, *, limit: float | None = None) -> AgentInfo:
        """See `AmphoraPort.info`."""
        agent = attrs.evolve(self._agent(at, limit), beside=limit is not None)  # who is in a hurry waits for no push
        if self._current.get(at) is None:
            agent.version()
            self._current.put(at, True)
        return agent.info()

    def plug_vip(self, at: AgentAddress, plug: VipPlug) -> None:
        """See `AmphoraPort.plug_vip`."""
        body: dict[str, Any] = {
            "subnet_cidr": plug.subnet_cidr,
            "gateway": plug.gateway,
            "mac_address": plug.mac_address.lower(),
            "vrrp_ip": plug.vrrp_ip,
            "mtu": plug.mtu,
            "host_routes": [attrs.asdict(route) for route in plug.host_routes],
            "additional_vips": [dict(vip) for vip in plug.additional_vips],
            "is_sriov": plug.is_sriov,
        }
        required = ("subnet_cidr", "gateway", "mac_address")
        present = {name: value for name, value in body.items() if value is not None or name in required}
        self._agent(at).plug_vip(plug.vip, present)

    def plug_network(self, at: AgentAddress, network: PluggedNetwork) -> None:
        """See `AmphoraPort.plug_network`."""
        body: dict[str, Any] = {"mac_address": network.mac_address.lower()}
        known = [address for address in network.fixed_ips if address.get("subnet_cidr")]
        if known:  # without any, the agent asks DHCP
            body["fixed_ips"] = [{**_NO_ROUTES, **{n: a[n] for n in _FIXED_IP if n in a}} for a in known]
        if network.mtu is not None:
            body["mtu"] = network.mtu
        self._agent(at).plug_network(body)

    def push(self, at: AgentAddress, delivery: Delivery) -> Pushed:
        """See `AmphoraPort.push`. Certificates first, then the configuration, then its reload, then what is left over."""
        agent = attrs.evolve(self._agent(at), fence=delivery.fence)
        try:
            pushed = self._quickly(agent, delivery) or self._thoroughly(agent, delivery)
        except AmphoraRefused as refused:
            told = explained(refused, delivery)
            if told is refused:
                raise
            raise told from refused
        let_in(agent, delivery)
        return pushed

    def _quickly(self, agent: AgentClient, delivery: Delivery) -> Pushed | None:
        """One request: an agent of ours is known to run what it was sent last, and of that only the text changes.

        Returns:
            None when it is not so; nothing was done.
        """
        place = agent.at, delivery.load_balancer.id
        known = self._known.get(place)
        if known is None:
            return None
        facts = _facts(known.version, known.held)
        wanted = configure(delivery, self._settings, facts)
        certain = not (wanted.missing or lvs_listeners(delivery.load_balancer) or _new_cache(wanted, facts))
        if wanted.text is None or not certain or wanted.files != known.held.named:
            return None
        applied = agent.apply(place[1], wanted.text, instead_of=known.etag, version=known.version)
        if applied is None:
            self._known.discard(place)
            return None
        etag = _confirmed(agent, place[1], wanted.text, applied.etag)
        self._remember(agent, place[1], wanted.text, known.version)
        return Pushed(etag=etag, changed=applied.changed)

    def _thoroughly(self, agent: AgentClient, delivery: Delivery) -> Pushed:
        id = delivery.load_balancer.id
        stored = agent.configuration(id)
        too_many = refusal(delivery.load_balancer, stored[0] if stored is not None else None)
        if too_many is not None and APPLY not in self._about(agent).offers:
            raise PermanentError(too_many)
        if not haproxy_listeners(delivery.load_balancer):
            if stored is not None:
                agent.remove(id)
            udp = datagrams.deliver(agent, delivery, self._settings)
            changed = udp.changed or stored is not None
            return _pushed(Pushed(etag="", changed=changed), udp)
        about = self._about(agent)
        udp = datagrams.deliver(agent, delivery, self._settings, there=about.datagram_listeners)
        text, etag = stored or ("", "")
        held = read_back(text, cert_directory(self._settings.haproxy_amphora.base_cert_dir, id))
        version, ours = about.info.haproxy_version, APPLY in about.offers
        wanted = self._configure(agent, delivery, held if stored else None, version)
        new = wanted.text or ""
        skipped = (*wanted.missing, *wanted.kept, *wanted.partial)
        marker = agent.certificate_md5(id, APPLIED) if stored else None
        applied = marker is not None and marker == _md5(etag)
        changed = not applied or text != new
        if changed:
            known = held.named if applied else {}
            surplus = [name for name in held.named if name not in wanted.files]
            if _overwrites(wanted, held):  # should this be refused, what is held is no longer what it was
                self._known.discard((agent.at, id))
                if marker is not None:
                    agent.delete_certificate(id, APPLIED)
                    marker = None
            try:
                for file in wanted.files.values():
                    self._send(agent, id, file, known.get(file.name))
                if not ours or surplus or not self._apply(agent, id, new):
                    if marker is not None:
                        agent.delete_certificate(id, APPLIED)
                    etag = self._load(agent, id, new, upload=text != new)
                    for name in surplus:
                        agent.delete_certificate(id, name)
                    agent.upload_certificate(id, APPLIED, Secret(etag))
            except AmphoraRefused:
                self._take_back(agent, id, wanted)
                raise
        if ours:
            self._remember(agent, id, new, version)
        done = Pushed(
            etag=_md5(new),
            changed=changed,
            skipped_listeners=skipped,
            kept_listeners=wanted.kept,
            partial_listeners=wanted.partial,
        )
        return _pushed(done, udp)

    def _take_back(self, agent: AgentClient, id: str, wanted: Configuration) -> None:
        """Delete what was sent for a configuration that was refused, unless the one that stays has it too: nobody would later,
        and there are keys among it. Where that is refused as well, the first refusal is what is told.
        """
        with contextlib.suppress(AmphoraRefused, TransientError):
            text, _ = agent.configuration(id) or ("", "")
            named = read_back(text, cert_directory(self._settings.haproxy_amphora.base_cert_dir, id)).named
            for name in wanted.files:
                if name not in named:
                    agent.delete_certificate(id, name)

    def _apply(self, agent: AgentClient, id: str, text: str) -> bool:
        """Upload, reload, read back and note it, in one request; False when the agent does not know it after all."""
        applied = agent.apply(id, text)
        if applied is not None:
            _confirmed(agent, id, text, applied.etag)
        return applied is not None

    def _remember(self, agent: AgentClient, id: str, text: str, version: str) -> None:
        held = read_back(text, cert_directory(self._settings.haproxy_amphora.base_cert_dir, id))
        self._known.put((agent.at, id), Known(etag=_md5(text), held=held, version=version))

    def remove(self, at: AgentAddress, load_balancer_id: str) -> None:
        """See `AmphoraPort.remove`."""
        agent = self._agent(at)
        for listener_id in datagrams.held_listeners(agent, needed=False):
            agent.remove(listener_id)
        agent.remove(load_balancer_id)

    def interface(self, at: AgentAddress, address: str) -> str | None:
        """See `AmphoraPort.interface`."""
        return pair.interface_of(self._agent(at), address)

    def start_vrrp(self, at: AgentAddress, delivery: VrrpDelivery) -> None:
        """See `AmphoraPort.start_vrrp`."""
        pair.start(attrs.evolve(self._agent(at), fence=delivery.fence), delivery, self._settings)

    def stop_vrrp(self, at: AgentAddress) -> None:
        """See `AmphoraPort.stop_vrrp`."""
        pair.stop(self._agent(at))

    def rotate_certificate(self, at: AgentAddress, server_pem: Secret) -> None:
        """See `AmphoraPort.rotate_certificate`."""
        self._agent(at).rotate_certificate(server_pem)

    def update_agent(self, at: AgentAddress, identity: BootIdentity) -> None:
        """See `AmphoraPort.update_agent`."""
        self._agent(at).update_agent(agent_conf(identity, self._settings))

    def render(self, delivery: Delivery) -> Sequence[tuple[str, str]]:
        """See `AmphoraPort.render`. Without an agent to ask, a present-day HAProxy is assumed."""
        wanted = configure(delivery, self._settings, Facts(), Held())
        files = [("haproxy.cfg", wanted.text)] if wanted.text is not None else []
        for listener in lvs_listeners(delivery.load_balancer):
            text = configure_lvs(delivery.load_balancer, listener, self._settings)
            files.append((f"octavia-keepalivedlvs-{listener.id}.conf", text))
        public = [file for file in wanted.files.values() if file.public and file.content is not None]
        return [*files, *((file.name, file.content.reveal().decode()) for file in public if file.content is not None)]

    def _agent(self, at: AgentAddress, limit: float | None = None) -> AgentClient:
        limit = self.time_limit if limit is None else min(limit, self.time_limit)
        return AgentClient(self._transport, at, deadline=time.monotonic() + limit)

    def _about(self, agent: AgentClient) -> About:
        """Who is there. Asked at each push: the HAProxy of a pair may differ, an image may be renewed."""
        try:
            return agent.about()
        except AmphoraRefused as refused:
            if refused.status == 404:
                self._current.discard(agent.at)
                agent.version()  # says in a sentence what is wrong with an agent that is too old
            raise

    def _configure(self, agent: AgentClient, delivery: Delivery, held: Held | None, version: str) -> Configuration:
        """Decide what the amphora is to hold; ask it for details only where its present configuration does not tell."""
        facts = _facts(version, held)
        wanted = configure(delivery, self._settings, facts)
        if held is None or _new_cache(wanted, facts):
            details = agent.details()
            tuned = "amphora" in details.tuned_profiles.split() and details.cpu_count > 1
            threads = details.cpu_count - 1 if tuned else None
            facts = attrs.evolve(facts, threads=threads, memory_kb=details.free_memory_kb)
            wanted = configure(delivery, self._settings, facts)
        if wanted.missing:
            id = delivery.load_balancer.id
            old = self._still_there(agent, id, held, wanted.missing) if held is not None else Held()
            wanted = configure(delivery, self._settings, facts, old)
        return wanted

    def _still_there(self, agent: AgentClient, id: str, held: Held, listeners: Sequence[str]) -> Held:
        """What the amphora holds for those listeners, as far as its files exist."""
        tls = [found for name, found in held.binds.items() if name in listeners]
        tls += held.servers.values()  # another listener may have the pool that one of them lacks
        names = dict.fromkeys(file.name for found in tls for file in found.files)
        md5s = {name: agent.certificate_md5(id, name) for name in names}
        return held.only({name: md5 for name, md5 in md5s.items() if md5})

    def _send(self, agent: AgentClient, id: str, file: PemFile, known: PemFile | None) -> None:
        """Upload a file unless the amphora has it, by what it was last given or says itself."""
        if file.content is None or (known is not None and known.md5 == file.md5):
            return
        if agent.certificate_md5(id, file.name) != file.md5:
            agent.upload_certificate(id, file.name, file.content)

    def _load(self, agent: AgentClient, id: str, text: str, *, upload: bool) -> str:
        """Upload, reload, read back; returns the ETag.

        Raises:
            TransientError: somebody else wrote another configuration meanwhile.
        """
        if upload:
            agent.upload_configuration(id, text)
        agent.reload(id)
        found = agent.configuration(id)
        return _confirmed(agent, id, text, found[1] if found is not None else "")


def _overwrites(wanted: Configuration, held: Held) -> bool:
    """Whether a file of what is held gets another content: the list of a listener's certificates, or a renewed one."""
    present = ((file, held.named.get(file.name)) for file in wanted.files.values() if file.content is not None)
    return any(old is not None and old.md5 != file.md5 for file, old in present)


def _pushed(done: Pushed, udp: datagrams.Delivered) -> Pushed:
    """With what became of UDP and SCTP listeners. Their files count in the ETag, when there are any."""
    etag = _md5(" ".join([done.etag, *udp.digests])) if udp.digests else done.etag
    return attrs.evolve(
        done,
        etag=etag,
        changed=done.changed or udp.changed,
        skipped_listeners=(*udp.refused, *done.skipped_listeners),
        reasons=udp.refused,
    )


def _confirmed(agent: AgentClient, id: str, text: str, found: str) -> str:
    """The ETag of `text`, which has to be what was found."""
    etag = _md5(text)
    if found != etag:
        raise TransientError(
            f"amphora {agent.at.amphora_id} holds another configuration of load balancer {id} than was just sent"
        )
    return etag


def _facts(version: str, held: Held | None) -> Facts:
    """What is known of an amphora by its version of HAProxy and by what it holds."""
    found = _VERSION.search(version)
    facts = Facts(haproxy_version=(int(found[1]), int(found[2]))) if found else Facts()
    if held is None:
        return facts
    cache = (held.maxconn or 0, held.ssl_cache) if held.binds else None
    return attrs.evolve(facts, threads=held.threads, ssl_cache=cache)


def _new_cache(wanted: Configuration, facts: Facts) -> bool:
    """Whether its TLS cache is to be measured anew, by the amphora's memory."""
    return wanted.ends_tls and (facts.ssl_cache is None or facts.ssl_cache[0] != wanted.maxconn)


def _md5(text: str) -> str:
    """As the agent reports files; nothing is protected by it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
