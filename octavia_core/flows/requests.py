"""The beginning of a flow that a message asked for: is there anything to do, and is it there yet?"""

from __future__ import annotations

from octavia_core.domain.operation import Subject
from octavia_core.domain.vocabulary import Kind
from octavia_core.flows.flow import emit
from octavia_core.flows.run import Run
from octavia_core.policy.requests import Action, Verdict, verdict, verdict_on_amphora
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.storage import Transaction

__all__ = ["PATIENCE", "nothing_to_do"]

PATIENCE = 60.0
"""Seconds that a message waits for its rows: about as long as upstream's own 15 looks ([haproxy_amphora]
api_db_commit_retry_*). After that they never will be there, or the sweep finds them."""
PAUSES = RetryPolicy(attempts=1_000_000, first=0.005, longest=1.0, multiplier=1.6)
"""Between two looks: the rows are usually milliseconds away; never longer than a user should wait behind this."""
YIELD_AFTER = 5.0
"""Seconds after which a message that still sees nothing makes way for an operation that waits behind it."""


def nothing_to_do(run: Run) -> bool:
    """True when the operation came from a message that is over: the operation is closed, and nothing was touched.

    An operation that our own controller accepted passes at once: its rows were moved in the accepting transaction.
    """
    if "request" not in run.operation.arguments:
        return False
    found = run.until("requested", lambda tx: _look(run, tx), within=PATIENCE, pauses=PAUSES, otherwise=Verdict.OVER)
    if found == Verdict.GO:
        return False
    what = ", ".join(f"{s.kind.words} {s.id}" for s in run.operation.subjects[:3])
    method = run.operation.arguments["request"]["method"]
    text = f"{method} for {what}: it was carried out or taken back already; nothing was done"
    run.finish(lambda tx: emit(tx, run.operation, "request.over", text))
    return True


def _look(run: Run, tx: Transaction) -> Verdict | None:
    """The verdict on one snapshot; None means: look again."""
    operation = run.operation
    action = Action(operation.arguments["request"]["action"])
    if operation.flow == "delete-amphora":
        row = tx.amphora(str(operation.amphora_id))
        found = verdict_on_amphora(row.status if row else None)
    else:
        assert operation.load_balancer_id is not None
        whole = Subject(Kind.LOAD_BALANCER, operation.load_balancer_id)
        # Replacing one amphora moves its load balancer's status, and leaves the amphora's row as it is.
        about = (whole,) if action is Action.FAILOVER else operation.subjects
        statuses = tx.provisioning({whole, *about})
        found = verdict(action, statuses, about, statuses.get(whole))
    if found is not Verdict.WAIT:
        return found
    return Verdict.OVER if _in_the_way(run, tx) else None


def _in_the_way(run: Run, tx: Transaction) -> bool:
    """Whether somebody has waited behind this long enough."""
    operation = run.operation
    if run.waited("requested") < YIELD_AFTER or operation.load_balancer_id is None:
        return False
    behind = tx.operations(load_balancer_id=operation.load_balancer_id, open_only=True)
    return any(other.id != operation.id for other in behind)
