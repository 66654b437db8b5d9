"""Wishes about what is below a load balancer: listeners, pools, members, monitors, L7 policies and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from octavia_core.controller.accept_base import Accepting, Asked, Edits, existing, touch
from octavia_core.controller.accept_trees import ascending_ids, check, in_error_with, member_edits, new_id, pool_of
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import LoadBalancer, Node
from octavia_core.domain.vocabulary import Kind
from octavia_core.domain.wishes import (
    FIRST_PEER_PORT,
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewMember,
    NewPool,
)
from octavia_core.errors import NotFound, Refused
from octavia_core.lifecycle.provisioning import Event
from octavia_core.policy import changes
from octavia_core.policy.apply import Change, Insert
from octavia_core.ports.storage import Transaction

__all__ = ["AcceptingBelow"]


@attrs.frozen
class AcceptingBelow(Accepting):
    """One method for each wish."""

    def create_listener(self, lb_id: str, wish: NewListener, asked: Asked) -> Operation:
        """Store a listener, with the pools and policies it brings."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            ports = [listener.peer_port or 0 for listener in tree.listeners]
            peer_port = max(ports, default=FIRST_PEER_PORT - 1) + 1
            listener, pools = wish.build(ascending_ids(), lb_id, tree.project_id, peer_port=peer_port)
            subjects = (Subject(Kind.LISTENER, listener.id), *(Subject(Kind.POOL, pool.id) for pool in pools))
            check(tree, subjects, *map(Insert, pools), Insert(listener))

            def work(tx: Transaction) -> None:
                for pool in pools:
                    tx.insert(pool)
                tx.insert(listener)

            return Edits(subjects, work)

        return self._change(lb_id, plan, asked)

    def create_pool(self, lb_id: str, wish: NewPool, asked: Asked, *, listener_id: str | None) -> Operation:
        """Store a pool with its members and monitor, as the default pool of a listener where one is named."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            listener = tree.listener(listener_id) if listener_id else None
            if listener_id and listener is None:
                raise NotFound("listener", listener_id)
            speaks = listener.protocol if listener else None
            pool = wish.build(ascending_ids(), lb_id, tree.project_id, listener=speaks)

            def work(tx: Transaction) -> None:
                tx.insert(pool)
                if listener is not None:
                    touch(tx, Kind.LISTENER, listener.id, Event.ACCEPT_UPDATE, lb_id)
                    tx.change(Kind.LISTENER, listener.id, {"default_pool_id": pool.id})

            return Edits((Subject(Kind.POOL, pool.id),), work)

        return self._change(lb_id, plan, asked)

    def create_member(self, pool_id: str, wish: NewMember, asked: Asked) -> Operation:
        """Store a member."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            pool = pool_of(tree, pool_id)
            member = wish.build(new_id, pool_id, tree.project_id, monitored=pool.health_monitor is not None)
            subjects = (Subject(Kind.MEMBER, member.id),)
            check(tree, subjects, Insert(member))
            return Edits(subjects, lambda tx: tx.insert(member))

        return self._change(self._owner(Kind.POOL, pool_id), plan, asked)

    def set_members(
        self, pool_id: str, wishes: Sequence[NewMember], asked: Asked, *, additive_only: bool
    ) -> Operation | None:
        """Make the members of a pool exactly these (or at least these); None when they are already."""
        wishes = [changes.tidy(wish) for wish in wishes]
        lb_id = self._owner(Kind.POOL, pool_id)

        def edits(tree: LoadBalancer) -> tuple[list[Node], list[tuple[str, dict[str, Any]]], list[str]]:
            return member_edits(pool_of(tree, pool_id), tree.project_id, wishes, additive_only=additive_only)

        if not any(edits(self.storage.read(lambda tx: existing(tx, lb_id)))):
            return None

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            new, changed, gone = edits(tree)
            ids = [n.id for n in new] + [member_id for member_id, _ in changed] + gone

            def work(tx: Transaction) -> None:
                for member_id in gone:
                    touch(tx, Kind.MEMBER, member_id, Event.ACCEPT_DELETE, lb_id)
                for member_id, values in changed:
                    touch(tx, Kind.MEMBER, member_id, Event.ACCEPT_UPDATE, lb_id)
                    tx.change(Kind.MEMBER, member_id, values)
                for node in new:
                    tx.insert(node)

            return Edits(tuple(Subject(Kind.MEMBER, member_id) for member_id in ids), work)

        return self._change(lb_id, plan, asked)

    def create_health_monitor(self, pool_id: str, wish: NewHealthMonitor, asked: Asked) -> Operation:
        """Store the monitor of a pool; it may have one."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            pool = pool_of(tree, pool_id)
            if pool.health_monitor is not None:
                raise Refused(
                    f"pool {pool_id} has health monitor {pool.health_monitor.id} already; change or delete that"
                )
            monitor = wish.build(new_id, pool_id, tree.project_id)
            return Edits((Subject(Kind.HEALTH_MONITOR, monitor.id),), lambda tx: tx.insert(monitor))

        return self._change(self._owner(Kind.POOL, pool_id), plan, asked)

    def create_l7policy(self, listener_id: str, wish: NewL7Policy, asked: Asked) -> Operation:
        """Store a policy with its rules; `position` None puts it last."""
        wish = changes.tidy(wish)
        lb_id = self._owner(Kind.LISTENER, listener_id)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            listener = tree.listener(listener_id)
            if listener is None:
                raise NotFound("listener", listener_id)
            pool, next_id = wish.redirect_pool, ascending_ids()
            made = pool.build(next_id, lb_id, tree.project_id, listener=listener.protocol) if pool else None
            last = len(listener.l7policies) + 1
            position = min(wish.position or last, last)
            redirect = made.id if made else wish.redirect_pool_id
            policy = wish.build(next_id, listener_id, tree.project_id, position=last, redirect_pool_id=redirect)

            subjects = (Subject(Kind.L7POLICY, policy.id), *((Subject(Kind.POOL, made.id),) if made else ()))
            check(tree, subjects, *((Insert(made),) if made else ()), Insert(policy))

            def work(tx: Transaction) -> None:
                if made is not None:
                    tx.insert(made)
                tx.insert(policy)
                if position != last:
                    tx.change(Kind.L7POLICY, policy.id, {"position": position})

            return Edits(subjects, work)

        return self._change(lb_id, plan, asked)

    def create_l7rule(self, policy_id: str, wish: NewL7Rule, asked: Asked) -> Operation:
        """Store a rule of a policy."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            rule = wish.build(new_id, policy_id, tree.project_id)
            return Edits((Subject(Kind.L7RULE, rule.id),), lambda tx: tx.insert(rule))

        return self._change(self._owner(Kind.L7POLICY, policy_id), plan, asked)

    def change(self, kind: Kind, id: str, values: Mapping[str, Any], asked: Asked) -> Operation:
        """Store new values of one object below a load balancer. One in ERROR is tried again with all that is bad below it."""
        lb_id = self._owner(kind, id)
        normal = changes.normalised(kind, values)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            subjects = (Subject(kind, id), *in_error_with(tree, id))
            check(tree, subjects, Change(kind, id, normal))

            def work(tx: Transaction) -> None:
                for subject in subjects:
                    touch(tx, subject.kind, subject.id, Event.ACCEPT_UPDATE, lb_id)
                tx.change(kind, id, normal)

            return Edits(subjects, work)

        return self._change(lb_id, plan, asked)

    def delete(self, kind: Kind, id: str, asked: Asked) -> Operation:
        """Mark one object below a load balancer PENDING_DELETE."""
        lb_id = self._owner(kind, id)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            if kind is Kind.POOL:
                for listener in tree.listeners:
                    for policy in listener.l7policies:
                        if policy.redirect_pool_id == id:
                            raise Refused(
                                f"pool {id} is the target of L7 policy {policy.id}; delete or change that first"
                            )
            return Edits((Subject(kind, id),), lambda tx: touch(tx, kind, id, Event.ACCEPT_DELETE, lb_id))

        return self._change(lb_id, plan, asked)
