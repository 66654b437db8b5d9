"""A load balancer and what is below it, as JSON and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from octavia_core.cli.output import status
from octavia_core.domain.codec import to_json
from octavia_core.domain.vocabulary import Kind, Role, Topology
from octavia_core.errors import ConfigurationError

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.domain.amphora import Amphora
    from octavia_core.domain.operation import Operation as Row
    from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Node, Pool

__all__ = ["also_reachable", "balancer_json", "draw_balancer", "node_json", "reachable"]


def reachable(controller: Controller, tree: LoadBalancer, listener: Listener) -> str | None:
    """Where clients reach a listener, "host:port"; None before the VIP is known, or where its driver is not installed."""
    try:
        return controller.reachable_at(tree, listener)
    except ConfigurationError:  # on a machine that only looks at a cloud's database
        return None


def also_reachable(controller: Controller, tree: LoadBalancer, listener: Listener) -> list[str]:
    """The same by its additional VIPs."""
    try:
        return list(controller.also_reachable_at(tree, listener))
    except ConfigurationError:
        return []


def balancer_json(controller: Controller, tree: LoadBalancer, row: Row | None = None) -> dict[str, Any]:
    """The tree with its amphorae, `reachable_at` (and `also_reachable_at`, by additional VIPs) per listener, and the operation
    that led to it, if there was one.
    """
    data: dict[str, Any] = to_json(tree)
    data["amphorae"] = to_json(_amphorae(controller, tree))
    for shown, listener in zip(data["listeners"], tree.listeners, strict=True):
        shown["reachable_at"] = reachable(controller, tree, listener)
        shown["also_reachable_at"] = also_reachable(controller, tree, listener)
    data["operation"] = to_json(row) if row else None
    return data


def node_json(
    controller: Controller, tree: LoadBalancer, kind: Kind, node: Node, row: Row | None = None
) -> dict[str, Any]:
    """One object below a load balancer."""
    data: dict[str, Any] = to_json(node)
    data["load_balancer_id"] = tree.id
    if kind is Kind.LISTENER:
        listener = tree.listener(node.id)
        data["reachable_at"] = reachable(controller, tree, listener) if listener else None
        data["also_reachable_at"] = also_reachable(controller, tree, listener) if listener else []
    data["operation"] = to_json(row) if row else None
    return data


def draw_balancer(controller: Controller, tree: LoadBalancer) -> Group:
    """The tree as a picture."""
    head = Text.assemble(
        (tree.name or "load balancer", "bold"),
        f"  {tree.id}  ",
        *_statuses(tree),
        f"  {tree.vip.ip_address or 'no VIP yet'}",
    )
    if tree.additional_vips:
        head.append(f" and {', '.join(vip.ip_address or 'one more to come' for vip in tree.additional_vips)}")
    if not tree.enabled:
        head.append("  disabled", "dim")
    root = Tree(head)
    for amphora in _amphorae(controller, tree) if tree.topology is Topology.ACTIVE_STANDBY else ():
        words = f"amphora {amphora.id}  {amphora.role or 'no role yet'}  "
        root.add(Text.assemble(words, status(amphora.status), f"  {amphora.vrrp_ip or ''}".rstrip()))
    drawn: set[str] = set()
    for listener in tree.listeners:
        branch = root.add(_listener(controller, tree, listener))
        for policy in listener.l7policies:
            _policy(branch, tree, policy)
        pool = tree.pool(listener.default_pool_id)
        if pool is not None:
            _pool(branch, pool, again=pool.id in drawn)
            drawn.add(pool.id)
    for pool in tree.pools:
        if pool.id not in drawn:
            _pool(root, pool, again=False)
    return Group(root)


def _amphorae(controller: Controller, tree: LoadBalancer) -> list[Amphora]:
    """Those that it has, the master of a pair first."""
    return sorted(controller.amphorae(tree.id), key=lambda amphora: (amphora.role is not Role.MASTER, amphora.id))


def _statuses(node: LoadBalancer | Node) -> tuple[Text, str, Text]:
    return status(node.provisioning_status), " ", status(node.operating_status)


def _listener(controller: Controller, tree: LoadBalancer, listener: Listener) -> Text:
    first = reachable(controller, tree, listener)
    places = [first, *also_reachable(controller, tree, listener)] if first else []
    scheme = {"HTTP": "http://", "TERMINATED_HTTPS": "https://", "HTTPS": "https://"}.get(listener.protocol, "")
    return Text.assemble(
        f"listener {listener.name or listener.id}  {listener.protocol}:{listener.protocol_port}  ",
        *_statuses(listener),
        *((("  at ", "dim"), (" ".join(f"{scheme}{at}" for at in places), "cyan")) if places else ()),
    )


def _pool(parent: Tree, pool: Pool, *, again: bool) -> None:
    branch = parent.add(
        Text.assemble(f"pool {pool.name or pool.id}  {pool.protocol} {pool.lb_algorithm}  ", *_statuses(pool))
    )
    if again:
        branch.add(Text("(shown above)", style="dim"))
        return
    monitor = pool.health_monitor
    if monitor is not None:
        words = f"monitor {monitor.type} {monitor.url_path or ''}".rstrip()
        branch.add(Text.assemble(f"{words} every {monitor.delay} s  ", *_statuses(monitor)))
    for member in pool.members:
        host = f"[{member.address}]" if ":" in member.address else member.address
        words = f"member {member.name or member.id}  {host}:{member.protocol_port}  weight {member.weight}  "
        branch.add(Text.assemble(words, *_statuses(member)))


def _policy(parent: Tree, tree: LoadBalancer, policy: L7Policy) -> None:
    pool = tree.pool(policy.redirect_pool_id)
    target = policy.redirect_url or policy.redirect_prefix or (f"pool {pool.name or pool.id}" if pool else "")
    words = f"{policy.position}. {policy.action} {target}".rstrip()
    branch = parent.add(Text.assemble(f"policy {policy.name or policy.id}  {words}  ", *_statuses(policy)))
    for rule in policy.rules:
        negation = "not " if rule.invert else ""
        key = f" {rule.key}" if rule.key else ""
        branch.add(Text.assemble(f"{negation}{rule.type}{key} {rule.compare_type} {rule.value}  ", *_statuses(rule)))
