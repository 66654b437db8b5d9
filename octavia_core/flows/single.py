"""Flows about one amphora alone; the load balancer's status is not moved."""

from __future__ import annotations

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Topology
from octavia_core.errors import NotFound, PermanentError, TransientError
from octavia_core.flows import amphorae, marks
from octavia_core.flows.flow import Flow, emit
from octavia_core.flows.requests import nothing_to_do
from octavia_core.flows.run import Run
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.ports.amphora import BootIdentity
from octavia_core.ports.storage import Transaction

__all__ = ["CONFIGURE_AGENT", "CREATE_SPARE", "DELETE_AMPHORA"]


@attrs.frozen(kw_only=True)
class _Single:
    """An amphora, and its load balancer's own values when it has one; nothing to do when both are None."""

    amphora: Amphora | None = None
    tree: LoadBalancer | None = None


def _found(tx: Transaction, operation: Operation) -> _Single:
    row = tx.amphora(str(operation.amphora_id))
    if row is None or row.status is AmphoraStatus.DELETED:
        return _Single()
    tree = tx.tree(row.load_balancer_id) if row.load_balancer_id else None
    return _Single(amphora=row, tree=attrs.evolve(tree, listeners=(), pools=()) if tree else None)


def _delete(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Single:
        found = _found(tx, operation)
        if found.amphora is not None:
            tx.settle_amphora(found.amphora.id, AmphoraEvent.DELETE)
        return found

    doomed = run.record("plan", plan, result=_Single)
    amphora = doomed.amphora
    if amphora is not None and doomed.tree is not None:
        amphorae.remove(run, world, doomed.tree, amphora)
    elif amphora is not None:
        target = amphora.compute_id or f"amphora-{amphora.id}"
        run.step("destroy", key=target, do=world.compute.destroy, limit=world.compute.time_limit)

    def finish(tx: Transaction) -> None:
        if amphora is not None:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETED)
            tx.forget_health(amphora.id)
            emit(tx, operation, "amphora.deleted", "deleted, with its server", amphora_id=amphora.id)

    run.finish(finish)


def _create_spare(run: Run, world: World) -> None:
    operation = run.operation
    where = amphorae.Site(
        load_balancer_id=None, amphora_id=str(operation.amphora_id), role=None, topology=Topology.SINGLE
    )
    run.record(
        "plan",
        lambda tx: amphorae.insert_amphora(tx, where),
        lambda tx: amphorae.drop_amphora(tx, where.amphora_id),
    )
    booted = amphorae.boot(run, world, where)
    run.later("booting", lambda tx: amphorae.booted_row(tx, where, booted))
    server, facts = amphorae.await_agent(run, world, where, booted)

    def finish(tx: Transaction) -> None:
        amphorae.store_server(tx, where, server, AmphoraEvent.SPARE, facts)
        if amphorae.declared_dead(tx, where.amphora_id):  # asked while nobody else can move the row
            raise PermanentError(f"amphora {where.amphora_id} died as soon as it answered")
        text = f"amphora answers at {server.management_ip}:{server.agent_port}, and waits as a spare"
        emit(tx, operation, "amphora.ready", text, amphora_id=where.amphora_id)

    run.finish(finish)


def _configure_agent(run: Run, world: World) -> None:
    operation = run.operation

    def plan(tx: Transaction) -> _Single:
        found = _found(tx, operation)
        if found.amphora is None:
            raise NotFound("amphora", str(operation.amphora_id))
        return found

    target = run.record("plan", plan, result=_Single)
    amphora = target.amphora
    assert amphora is not None
    topology = target.tree.topology if target.tree else Topology.SINGLE

    def tell(_: str) -> None:
        what, mark = operation.arguments.get("tell"), operation.arguments.get("mark")
        if mark and world.marks.get(str(what)) != mark:
            raise TransientError(
                f"this worker's settings have another {what} than the agent is to be told; start it again"
            )
        for name, newest in dict(operation.arguments.get("marks") or {}).items():
            if world.marks.get(name) != newest:  # at once: the failover of who stays silent waits for this
                raise PermanentError(
                    f"this worker's settings have another {name} than agents were told last; start it again"
                )
        at = amphora.agent
        if at is None:
            raise PermanentError(f"amphora {amphora.id} has no management address")
        # Its certificate stays: only settings are sent, so no key has to be made for this.
        identity = BootIdentity(
            amphora_id=amphora.id,
            topology=topology,
            server_pem=Secret(b""),
            controller_ca_pem=world.issuer.controller_ca(),
        )
        marks.tell(run, world, at, identity)

    run.step("agent-settings", key=amphora.id, do=tell, limit=world.amphora.time_limit)
    run.finish(
        lambda tx: emit(tx, operation, "amphora.configured", "its agent has its settings", amphora_id=amphora.id)
    )


def _failed(tx: Transaction, operation: Operation, reason: str) -> None:
    if "tell" in operation.arguments:  # one of many that are told something: it serves as before
        emit(tx, operation, "rotation.missed", f"its agent could not be told: {reason}", reason=reason)
        return
    amphorae.fail_amphora(tx, str(operation.amphora_id), reason)
    emit(
        tx, operation, "operation.failed", f"{operation.flow} failed, the amphora is in ERROR: {reason}", reason=reason
    )


def _no_spare(tx: Transaction, operation: Operation, reason: str) -> None:
    emit(tx, operation, "operation.failed", f"no spare was built: {reason}", reason=reason)


DELETE_AMPHORA = Flow(name="delete-amphora", body=_delete, give_up=_failed, words="delete amphora")
CONFIGURE_AGENT = Flow(name="configure-agent", body=_configure_agent, give_up=_failed, words="configure an agent")
CREATE_SPARE = Flow(name="create-spare", body=_create_spare, give_up=_no_spare, words="build a spare amphora")
