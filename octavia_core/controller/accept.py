"""Accepting wishes: one transaction moves the statuses by the table, stores the wish in the rows and the operation beside it.

No driver is called here. The same `request_id` again returns the operation that exists and changes nothing.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import attrs

from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Node, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Topology
from octavia_core.domain.wishes import (
    FIRST_PEER_PORT,
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewLoadBalancer,
    NewMember,
    NewPool,
)
from octavia_core.errors import BadRequest, ConfigurationError, LoadBalancerBusy, NotFound, Refused
from octavia_core.lifecycle.provisioning import Event, allowed
from octavia_core.lifecycle.refusal import TransitionRefused
from octavia_core.policy import changes, validity
from octavia_core.policy.apply import Change, Delete, Edit, Insert, Plan, applied
from octavia_core.policy.apply import plan as plan_edits
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["CONFIGURE", "CREATE", "DELETE", "FAILOVER", "Acceptor", "Asked", "default_topology"]

CREATE, CONFIGURE, DELETE, FAILOVER = "create", "configure", "delete", "failover"
"""The flows that wishes are carried out by; a request id is one request per flow."""


def default_topology(settings: Settings) -> Topology:
    """The topology of load balancers that name none.

    Raises:
        ConfigurationError: `[controller_worker] loadbalancer_topology` is none.
    """
    said = settings.controller_worker.loadbalancer_topology
    if said not in set(Topology):
        known = " or ".join(Topology)
        raise ConfigurationError(f"[controller_worker] loadbalancer_topology must be {known}, not {said!r}")
    return Topology(said)


@attrs.frozen(kw_only=True)
class Asked:
    """Who asks, and the id under which asking twice is asking once."""

    actor: str = "library"
    request_id: str | None = None


@attrs.frozen
class _Edit:
    """What a wish does to the rows, once the lock is had."""

    subjects: tuple[Subject, ...]
    work: Callable[[Transaction], None]


Planner = Callable[[Transaction, LoadBalancer], _Edit]


@attrs.frozen
class Acceptor:
    """Accepts wishes.

    Attributes:
        topology: of load balancers that name none.
        objection: why the drivers in use cannot carry a topology, as `NetworkPort.objection`; they have the last word
            all the same, when a load balancer is created.
    """

    storage: Storage
    topology: Topology
    objection: Callable[[Topology], str | None] = lambda _: None

    def known(self, flow: str, asked: Asked) -> Operation | None:
        """The operation of a request that was accepted before; None for a new one, and for one without an id."""
        request_id = asked.request_id
        return None if request_id is None else self.storage.read(lambda tx: tx.requested(flow, request_id))

    # -- load balancers --------------------------------------------------------------------------------------------
    def create_load_balancer(self, wish: NewLoadBalancer, asked: Asked) -> Operation:
        """Store the whole tree PENDING_CREATE and the operation that builds it."""
        tree = changes.tidy(wish).build(_new_id, topology=self.topology)
        validity.check(tree)
        objection = self.objection(tree.topology)
        if objection is not None:
            raise BadRequest(objection)
        if tree.additional_vips:
            raise BadRequest("additional VIPs are not offered yet by this release; leave them out")
        operation = self._operation(CREATE, tree.id, (Subject(Kind.LOAD_BALANCER, tree.id),), asked)

        def accept(tx: Transaction) -> Operation:
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                tx.insert(tree)
                _announce(tx, stored, f"load balancer {tree.name or tree.id} was asked for")
            return stored

        try:
            return self.storage.transaction(accept)
        except BadRequest as error:
            # the only rows of others that a new load balancer refers to
            given = {"flavor": tree.flavor_id, "availability zone": tree.availability_zone}
            named = " and ".join(f"{what} {name!r}" for what, name in given.items() if name is not None)
            if not named:
                raise
            raise BadRequest(f"load balancer {tree.name or tree.id} cannot be stored with {named}: {error}") from error

    def delete_load_balancer(self, lb_id: str, asked: Asked, *, cascade: bool) -> Operation:
        """Mark it PENDING_DELETE; without `cascade` one that still has listeners or pools is refused."""
        operation = self._operation(DELETE, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked)

        def accept(tx: Transaction) -> Operation:
            tree = _existing(tx, lb_id)
            if not cascade and (tree.listeners or tree.pools):
                raise Refused(
                    f"load balancer {lb_id} still has {len(tree.listeners)} listener(s) and {len(tree.pools)} pool(s); "
                    "delete them first, or ask for cascade"
                )
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                _lock(tx, lb_id, Event.ACCEPT_DELETE)
                _announce(tx, stored, "its deletion was asked for")
            return stored

        return self.storage.transaction(accept)

    def failover_load_balancer(self, lb_id: str, asked: Asked) -> Operation:
        """Ask for new amphorae in place of all that it has. Works in ERROR too."""
        operation = self._operation(FAILOVER, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked)

        def accept(tx: Transaction) -> Operation:
            tree = _existing(tx, lb_id)
            # One that never worked is tried again as a whole; otherwise what is bad stays as it last worked.
            again = () if tx.last_good(lb_id) else _in_error(tree)
            stored = tx.add_operation(attrs.evolve(operation, subjects=(*operation.subjects, *again)))
            if stored.id == operation.id:
                _lock(tx, lb_id, Event.ACCEPT_FAILOVER)
                for subject in again:
                    _touch(tx, subject.kind, subject.id, Event.ACCEPT_UPDATE, lb_id)
                _announce(tx, stored, "the rebuilding of its amphorae was asked for")
            return stored

        return self.storage.transaction(accept)

    def failover_amphora(self, amphora_id: str, asked: Asked) -> Operation:
        """Ask for a replacement of one amphora; it waits for whatever holds the load balancer now."""

        def accept(tx: Transaction) -> Operation:
            amphora = tx.amphora(amphora_id)
            if amphora is None or amphora.status is AmphoraStatus.DELETED:
                raise NotFound("amphora", amphora_id)
            if amphora.load_balancer_id is None:
                raise Refused(f"amphora {amphora_id} serves no load balancer; delete it instead of replacing it")
            lb_id = amphora.load_balancer_id
            operation = attrs.evolve(
                self._operation(FAILOVER, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked),
                amphora_id=amphora_id,
                internal=True,
            )
            return tx.add_operation(operation)

        return self.storage.transaction(accept)

    def change_load_balancer(self, lb_id: str, values: Mapping[str, Any], asked: Asked) -> Operation:
        """Store new values of the load balancer itself."""
        subject = Subject(Kind.LOAD_BALANCER, lb_id)
        normal = changes.normalised(Kind.LOAD_BALANCER, values)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            return _Edit((subject,), lambda tx: tx.change(Kind.LOAD_BALANCER, lb_id, normal))

        return self._change(lb_id, plan, asked, Event.ACCEPT_UPDATE)

    def apply(self, lb_id: str, wanted: NewLoadBalancer, asked: Asked) -> Operation | None:
        """Make an existing load balancer what a document says; None when it is that already."""
        wanted = changes.tidy(wanted)
        tree = self.storage.read(lambda tx: _existing(tx, lb_id))
        if plan_edits(tree, wanted, _new_id).empty:
            return None

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            edits = plan_edits(tree, wanted, _new_id).edits
            subjects = tuple(dict.fromkeys(_subject_of(edit) for edit in edits))

            def work(tx: Transaction) -> None:
                for edit in edits:
                    if isinstance(edit, Insert):
                        tx.insert(edit.node)
                    elif isinstance(edit, Change):
                        if edit.kind is not Kind.LOAD_BALANCER:  # that one is locked already
                            _touch(tx, edit.kind, edit.id, Event.ACCEPT_UPDATE, lb_id)
                        if edit.values:
                            tx.change(edit.kind, edit.id, edit.values)
                    else:
                        _touch(tx, edit.kind, edit.id, Event.ACCEPT_DELETE, lb_id)

            return _Edit(subjects, work)

        return self._change(lb_id, plan, asked)

    # -- what is below ---------------------------------------------------------------------------------------------
    def create_listener(self, lb_id: str, wish: NewListener, asked: Asked) -> Operation:
        """Store a listener, with the pools and policies it brings."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            ports = [listener.peer_port or 0 for listener in tree.listeners]
            peer_port = max(ports, default=FIRST_PEER_PORT - 1) + 1
            listener, pools = wish.build(_new_id, lb_id, tree.project_id, peer_port=peer_port)
            subjects = (Subject(Kind.LISTENER, listener.id), *(Subject(Kind.POOL, pool.id) for pool in pools))
            _check(tree, subjects, *map(Insert, pools), Insert(listener))

            def work(tx: Transaction) -> None:
                for pool in pools:
                    tx.insert(pool)
                tx.insert(listener)

            return _Edit(subjects, work)

        return self._change(lb_id, plan, asked)

    def create_pool(self, lb_id: str, wish: NewPool, asked: Asked, *, listener_id: str | None) -> Operation:
        """Store a pool with its members and monitor, as the default pool of a listener where one is named."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            listener = tree.listener(listener_id) if listener_id else None
            if listener_id and listener is None:
                raise NotFound("listener", listener_id)
            pool = wish.build(_new_id, lb_id, tree.project_id, listener=listener.protocol if listener else None)

            def work(tx: Transaction) -> None:
                tx.insert(pool)
                if listener is not None:
                    _touch(tx, Kind.LISTENER, listener.id, Event.ACCEPT_UPDATE, lb_id)
                    tx.change(Kind.LISTENER, listener.id, {"default_pool_id": pool.id})

            return _Edit((Subject(Kind.POOL, pool.id),), work)

        return self._change(lb_id, plan, asked)

    def create_member(self, pool_id: str, wish: NewMember, asked: Asked) -> Operation:
        """Store a member."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            pool = _pool(tree, pool_id)
            member = wish.build(_new_id, pool_id, tree.project_id, monitored=pool.health_monitor is not None)
            subjects = (Subject(Kind.MEMBER, member.id),)
            _check(tree, subjects, Insert(member))
            return _Edit(subjects, lambda tx: tx.insert(member))

        return self._change(self._owner(Kind.POOL, pool_id), plan, asked)

    def set_members(
        self, pool_id: str, wishes: Sequence[NewMember], asked: Asked, *, additive_only: bool
    ) -> Operation | None:
        """Make the members of a pool exactly these (or at least these); None when they are already."""
        wishes = [changes.tidy(wish) for wish in wishes]
        lb_id = self._owner(Kind.POOL, pool_id)

        def edits(tree: LoadBalancer) -> tuple[list[Node], list[tuple[str, dict[str, Any]]], list[str]]:
            return _member_edits(_pool(tree, pool_id), tree.project_id, wishes, additive_only=additive_only)

        if not any(edits(self.storage.read(lambda tx: _existing(tx, lb_id)))):
            return None

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            new, changed, gone = edits(tree)
            ids = [n.id for n in new] + [member_id for member_id, _ in changed] + gone

            def work(tx: Transaction) -> None:
                for member_id in gone:
                    _touch(tx, Kind.MEMBER, member_id, Event.ACCEPT_DELETE, lb_id)
                for member_id, values in changed:
                    _touch(tx, Kind.MEMBER, member_id, Event.ACCEPT_UPDATE, lb_id)
                    tx.change(Kind.MEMBER, member_id, values)
                for node in new:
                    tx.insert(node)

            return _Edit(tuple(Subject(Kind.MEMBER, member_id) for member_id in ids), work)

        return self._change(lb_id, plan, asked)

    def create_health_monitor(self, pool_id: str, wish: NewHealthMonitor, asked: Asked) -> Operation:
        """Store the monitor of a pool; it may have one."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            pool = _pool(tree, pool_id)
            if pool.health_monitor is not None:
                raise Refused(
                    f"pool {pool_id} has health monitor {pool.health_monitor.id} already; change or delete that"
                )
            monitor = wish.build(_new_id, pool_id, tree.project_id)
            return _Edit((Subject(Kind.HEALTH_MONITOR, monitor.id),), lambda tx: tx.insert(monitor))

        return self._change(self._owner(Kind.POOL, pool_id), plan, asked)

    def create_l7policy(self, listener_id: str, wish: NewL7Policy, asked: Asked) -> Operation:
        """Store a policy with its rules; `position` None puts it last."""
        wish = changes.tidy(wish)
        lb_id = self._owner(Kind.LISTENER, listener_id)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            listener = tree.listener(listener_id)
            if listener is None:
                raise NotFound("listener", listener_id)
            pool = wish.redirect_pool
            made = pool.build(_new_id, lb_id, tree.project_id, listener=listener.protocol) if pool else None
            last = len(listener.l7policies) + 1
            position = min(wish.position or last, last)
            redirect = made.id if made else wish.redirect_pool_id
            policy = wish.build(_new_id, listener_id, tree.project_id, position=last, redirect_pool_id=redirect)

            subjects = (Subject(Kind.L7POLICY, policy.id), *((Subject(Kind.POOL, made.id),) if made else ()))
            _check(tree, subjects, *((Insert(made),) if made else ()), Insert(policy))

            def work(tx: Transaction) -> None:
                if made is not None:
                    tx.insert(made)
                tx.insert(policy)
                if position != last:
                    tx.change(Kind.L7POLICY, policy.id, {"position": position})

            return _Edit(subjects, work)

        return self._change(lb_id, plan, asked)

    def create_l7rule(self, policy_id: str, wish: NewL7Rule, asked: Asked) -> Operation:
        """Store a rule of a policy."""
        wish = changes.tidy(wish)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            rule = wish.build(_new_id, policy_id, tree.project_id)
            return _Edit((Subject(Kind.L7RULE, rule.id),), lambda tx: tx.insert(rule))

        return self._change(self._owner(Kind.L7POLICY, policy_id), plan, asked)

    def change(self, kind: Kind, id: str, values: Mapping[str, Any], asked: Asked) -> Operation:
        """Store new values of one object below a load balancer. One in ERROR is tried again with all that is bad below it."""
        lb_id = self._owner(kind, id)
        normal = changes.normalised(kind, values)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            subjects = (Subject(kind, id), *_in_error_with(tree, id))
            _check(tree, subjects, Change(kind, id, normal))

            def work(tx: Transaction) -> None:
                for subject in subjects:
                    _touch(tx, subject.kind, subject.id, Event.ACCEPT_UPDATE, lb_id)
                tx.change(kind, id, normal)

            return _Edit(subjects, work)

        return self._change(lb_id, plan, asked)

    def delete(self, kind: Kind, id: str, asked: Asked) -> Operation:
        """Mark one object below a load balancer PENDING_DELETE."""
        lb_id = self._owner(kind, id)

        def plan(tx: Transaction, tree: LoadBalancer) -> _Edit:
            if kind is Kind.POOL:
                for listener in tree.listeners:
                    for policy in listener.l7policies:
                        if policy.redirect_pool_id == id:
                            raise Refused(
                                f"pool {id} is the target of L7 policy {policy.id}; delete or change that first"
                            )
            return _Edit((Subject(kind, id),), lambda tx: _touch(tx, kind, id, Event.ACCEPT_DELETE, lb_id))

        return self._change(lb_id, plan, asked)

    # -- inside ----------------------------------------------------------------------------------------------------
    def _change(self, lb_id: str, planner: Planner, asked: Asked, lock: Event = Event.LOCK) -> Operation:
        """Lock the load balancer, edit the rows, check the result, store the operation: all or nothing."""

        def accept(tx: Transaction) -> Operation:
            if asked.request_id is not None:
                known = tx.requested(CONFIGURE, asked.request_id)
                if known is not None:
                    return known
            edit = planner(tx, _existing(tx, lb_id))
            stored = tx.add_operation(self._operation(CONFIGURE, lb_id, edit.subjects, asked))
            _lock(tx, lb_id, lock)
            edit.work(tx)
            after = _existing(tx, lb_id)
            validity.check(_without_leaving(after), edit.subjects)
            _lock_parents(tx, after, edit.subjects)
            what = ", ".join(f"{s.kind.words} {s.id}" for s in edit.subjects)
            _announce(tx, stored, f"a change was asked for: {what}")
            return stored

        return self.storage.transaction(accept)

    def _owner(self, kind: Kind, id: str) -> str:
        owner = self.storage.read(lambda tx: tx.owner(kind, id))
        if owner is None:
            raise NotFound(kind.words, id)
        return owner

    def _operation(self, flow: str, lb_id: str, subjects: tuple[Subject, ...], asked: Asked) -> Operation:
        return Operation(
            id=_new_id(),
            flow=flow,
            load_balancer_id=lb_id,
            subjects=subjects,
            actor=asked.actor,
            request_id=asked.request_id,
        )


def _new_id() -> str:
    return str(uuid.uuid4())


def _existing(tx: Transaction, lb_id: str) -> LoadBalancer:
    tree = tx.tree(lb_id)
    if tree is None or tree.provisioning_status is Provisioning.DELETED:
        raise NotFound("load balancer", lb_id)
    return tree


def _lock(tx: Transaction, lb_id: str, event: Event) -> None:
    try:
        tx.settle(Kind.LOAD_BALANCER, lb_id, event)
    except TransitionRefused as refused:
        raise LoadBalancerBusy(lb_id, str(refused.status)) from refused


def _touch(tx: Transaction, kind: Kind, id: str, event: Event, lb_id: str) -> None:
    try:
        tx.settle(kind, id, event)
    except TransitionRefused as refused:
        raise LoadBalancerBusy(lb_id, str(refused.status)) from refused


def _lock_parents(tx: Transaction, tree: LoadBalancer, subjects: Sequence[Subject]) -> None:
    """Parents of what changes turn PENDING_UPDATE too, as upstream's readers expect; those in ERROR stay so."""
    changed = {subject.id for subject in subjects}
    pools = {
        pool.id
        for pool in tree.pools
        if changed
        & {pool.id, *(m.id for m in pool.members), *([pool.health_monitor.id] if pool.health_monitor else [])}
    }
    parents: list[tuple[Kind, Node]] = [(Kind.POOL, pool) for pool in tree.pools if pool.id in pools]
    for listener in tree.listeners:
        policies = [p for p in listener.l7policies if changed & {p.id, *(r.id for r in p.rules)}]
        parents += [(Kind.L7POLICY, policy) for policy in policies]
        if policies or listener.default_pool_id in pools:
            parents.append((Kind.LISTENER, listener))
    for kind, node in parents:
        if node.id not in changed and node.provisioning_status in allowed(kind, Event.LOCK):
            tx.settle(kind, node.id, Event.LOCK)


def _in_error(tree: LoadBalancer, among: Collection[str] | None = None) -> tuple[Subject, ...]:
    """What is in ERROR below a load balancer, or of that what is among these ids."""
    return tuple(
        Subject(kind, node.id)
        for kind, node in tree.nodes()
        if node.provisioning_status is Provisioning.ERROR and (among is None or node.id in among)
    )


def _in_error_with(tree: LoadBalancer, id: str) -> tuple[Subject, ...]:
    """When that object is in ERROR: what it brought along and is in ERROR too, since it was wished for with it."""
    nodes = {node.id: node for _, node in tree.nodes()}
    found: set[str] = set()
    ahead = [id]
    while ahead:
        node = nodes.get(ahead.pop())
        if node is None or node.id in found or node.provisioning_status is not Provisioning.ERROR:
            continue
        found.add(node.id)
        match node:
            case Listener():
                ahead += [policy.id for policy in node.l7policies]
                ahead += [node.default_pool_id] if node.default_pool_id else []
            case L7Policy():
                ahead += [rule.id for rule in node.rules]
                ahead += [node.redirect_pool_id] if node.redirect_pool_id else []
            case Pool():
                ahead += [member.id for member in node.members]
                ahead += [node.health_monitor.id] if node.health_monitor else []
    return _in_error(tree, found - {id})


def _check(tree: LoadBalancer, subjects: Sequence[Subject], *edits: Edit) -> None:
    """Refuse what makes no sense before the rows are touched: the database's keys would say the same in fewer words."""
    validity.check(_without_leaving(applied(tree, Plan(edits))), subjects)


def _without_leaving(tree: LoadBalancer) -> LoadBalancer:
    """The tree as it will be: what is PENDING_DELETE does not count against what is new."""
    stays = Provisioning.PENDING_DELETE
    pools = tuple(_pool_without(p) for p in tree.pools if p.provisioning_status is not stays)
    listeners = tuple(_listener_without(one, tree) for one in tree.listeners if one.provisioning_status is not stays)
    return attrs.evolve(tree, pools=pools, listeners=listeners)


def _pool_without(pool: Pool) -> Pool:
    leaving = Provisioning.PENDING_DELETE
    monitor = pool.health_monitor
    gone = monitor is not None and monitor.provisioning_status is leaving
    members = tuple(m for m in pool.members if m.provisioning_status is not leaving)
    return attrs.evolve(pool, members=members, health_monitor=None if gone else monitor)


def _listener_without(listener: Listener, tree: LoadBalancer) -> Listener:
    leaving = Provisioning.PENDING_DELETE
    policies = tuple(
        attrs.evolve(p, rules=tuple(r for r in p.rules if r.provisioning_status is not leaving))
        for p in listener.l7policies
        if p.provisioning_status is not leaving
    )
    pool = tree.pool(listener.default_pool_id)
    default = None if pool is not None and pool.provisioning_status is leaving else listener.default_pool_id
    return attrs.evolve(listener, l7policies=policies, default_pool_id=default)


def _pool(tree: LoadBalancer, pool_id: str) -> Pool:
    pool = tree.pool(pool_id)
    if pool is None:
        raise NotFound("pool", pool_id)
    return pool


_MEMBER_VALUES = ("name", "weight", "enabled", "backup", "monitor_address", "monitor_port")


def _member_edits(
    pool: Pool, project_id: str | None, wishes: Sequence[NewMember], *, additive_only: bool
) -> tuple[list[Node], list[tuple[str, dict[str, Any]]], list[str]]:
    """New members, changed values of present ones, ids of those to go; matched by address and port."""
    present = {_place(m.address, m.protocol_port): m for m in pool.members}
    new: list[Node] = []
    changed: list[tuple[str, dict[str, Any]]] = []
    wanted: set[Hashable] = set()
    for wish in wishes:
        place = _place(wish.address, wish.protocol_port)
        if place in wanted:
            raise BadRequest(f"member {wish.address}:{wish.protocol_port} is listed twice")
        wanted.add(place)
        member = present.get(place)
        if member is None:
            new.append(wish.build(_new_id, pool.id, project_id, monitored=pool.health_monitor is not None))
            continue
        values = {n: getattr(wish, n) for n in _MEMBER_VALUES if getattr(wish, n) != getattr(member, n)}
        if wish.name is None:
            values.pop("name", None)  # a list of addresses does not take names away
        if values:
            changed.append((member.id, values))
    gone = [] if additive_only else [m.id for place, m in present.items() if place not in wanted]
    return new, changed, gone


def _place(address: str, port: int) -> Hashable:
    """Where a member is, the same for every spelling of an IPv6 address."""
    try:
        return ipaddress.ip_address(address), port
    except ValueError:
        return address, port  # validity will say what is wrong with it


def _subject_of(edit: Insert | Change | Delete) -> Subject:
    if isinstance(edit, Insert):
        return Subject(edit.kind, edit.node.id)
    return Subject(edit.kind, edit.id)


def _announce(tx: Transaction, operation: Operation, text: str) -> None:
    tx.emit(
        Happening(
            name="operation.accepted",
            text=f"{text} by {operation.actor}",
            load_balancer_id=operation.load_balancer_id,
            operation_id=operation.id,
        )
    )
