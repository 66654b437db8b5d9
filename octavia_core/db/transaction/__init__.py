"""One transaction, as `octavia_core.ports.storage` promises it."""

from __future__ import annotations

from octavia_core.db.transaction.amphorae import Amphorae
from octavia_core.db.transaction.attendance import Workers
from octavia_core.db.transaction.fleet import Fleet
from octavia_core.db.transaction.health import Health
from octavia_core.db.transaction.journal import Events, Journal, Revisions
from octavia_core.db.transaction.marks import Marks
from octavia_core.db.transaction.operations import Operations
from octavia_core.db.transaction.pairs import Pairs
from octavia_core.db.transaction.purge import Purge
from octavia_core.db.transaction.reports import Reports
from octavia_core.db.transaction.settle import Settle
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer, Node

__all__ = ["SqlTransaction"]


class SqlTransaction(
    Settle, Purge, Amphorae, Pairs, Health, Fleet, Marks, Reports, Operations, Journal, Revisions, Events, Workers
):
    """All parts over one connection."""

    def insert(self, node: LoadBalancer | Node | Amphora) -> None:
        """Store a value with everything below it."""
        if isinstance(node, Amphora):
            self.insert_amphora(node)
        else:
            self.insert_node(node)
