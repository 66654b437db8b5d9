"""What the renderers are given: the served part of a tree, facts about the amphora, TLS words and files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import L7Policy, L7Rule, Listener, LoadBalancer, Node, Pool
from octavia_core.domain.vocabulary import L7Action, ListenerProtocol, PoolProtocol, Provisioning

__all__ = ["Facts", "PemFile", "Served", "Tls", "alive", "haproxy_listeners", "served"]

_LVS = {ListenerProtocol.UDP, ListenerProtocol.SCTP}
_GONE = {Provisioning.PENDING_DELETE, Provisioning.DELETED}
_LVS_POOLS = {PoolProtocol.UDP, PoolProtocol.SCTP}
_L7 = {ListenerProtocol.HTTP, ListenerProtocol.TERMINATED_HTTPS}
_HTTP = _L7 | {ListenerProtocol.PROMETHEUS}
_TLS = {ListenerProtocol.TERMINATED_HTTPS, ListenerProtocol.PROMETHEUS}
_PROXY = {PoolProtocol.PROXY, PoolProtocol.PROXYV2}


@attrs.frozen(kw_only=True)
class Facts:
    """What the amphora says of itself, as far as it shapes the configuration.

    Attributes:
        haproxy_version: (major, minor).
        threads: nbthread to ask for; None leaves it to HAProxy.
        memory_kb: free, buffers and cached together, kB; None when it did not say.
        ssl_cache: (maxconn, blocks) of the configuration it holds, blocks 0 for none: kept while maxconn stays, since
            free memory differs at each look and would make each push a different one.
    """

    haproxy_version: tuple[int, int] = (2, 8)
    threads: int | None = None
    memory_kb: int | None = None
    ssl_cache: tuple[int, int] | None = None


@attrs.frozen(kw_only=True)
class PemFile:
    """A file in the amphora's certificate directory.

    Attributes:
        name: file name, ending in `.pem`.
        md5: of the content, hex; empty when it is not known.
        public: it holds no private key.
        content: what to send; None when only the amphora has it.
    """

    name: str
    md5: str
    public: bool = attrs.field(default=False, eq=False)
    content: Secret | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def of(cls, name: str, content: str, *, public: bool = False) -> PemFile:
        """A file to send. MD5 is how the agent compares files; nothing is protected by it."""
        data = content.encode()
        return cls(
            name=name, md5=hashlib.md5(data, usedforsecurity=False).hexdigest(), public=public, content=Secret(data)
        )


@attrs.frozen(kw_only=True)
class Tls:
    """The words that follow an address on a bind or server line, and the files they refer to."""

    words: tuple[str, ...] = ()
    files: tuple[PemFile, ...] = ()


@attrs.frozen(kw_only=True)
class Served:
    """A listener as it is served: the pools it uses, its policies that do something, its TLS."""

    listener: Listener
    pools: tuple[Pool, ...] = ()
    policies: tuple[L7Policy, ...] = ()
    bind_tls: Tls = attrs.field(factory=Tls)
    pool_tls: Mapping[str, Tls] = attrs.field(factory=dict)

    @property
    def http(self) -> bool:
        """True when HAProxy understands HTTP on this listener."""
        return self.listener.protocol in _HTTP

    @property
    def terminates(self) -> bool:
        """True when the amphora ends TLS: always for TERMINATED_HTTPS, with a certificate for PROMETHEUS."""
        listener = self.listener
        return listener.protocol is ListenerProtocol.TERMINATED_HTTPS or (
            listener.protocol in _TLS and listener.tls_certificate_id is not None
        )

    @property
    def default_pool(self) -> Pool | None:
        """The default pool, when it is served."""
        return next((pool for pool in self.pools if pool.id == self.listener.default_pool_id), None)

    def mode(self, pool: Pool) -> str:
        """The mode of the backend of a pool: its own, or the listener's under the PROXY protocol."""
        if pool.protocol in _PROXY:
            return "http" if self.http else "tcp"
        return "http" if pool.protocol is PoolProtocol.HTTP else "tcp"

    def files(self) -> tuple[PemFile, ...]:
        """All files it refers to."""
        return self.bind_tls.files + tuple(file for tls in self.pool_tls.values() for file in tls.files)


def alive(node: Node) -> bool:
    """False for what is being deleted or is gone: it is left out, whatever else the tree says."""
    return node.provisioning_status not in _GONE


def haproxy_listeners(load_balancer: LoadBalancer) -> tuple[Listener, ...]:
    """Listeners that live in the HAProxy configuration, enabled or not, being deleted left out."""
    return tuple(listener for listener in load_balancer.listeners if listener.protocol not in _LVS and alive(listener))


def served(load_balancer: LoadBalancer) -> tuple[Served, ...]:
    """The enabled HAProxy listeners of an enabled load balancer, in their order, still without TLS."""
    if not load_balancer.enabled:
        return ()
    pools = {pool.id: pool for pool in load_balancer.pools if _served_pool(pool)}
    found = []
    for listener in haproxy_listeners(load_balancer):
        if not listener.enabled:
            continue
        policies = tuple(_policies(listener, pools))
        used = _pools(listener, policies, pools)
        found.append(Served(listener=listener, pools=used, policies=policies))
    return tuple(found)


def _policies(listener: Listener, pools: Mapping[str, Pool]) -> list[L7Policy]:
    """Enabled policies with enabled rules and, where they name a pool, a served one; only of listeners that see HTTP.

    Sorted as HAProxy takes them, whatever their order in the file: refusals, then redirects, then pools; by position
    within each. Written in that order it does not warn about it.
    """
    if listener.protocol not in _L7:
        return []
    found = []
    for policy in sorted(listener.l7policies, key=lambda p: (_RANK[p.action], p.position)):
        rules = tuple(rule for rule in policy.rules if _counts(rule))
        if not rules or not policy.enabled or not alive(policy):
            continue
        if policy.action is L7Action.REDIRECT_TO_POOL and policy.redirect_pool_id not in pools:
            continue
        found.append(attrs.evolve(policy, rules=rules))
    return found


def _pools(listener: Listener, policies: tuple[L7Policy, ...], pools: Mapping[str, Pool]) -> tuple[Pool, ...]:
    """The pools a listener uses: default pool first, then those of its policies by position, each once."""
    redirects = sorted((p for p in policies if p.action is L7Action.REDIRECT_TO_POOL), key=lambda p: p.position)
    wanted = [listener.default_pool_id, *(policy.redirect_pool_id for policy in redirects)]
    return tuple(pools[pool_id] for pool_id in dict.fromkeys(filter(None, wanted)) if pool_id in pools)


def _served_pool(pool: Pool) -> bool:
    return pool.enabled and alive(pool) and pool.protocol not in _LVS_POOLS


def _counts(rule: L7Rule) -> bool:
    return rule.enabled and alive(rule)


_RANK = {
    L7Action.REJECT: 0,
    L7Action.REDIRECT_TO_URL: 1,
    L7Action.REDIRECT_PREFIX: 1,
    L7Action.REDIRECT_TO_POOL: 2,
}
