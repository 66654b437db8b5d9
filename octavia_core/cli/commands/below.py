"""`octavia-admin listener|pool|member|monitor|l7policy|l7rule ...`: what is below a load balancer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.commands.balancer import Maybe, Name, gone, listener_of, monitor_of, pool_of
from octavia_core.cli.completion import names_of, one_of
from octavia_core.cli.fields import POOL, fields_of
from octavia_core.cli.references import locate, node_of
from octavia_core.cli.session import Session
from octavia_core.domain.vocabulary import Kind, L7Action, L7RuleType
from octavia_core.domain.wishes import NewHealthMonitor, NewL7Policy, NewL7Rule, NewListener, NewMember, NewPool
from octavia_core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.handle import Operation
    from octavia_core.domain.operation import Operation as Row
    from octavia_core.domain.tree import LoadBalancer, Node

__all__ = ["add"]

_GROUPS = {
    Kind.LISTENER: ("listener", "Listeners: the ports of a VIP. LISTENER is an id, a name, or LOAD_BALANCER:PORT."),
    Kind.POOL: ("pool", "Pools of members. POOL is an id, a name, or the load balancer when it has just one."),
    Kind.MEMBER: ("member", "Members: the servers of a pool. MEMBER is an id, a name, or ADDRESS:PORT."),
    Kind.HEALTH_MONITOR: ("monitor", "Health monitors. MONITOR is an id, a name, or the pool's."),
    Kind.L7POLICY: ("l7policy", "L7 policies: what happens to certain requests of a listener."),
    Kind.L7RULE: ("l7rule", "L7 rules: which requests a policy is about."),
}
_WISHES = {
    Kind.LISTENER: NewListener,
    Kind.POOL: NewPool,
    Kind.MEMBER: NewMember,
    Kind.HEALTH_MONITOR: NewHealthMonitor,
    Kind.L7POLICY: NewL7Policy,
    Kind.L7RULE: NewL7Rule,
}

InPool = Annotated[
    str,
    typer.Argument(
        metavar="POOL",
        help="Id or name of a pool, or the load balancer that has just one.",
        autocompletion=names_of(Kind.LOAD_BALANCER, Kind.POOL),
    ),
]
InListener = Annotated[
    str,
    typer.Argument(
        metavar="LISTENER",
        help="Id or name of a listener, or LOAD_BALANCER:PORT.",
        autocompletion=names_of(Kind.LISTENER, also=[Kind.LOAD_BALANCER]),
    ),
]


def add(app: typer.Typer) -> None:
    """Add the six groups."""
    creators: dict[Kind, tuple[Callable[..., None], tuple[str, ...]]] = {
        Kind.LISTENER: (create_listener, ("protocol", "protocol_port", "default_pool_id", "tls_certificate_id")),
        Kind.POOL: (create_pool, ("lb_algorithm", "session_persistence")),
        Kind.MEMBER: (create_member, ("address", "protocol_port")),
        Kind.HEALTH_MONITOR: (create_monitor, ("type",)),
        Kind.L7POLICY: (create_policy, ("action", "redirect_pool_id")),
        Kind.L7RULE: (create_rule, ("type", "value")),
    }
    from octavia_core.policy.changes.names import CHANGEABLE

    for kind, (name, help) in _GROUPS.items():
        group = typer.Typer(no_args_is_help=True, help=help)
        app.add_typer(group, name=name)
        create, arguments = creators[kind]
        quick = POOL if kind in (Kind.LISTENER, Kind.POOL) else ()
        command(group, "create", fields=fields_of(_WISHES[kind], leave_out=arguments) + quick, changes=True)(create)
        command(group, "list", cloud=True)(_lister(kind))
        command(group, "show", cloud=True)(_shower(kind))
        changeable = fields_of(_WISHES[kind], only=CHANGEABLE[kind])
        command(group, "set", fields=changeable, changes=True)(_setter(kind))
        command(group, "delete", changes=True)(_deleter(kind))
        if kind is Kind.MEMBER:
            command(group, "set-all", changes=True)(set_all)


# -- what is the same for all ------------------------------------------------------------------------------------------
def _lister(kind: Kind) -> Callable[..., None]:
    def list_(
        session: Session,
        lb: Maybe = None,
    ) -> None:
        with session.look() as controller:
            found = list(_nodes(controller, kind, lb))
            if session.json:
                from octavia_core.cli.trees import node_json

                session.screen.data(
                    [_without_operation(node_json(controller, tree, kind, node)) for tree, node in found]
                )
                return
            from octavia_core.cli.output import status

            session.screen.table(
                ("id", "name", "what", "provisioning", "operating", "load balancer"),
                (
                    (
                        node.id,
                        getattr(node, "name", None),
                        _what(controller, tree, kind, node),
                        status(node.provisioning_status),
                        status(node.operating_status),
                        tree.name or tree.id,
                    )
                    for tree, node in found
                ),
                empty=f"no {_plural(kind)}",
            )

    list_.__doc__ = f"List {_plural(kind)}, of all load balancers or of one."
    return list_


def _shower(kind: Kind) -> Callable[..., None]:
    def show(session: Session, id: str) -> None:
        with session.look() as controller:
            _show(session, controller, kind, locate(controller, kind, id), None)

    show.__annotations__["id"] = _argument(kind)
    show.__doc__ = f"Show one {kind.words}."
    return show


def _setter(kind: Kind) -> Callable[..., None]:
    def set_(
        session: Session,
        values: dict[str, Any],
        id: str,
        unset: Annotated[
            list[str] | None, typer.Option("--unset", metavar="NAME", help="Clear it, or give it its default back.")
        ] = None,
    ) -> None:
        changes = values | dict.fromkeys(unset or ())
        with session.work() as hand:
            found = locate(hand.controller, kind, id)
            for reference in {"default_pool_id", "redirect_pool_id"} & values.keys():
                changes[reference] = locate(hand.controller, Kind.POOL, str(values[reference]))
            row = hand.carry_out(lambda c: c.update(kind, found, **session.asked, wait=session.patience, **changes))
            _show(session, hand.controller, kind, found, row)

    set_.__annotations__["id"] = _argument(kind)
    set_.__doc__ = f"Change {_article(kind)} {kind.words}: only what is given changes."
    return set_


def _deleter(kind: Kind) -> Callable[..., None]:
    def delete(session: Session, id: str) -> None:
        with session.work() as hand:
            found = locate(hand.controller, kind, id)
            row = hand.carry_out(lambda c: c.delete(kind, found, **session.asked, wait=session.patience))
        gone(session, kind.words, found, row)

    delete.__annotations__["id"] = _argument(kind)
    delete.__doc__ = f"Delete {_article(kind)} {kind.words}."
    return delete


# -- creating ----------------------------------------------------------------------------------------------------------
def create_listener(
    session: Session,
    values: dict[str, Any],
    lb: Name,
    port: Annotated[str, typer.Argument(metavar="PROTOCOL:PORT", help="HTTP:80, TCP:5432, TERMINATED_HTTPS:443, ...")],
    pool: Annotated[
        str | None,
        typer.Option("--pool", help="Existing pool that gets the traffic.", autocompletion=names_of(Kind.POOL)),
    ] = None,
    cert: Annotated[
        str | None, typer.Option("--cert", help="Certificate: a name in the secret store, or a path.")
    ] = None,
) -> None:
    """Add a listener, with a pool of its own when members are given."""
    made = pool_of(values)
    if made is not None and pool is not None:
        raise BadRequest(
            "--pool names a pool that exists, and --member, --monitor, --algorithm describe a new one: use one way"
        )
    from octavia_core.policy.changes import wish

    document = listener_of(port, cert, made, "listener") | values
    with session.work() as hand:
        if pool is not None:
            document["default_pool_id"] = locate(hand.controller, Kind.POOL, pool)
        asked = wish(NewListener, document)
        id = hand.controller.load_balancer(lb).id
        _created(
            session, hand, Kind.LISTENER, lambda c: c.create_listener(id, asked, **session.asked, wait=session.patience)
        )


def create_pool(
    session: Session,
    values: dict[str, Any],
    lb: Name,
    listener: Annotated[
        str | None,
        typer.Option(
            "--listener",
            help="Make it the default pool of this listener.",
            autocompletion=names_of(Kind.LISTENER),
        ),
    ] = None,
) -> None:
    """Add a pool."""
    from octavia_core.policy.changes import wish

    asked = wish(NewPool, (pool_of(values) or {}) | values)
    with session.work() as hand:
        id = hand.controller.load_balancer(lb).id
        of = locate(hand.controller, Kind.LISTENER, listener) if listener else None
        _created(
            session,
            hand,
            Kind.POOL,
            lambda c: c.create_pool(id, asked, listener_id=of, **session.asked, wait=session.patience),
        )


def create_member(
    session: Session,
    values: dict[str, Any],
    pool: InPool,
    address: Annotated[str, typer.Argument(metavar="ADDRESS:PORT", help="An IPv6 address stands in brackets.")],
) -> None:
    """Add a member to a pool."""
    import attrs

    from octavia_core.policy.changes import wish

    asked = wish(NewMember, address, "member:")
    if values:
        asked = wish(NewMember, attrs.asdict(asked) | values)
    with session.work() as hand:
        id = locate(hand.controller, Kind.POOL, pool)
        _created(
            session, hand, Kind.MEMBER, lambda c: c.create_member(id, asked, **session.asked, wait=session.patience)
        )


def set_all(
    session: Session,
    pool: InPool,
    members: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ADDRESS:PORT]...", help="Settings may follow: '10.0.0.1:80 weight=5'."),
    ] = None,
    additive: Annotated[bool, typer.Option("--additive", help="Keep members that are not listed.")] = False,
) -> None:
    """Make the members of a pool exactly these, in one operation."""
    from octavia_core.cli.trees import node_json
    from octavia_core.domain.codec import to_json
    from octavia_core.policy.changes import wish

    asked = [wish(NewMember, one, f"member {index}:") for index, one in enumerate(members or (), start=1)]
    with session.work() as hand:
        id = locate(hand.controller, Kind.POOL, pool)
        row = hand.carry_out(
            lambda c: c.set_members(id, asked, additive_only=additive, **session.asked, wait=session.patience)
        )
        tree, node = _find(hand.controller, Kind.POOL, id)
        if session.json:
            session.screen.data(
                node_json(hand.controller, tree, Kind.POOL, node) | {"operation": to_json(row) if row else None}
            )
            return
        if row is None:
            session.screen.note("these are its members already; nothing was done")
        _draw(session, hand.controller, tree, Kind.POOL, node)


def create_monitor(
    session: Session,
    values: dict[str, Any],
    pool: InPool,
    type: Annotated[str, typer.Argument(metavar="TYPE[:PATH]", help="TCP, HTTP:/healthz, HTTPS, TLS-HELLO, PING, ...")],
) -> None:
    """Have the members of a pool checked."""
    from octavia_core.policy.changes import wish

    asked = wish(NewHealthMonitor, monitor_of(type, "monitor") | values)
    with session.work() as hand:
        id = locate(hand.controller, Kind.POOL, pool)
        _created(
            session,
            hand,
            Kind.HEALTH_MONITOR,
            lambda c: c.create_health_monitor(id, asked, **session.asked, wait=session.patience),
        )


def create_policy(
    session: Session,
    values: dict[str, Any],
    listener: InListener,
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="REJECT, REDIRECT_TO_URL, REDIRECT_PREFIX or REDIRECT_TO_POOL.",
            autocompletion=one_of(*L7Action),
        ),
    ],
    pool: Annotated[
        str | None,
        typer.Option("--pool", help="Existing pool to send the requests to.", autocompletion=names_of(Kind.POOL)),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="'TYPE COMPARE VALUE'",
            help="Add a rule: 'PATH STARTS_WITH /api', 'HEADER:X-Env EQUAL_TO beta'.",
        ),
    ] = None,
) -> None:
    """Add an L7 policy to a listener."""
    from octavia_core.policy.changes import wish

    document: dict[str, Any] = {"action": action, "rules": [_rule(one) for one in rule or ()]} | values
    with session.work() as hand:
        id = locate(hand.controller, Kind.LISTENER, listener)
        if pool is not None:
            document["redirect_pool_id"] = locate(hand.controller, Kind.POOL, pool)
        asked = wish(NewL7Policy, document)
        _created(
            session, hand, Kind.L7POLICY, lambda c: c.create_l7policy(id, asked, **session.asked, wait=session.patience)
        )


def create_rule(
    session: Session,
    values: dict[str, Any],
    policy: Annotated[
        str,
        typer.Argument(metavar="POLICY", help="Id or name of an L7 policy.", autocompletion=names_of(Kind.L7POLICY)),
    ],
    type: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="PATH, HOST_NAME, HEADER, COOKIE, FILE_TYPE, ...",
            autocompletion=one_of(*L7RuleType),
        ),
    ],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="What to compare with; see --compare-type.")],
) -> None:
    """Add an L7 rule to a policy; all rules of a policy must match."""
    from octavia_core.policy.changes import wish

    asked = wish(NewL7Rule, {"type": type, "value": value} | values)
    with session.work() as hand:
        id = locate(hand.controller, Kind.L7POLICY, policy)
        _created(
            session, hand, Kind.L7RULE, lambda c: c.create_l7rule(id, asked, **session.asked, wait=session.patience)
        )


# -- inside ------------------------------------------------------------------------------------------------------------
def _created(session: Session, hand: Any, kind: Kind, ask: Callable[[Controller], Operation]) -> None:
    made: list[str] = []

    def asking(controller: Controller) -> Operation:
        operation = ask(controller)
        made.append(operation.subject_id)
        return operation

    row = hand.carry_out(asking)
    _show(session, hand.controller, kind, made[-1], row)


def _show(session: Session, controller: Controller, kind: Kind, id: str, row: Row | None) -> None:
    tree, node = _find(controller, kind, id)
    if session.json:
        from octavia_core.cli.trees import node_json

        session.screen.data(node_json(controller, tree, kind, node, row))
    else:
        _draw(session, controller, tree, kind, node)


def _draw(session: Session, controller: Controller, tree: LoadBalancer, kind: Kind, node: Node) -> None:
    from octavia_core.cli.output import status
    from octavia_core.cli.trees import reachable
    from octavia_core.domain.codec import to_json

    rows: list[tuple[Any, Any]] = [("load balancer", tree.name or tree.id)]
    for name, value in to_json(node).items():
        if name in ("members", "l7policies", "rules"):
            rows.append((name, ", ".join(str(_short(one)) for one in value)))
        elif name.endswith("_status"):
            rows.append((name, status(value)))
        elif value not in (None, [], {}, ""):
            rows.append(
                (
                    name,
                    value
                    if not isinstance(value, dict)
                    else ", ".join(f"{k}={v}" for k, v in value.items() if v is not None),
                )
            )
    if kind is Kind.LISTENER and (listener := tree.listener(node.id)):
        rows.append(("reachable at", reachable(controller, tree, listener)))
    session.screen.table((kind.words, ""), rows, empty="")


def _short(data: dict[str, Any]) -> str:
    if "address" in data:
        return f"{data['address']}:{data['protocol_port']}"
    return str(data.get("name") or data["id"])


def _find(controller: Controller, kind: Kind, id: str) -> tuple[LoadBalancer, Node]:
    owner = controller.storage.read(lambda tx: tx.owner(kind, id))
    if owner is None:
        raise NotFound(kind.words, id)
    tree = controller.load_balancer(owner)
    node = node_of(tree, kind, id)
    if node is None:
        raise NotFound(kind.words, id)
    return tree, node


def _nodes(controller: Controller, kind: Kind, lb: str | None) -> Iterator[tuple[LoadBalancer, Node]]:
    names = [lb] if lb else [summary.id for summary in controller.load_balancers()]
    for name in names:
        tree = controller.load_balancer(name)
        yield from ((tree, node) for k, node in tree.nodes() if k is kind)


def _what(controller: Controller, tree: LoadBalancer, kind: Kind, node: Any) -> str:
    if kind is Kind.LISTENER:
        from octavia_core.cli.trees import reachable

        return f"{node.protocol}:{node.protocol_port} at {reachable(controller, tree, node) or '?'}"
    if kind is Kind.POOL:
        return f"{node.protocol} {node.lb_algorithm}, {len(node.members)} member(s)"
    if kind is Kind.MEMBER:
        host = f"[{node.address}]" if ":" in node.address else node.address
        return f"{host}:{node.protocol_port} weight {node.weight}"
    if kind is Kind.HEALTH_MONITOR:
        return f"{node.type} {node.url_path or ''} every {node.delay} s".replace("  ", " ")
    if kind is Kind.L7POLICY:
        return f"{node.position}. {node.action}"
    return f"{'not ' if node.invert else ''}{node.type} {node.key or ''} {node.compare_type} {node.value}".replace(
        "  ", " "
    )


def _rule(text: str) -> dict[str, Any]:
    words = text.split(maxsplit=2)
    if len(words) != 3:
        raise BadRequest(f"--rule {text!r} must be 'TYPE COMPARE VALUE', for example 'PATH STARTS_WITH /api'")
    negated = words[0].startswith("!")
    type, _, key = words[0].lstrip("!").partition(":")
    rule = {"type": type, "compare_type": words[1], "value": words[2], "invert": negated}
    return rule | ({"key": key} if key else {})


def _without_operation(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "operation"}


def _argument(kind: Kind) -> Any:
    name = _GROUPS[kind][0].upper()
    help = _GROUPS[kind][1].partition(". ")[2] or "Id or name."
    return Annotated[str, typer.Argument(metavar=name, help=help, autocompletion=names_of(kind))]


def _article(kind: Kind) -> str:
    return "an" if kind in (Kind.L7POLICY, Kind.L7RULE) else "a"


def _plural(kind: Kind) -> str:
    return {Kind.L7POLICY: "L7 policies"}.get(kind, f"{kind.words}s")
