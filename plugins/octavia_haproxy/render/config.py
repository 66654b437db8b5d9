"""The whole file: which listeners can be served, with which files, and the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import attrs

from octavia_core.domain.tree import Listener, Pool
from octavia_core.domain.vocabulary import ListenerProtocol
from octavia_core.errors import SecretMissing
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.settings import Settings
from octavia_haproxy.render import check
from octavia_haproxy.render.backend import backend
from octavia_haproxy.render.frontend import addresses, frontend
from octavia_haproxy.render.held import Held
from octavia_haproxy.render.model import Facts, PemFile, Served, Tls, alive, haproxy_listeners, served
from octavia_haproxy.render.names import cert_directory, peers_section
from octavia_haproxy.render.sections import defaults, global_maxconn, global_section, peers, prometheus
from octavia_haproxy.render.tls import listener_tls, pool_tls

__all__ = ["Configuration", "configure"]

Owner = TypeVar("Owner")


@attrs.frozen(kw_only=True)
class Configuration:
    """What an amphora is to hold.

    Attributes:
        text: haproxy.cfg, or None when no HAProxy listener remains and the load balancer is to be removed there.
        files: the PEM files it refers to, by name.
        maxconn: the global limit in it.
        ends_tls: some listener in it ends TLS.
        not_haproxy: UDP and SCTP listeners, which HAProxy cannot serve.
        missing: listeners left out because a secret is missing and the amphora holds nothing to go on with.
        kept: listeners that go on with what they have on the amphora because a secret is missing.
        partial: listeners without the SNI certificates that are missing, or without members of a pool whose secrets are.
    """

    text: str | None
    files: Mapping[str, PemFile] = attrs.field(factory=dict)
    maxconn: int = 0
    ends_tls: bool = False
    not_haproxy: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()


def configure(delivery: Delivery, settings: Settings, facts: Facts, held: Held | None = None) -> Configuration:
    """Decide what is served and render it. The same arguments give the same bytes.

    Args:
        delivery: tree, amphora, secrets.
        settings: `haproxy_amphora` and `amphora_agent` shape the file.
        facts: about this amphora; the two of a pair may differ.
        held: what the amphora has, used where a secret is missing; where the secret is one of SNI and the amphora has
            nothing better, the listener goes without it; where it is one of a pool that has no members, or that only
            policies choose, that pool goes without members. None: whoever misses a secret is only named.

    Raises:
        PermanentError: something cannot be written; the message names the object and field.
    """
    load_balancer = delivery.load_balancer
    check.identifier("load balancer", load_balancer.id)
    lvs = tuple(
        listener.id
        for listener in load_balancer.listeners
        if listener.enabled and alive(listener) and listener.protocol in (ListenerProtocol.UDP, ListenerProtocol.SCTP)
    )
    if not haproxy_listeners(load_balancer):
        return Configuration(text=None, not_haproxy=lvs)
    directory = cert_directory(settings.haproxy_amphora.base_cert_dir, load_balancer.id)
    entries, missing, kept, partial = [], [], [], []
    for entry in served(load_balancer):
        tls = _ListenerTls(material=delivery.material, directory=directory, facts=facts, held=held)
        try:
            entries.append(tls.of(entry))
        except SecretMissing:
            missing.append(entry.listener.id)
            continue
        if tls.kept:
            kept.append(entry.listener.id)
        elif tls.partial:
            partial.append(entry.listener.id)
    entries, files = _agreed(entries)
    text = "\n".join(_lines(delivery, entries, settings, facts)) + "\n"
    return Configuration(
        text=text,
        files=files,
        maxconn=global_maxconn(entries, settings),
        ends_tls=any(entry.terminates for entry in entries),
        not_haproxy=lvs,
        missing=tuple(missing),
        kept=tuple(kept),
        partial=tuple(partial),
    )


@attrs.define(kw_only=True)
class _ListenerTls:
    """Finds the TLS of one listener and its pools, part by part: fresh, or else what the amphora holds."""

    material: Material
    directory: str
    facts: Facts
    held: Held | None
    kept: bool = False
    partial: bool = False

    def of(self, entry: Served) -> Served:
        """The listener with its TLS; `kept` tells whether some of it is old, `partial` whether it is not whole."""
        bind, listener_id = Tls(), entry.listener.id
        held = self.held or Held()
        if entry.terminates:
            bind = self._bind(entry.listener, held.binds.get(listener_id))
        pools, words, default = [], {}, entry.listener.default_pool_id
        for pool in entry.pools:
            found = self._pool(pool, held.pool(pool.id, listener_id), needed=pool.id == default)
            pools.append(pool if found is not None else attrs.evolve(pool, members=()))
            words[pool.id] = found or Tls()
        return attrs.evolve(entry, pools=tuple(pools), bind_tls=bind, pool_tls=words)

    def _pool(self, pool: Pool, old: Tls | None, *, needed: bool) -> Tls | None:
        """None: nothing is there to encrypt with, so nobody may be spoken to; who needs it to serve is not served then."""
        try:
            return self._or_held(old, pool_tls, pool)
        except SecretMissing:
            if self.held is None or (needed and any(map(alive, pool.members))):
                raise
            self.partial = True
            return None

    def _or_held(self, old: Tls | None, fresh: Callable[[Owner, Material, str, Facts], Tls], owner: Owner) -> Tls:
        try:
            return fresh(owner, self.material, self.directory, self.facts)
        except SecretMissing:
            if old is None:
                raise
            self.kept = True
            return old

    def _bind(self, listener: Listener, old: Tls | None) -> Tls:
        """Whole; or else as the amphora holds it, unless what can be had now is as much."""
        part = self._part(listener) if self.held is not None else None
        if part is None or (old is not None and len(old.files) > len(part.files)):
            return self._or_held(old, listener_tls, listener)
        try:
            return listener_tls(listener, self.material, self.directory, self.facts)
        except SecretMissing:
            self.partial = True
            return part

    def _part(self, listener: Listener) -> Tls | None:
        try:
            return listener_tls(listener, self.material, self.directory, self.facts, partly=True)
        except SecretMissing:
            return None


def _agreed(entries: list[Served]) -> tuple[list[Served], dict[str, PemFile]]:
    """With one content for each file. Who goes on with what the amphora holds has to find it there, so that is left as it is
    for others who show the same certificate, too.
    """
    found = [file for entry in entries for file in entry.files()]
    files = {file.name: file for file in found if file.content is not None}
    files |= {file.name: file for file in found if file.content is None}
    if all(files[file.name] == file for file in found):
        return entries, files

    def agreed(tls: Tls) -> Tls:
        return attrs.evolve(tls, files=tuple(files[file.name] for file in tls.files))

    return [
        attrs.evolve(
            entry,
            bind_tls=agreed(entry.bind_tls),
            pool_tls={id: agreed(tls) for id, tls in entry.pool_tls.items()},
        )
        for entry in entries
    ], files


def _lines(delivery: Delivery, entries: list[Served], settings: Settings, facts: Facts) -> Iterator[str]:
    load_balancer, amphora = delivery.load_balancer, settings.haproxy_amphora
    yield f"# Configuration for loadbalancer {load_balancer.id}"
    yield from global_section(load_balancer, entries, settings, facts)
    yield ""
    yield from defaults(settings)
    shared = list(peers(load_balancer, delivery.amphora, delivery.peers))
    if shared:
        yield from ("", *shared)
    if facts.haproxy_version >= (2, 0) and any(e.listener.protocol is ListenerProtocol.PROMETHEUS for e in entries):
        yield from ("", *prometheus())
    vips = addresses(load_balancer) if entries else []
    table = peers_section(load_balancer.id) if shared else None
    for entry in entries:
        yield ""
        yield from frontend(entry, load_balancer, vips, amphora, facts)
        for pool in entry.pools:
            yield ""
            yield from backend(entry, pool, table, amphora, facts)
