"""Why something is as it is: who holds it, at which step, for how long, the cause, what happens next and when.

Facts come from the rows, the operations and their journals; nothing is asked of the outside, so an answer takes
milliseconds whatever state the outside is in.
"""

from __future__ import annotations

from octavia_core.controller.explain.amphorae import of_amphora
from octavia_core.controller.explain.balancers import of_balancer, of_child
from octavia_core.controller.explain.facts import Facts
from octavia_core.controller.explain.operations import of_operation
from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import BadRequest, NotFound
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Explanation", "Situation", "find", "why"]

_NAMED = (
    Kind.LOAD_BALANCER,
    Kind.LISTENER,
    Kind.POOL,
    Kind.MEMBER,
    Kind.HEALTH_MONITOR,
    Kind.L7POLICY,
    Kind.L7RULE,
)


def find(tx: Transaction, text: str) -> tuple[Kind | None, str]:
    """What an id or name means: (kind, id), the kind None for an operation.

    Raises:
        NotFound: nothing.
        BadRequest: several things.
    """
    if tx.operation(text) is not None:
        return None, text
    if tx.amphora(text) is not None:
        return Kind.AMPHORA, text
    tree = tx.tree(text)
    if tree is not None:
        return Kind.LOAD_BALANCER, text
    for kind in _NAMED:
        found = tx.find(kind, text)
        if len(found) > 1:
            raise BadRequest(f"{len(found)} {kind.words}s are called {text!r}; say which: {', '.join(found)}")
        if found:
            return kind, found[0]
    raise NotFound("load balancer, amphora or operation", text)


def why(
    storage: Storage, settings: Settings, text: str, *, running: bool | None = None, looks: float = 1.0
) -> Explanation:
    """Explain a load balancer, something below one, an amphora or an operation.

    Args:
        storage: where the rows are.
        settings: whose time limits count.
        text: an id or a name.
        running: whether a controller runs on the state directory; None when that cannot be known.
        looks: seconds between two looks of a worker at servers that are awaited.

    Raises:
        NotFound: there is no such thing.
        BadRequest: several things have that name.
        TransientError: the database does not answer, so nothing can be said.
    """
    now = storage.now()

    def work(tx: Transaction) -> Explanation:
        facts = Facts(tx, now, settings, running, storage, looks)
        kind, id = find(tx, text)
        if kind is None:
            row = tx.operation(id)
            assert row is not None
            return of_operation(facts, row)
        if kind is Kind.AMPHORA:
            amphora = tx.amphora(id)
            assert amphora is not None
            return of_amphora(facts, amphora)
        owner = id if kind is Kind.LOAD_BALANCER else tx.owner(kind, id)
        tree = tx.tree(owner) if owner else None
        if tree is None:
            raise NotFound(kind.words, id)
        return of_balancer(facts, tree) if kind is Kind.LOAD_BALANCER else of_child(facts, tree, kind, id)

    return storage.read(work)
