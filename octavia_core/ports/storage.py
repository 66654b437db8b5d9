"""The database, as flows and the controller see it: transactions over values, and a queue of operations.

Everything a transaction does is one unit; it may be run again from the start after a deadlock, a lock timeout, a
serialisation failure or a lost connection, so the function handed in touches nothing outside. Ids are made before.
Times are integer microseconds of the database's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from octavia_core.domain.amphora import Amphora, VrrpGroup
from octavia_core.domain.operation import Event, JournalEntry, Operation, OperationState, Subject
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Node, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning
from octavia_core.errors import OctaviaError
from octavia_core.ports.fleet import Fleet
from octavia_core.ports.hearts import Hearts
from octavia_core.ports.marks import Marks

__all__ = [
    "Attendance",
    "Claim",
    "FenceLost",
    "Revision",
    "Storage",
    "Summary",
    "Transaction",
]

T = TypeVar("T")


class FenceLost(OctaviaError):
    """Somebody else has taken the operation over; whoever sees this stops at once and changes nothing."""

    def __init__(self, operation_id: str, fence: int) -> None:
        super().__init__(f"operation {operation_id}: fence {fence} is no longer the newest")
        self.operation_id, self.fence = operation_id, fence


@attrs.frozen(kw_only=True)
class Claim:
    """The right to act for an operation: every transaction of a run shows it. `lease` is seconds.

    Each fenced transaction extends the lease to `lease` seconds from the database's now.
    """

    operation_id: str
    holder: str
    fence: int
    lease: float


@attrs.frozen(kw_only=True)
class Attendance:
    """Who says that they carry operations out, and what they know. Times are microseconds of the database's clock.

    Attributes:
        workers: holder -> until when its word holds; those that ended in peace are not in it.
        flows: (name, version) -> until when somebody is known to know it.
    """

    workers: Mapping[str, int]
    flows: Mapping[tuple[str, int], int]


@attrs.frozen(kw_only=True)
class Revision:
    """A numbered, resolved tree of a load balancer. `good` once every amphora accepted it."""

    load_balancer_id: str
    number: int
    tree: LoadBalancer
    good: bool
    operation_id: str | None
    created_at: int


@attrs.frozen(kw_only=True)
class Summary:
    """One line of `lb list`."""

    id: str
    name: str | None
    project_id: str | None
    vip_address: str | None
    provisioning_status: Provisioning
    operating_status: Operating
    provider: str | None


class Transaction(Fleet, Hearts, Marks, Protocol):
    """One unit of work. Methods that change a row that is not there raise `NotFound`."""

    # -- the load balancer tree ------------------------------------------------------------------------------------
    def tree(self, load_balancer_id: str) -> LoadBalancer | None:
        """The whole load balancer in a fixed number of queries; None when there is no row. DELETED ones are returned."""

    def owner(self, kind: Kind, id: str) -> str | None:
        """The load balancer that a child (or an amphora) belongs to, or None."""

    def provisioning(self, subjects: Collection[Subject]) -> Mapping[Subject, Provisioning]:
        """The provisioning statuses of load balancers and children, in one query; what has no row is left out."""

    def find(self, kind: Kind, name_or_id: str) -> tuple[str, ...]:
        """Ids of rows with that id or that name; load balancers and amphorae that are DELETED are left out."""

    def load_balancers(self) -> Sequence[Summary]:
        """All that are not DELETED, by creation."""

    def insert(self, node: LoadBalancer | Node | Amphora) -> None:
        """Store a value with everything below it. A row of that id that is already there and equal is success."""

    def change(self, kind: Kind, id: str, values: Mapping[str, Any]) -> None:
        """Set attributes (domain names, e.g. `weight`, `max_retries`, `session_persistence`, `sni_container_ids`, `vip`)
        and `updated_at`. An L7 policy's `position` renumbers its siblings to 1..n. Statuses are not set here.
        """

    def delete(self, kind: Kind, id: str) -> None:
        """Remove a row with what hangs below it, in the order that foreign keys and upstream's readers need. Absent is success.

        References to it become NULL (listener.default_pool_id, l7policy.redirect_pool_id); siblings of an L7 policy are renumbered.
        """

    def settle(self, kind: Kind, id: str, event: Any) -> Provisioning:
        """Move a provisioning status by the lifecycle table with a compare-and-set; return the new one.

        `event` is of octavia_core.lifecycle. A result of DELETED on a child removes its row; on a load balancer or amphora it stays as a row.

        Raises:
            TransitionRefused: the table has no such move from the present status (which the error names).
        """

    def settle_amphora(self, id: str, event: Any, **values: Any) -> AmphoraStatus:
        """The same for an amphora and its own table; `values` are set with it, as by `change_amphora` (but `agent_port`)."""

    def settle_tree(self, load_balancer_id: str, *, failed: Collection[Subject] = (), succeeded: bool) -> None:
        """End a wish on a load balancer: pending children first, the load balancer last, all in this transaction.

        Succeeded: PENDING_CREATE and PENDING_UPDATE become ACTIVE, PENDING_DELETE rows go, a pending load balancer
        becomes ACTIVE (PENDING_DELETE: DELETED). Monitors, policies and rules that become ACTIVE get operating status
        ONLINE when enabled, else OFFLINE; members of a pool whose monitor goes become NO_MONITOR.
        Failed: children among `failed` become ERROR, other pending children end as `lifecycle.provisioning.ending`
        says (what was only locked goes back to ACTIVE); the load balancer becomes ERROR when it is among `failed`,
        else ACTIVE. Children in ERROR that are not pending stay.
        """

    def set_operating(self, statuses: Mapping[tuple[Kind, str], Operating]) -> int:
        """Write operating statuses that differ from the rows; how many did. Rows that are gone are passed over."""

    def set_vip(self, load_balancer_id: str, vip: Vip, additional_vips: Sequence[AdditionalVip] = ()) -> None:
        """Store what the network gave. Additional VIPs replace those that are there; none given: these stay."""

    # -- amphorae --------------------------------------------------------------------------------------------------
    def amphora(self, amphora_id: str) -> Amphora | None:
        """The row as a value, or None."""

    def amphorae(self, load_balancer_id: str | None = None, *, with_deleted: bool = False) -> Sequence[Amphora]:
        """Those of one load balancer, or all; DELETED ones only when asked for."""

    def spares(self) -> Sequence[Amphora]:
        """Those that are READY, serve nobody and are not declared dead, the oldest first. Two may read the same: whoever
        wants one takes it with `settle_amphora`.
        """

    def change_amphora(self, amphora_id: str, **values: Any) -> None:
        """Set attributes of the row (never `status`: that is `settle_amphora`) and `updated_at`.

        With none, nobody else changes the row until this transaction ends, and what is read of it now stays true.
        """

    def vrrp_group(self, load_balancer_id: str) -> VrrpGroup | None:
        """What the amphorae of a pair agree on, or None. It goes with the load balancer's row."""

    def add_vrrp_group(self, group: VrrpGroup) -> None:
        """Store it, unless the load balancer has one: that stays, since its amphorae know it."""

    # -- operations, journal, revisions, events --------------------------------------------------------------------
    def add_operation(self, operation: Operation, *, proof: bool = False, lease: float | None = None) -> Operation:
        """Store an operation and return it as stored.

        One that is not internal takes the load balancer's lock at once. The same `request_id` and flow twice returns
        the operation that exists, whatever its state.

        With `proof` its row tells whether a transaction without claim whose COMMIT had no answer has arrived: for an
        operation whose random id was made before the transaction, so that nobody else stores it.

        With `lease` it is stored as its `holder` would have it by claiming it for so many seconds: RUNNING, with fence 1.
        Only for one that is not internal.

        Raises:
            LoadBalancerBusy: an operation that is not final holds or awaits that load balancer.
        """

    def requested(self, flow: str, request_id: str) -> Operation | None:
        """The operation that was stored for a request, or None."""

    def operation(self, operation_id: str) -> Operation | None:
        """The row, or None."""

    def operations(
        self, *, load_balancer_id: str | None = None, open_only: bool = False, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first."""

    def later_operation(self, than: Operation) -> Operation | None:
        """The newest operation about the same load balancer that was stored later and is not over or has succeeded; one that
        is not over before all others.
        """

    def take_slot(self, operation_id: str, load_balancer_id: str) -> bool:
        """Have an operation that is about no load balancer keep others from this one, as if it were about it. False when an
        operation has it; twice is success. It ends with the operation, with its takeover, or with `leave_slot`.
        """

    def leave_slot(self, operation_id: str) -> None:
        """Let others have what `take_slot` took."""

    def journal(self, operation_id: str) -> Sequence[JournalEntry]:
        """All entries by sequence (the order in which they were first written)."""

    def write_journal(self, entry: JournalEntry) -> None:
        """Insert or replace the entry at its path; `sequence`, `started_at` and `finished_at` are the database's."""

    def write_entries(self, entries: Sequence[JournalEntry]) -> None:
        """`write_journal` for several at once, with the sequences that they have: the holder counts them, under its fence."""

    def set_undoing(self, operation_id: str, error: str) -> None:
        """Mark that a step failed for good: from now on the operation only undoes."""

    def close_operation(self, operation_id: str, state: OperationState, error: str | None = None) -> None:
        """Give it a final state, release its lock, lease and wait."""

    def store_revision(self, load_balancer_id: str, tree: LoadBalancer, operation_id: str | None) -> int:
        """Store a resolved tree as the next revision (not good yet) and return its number. The same operation twice returns the same number."""

    def revision(self, load_balancer_id: str, number: int) -> Revision | None:
        """One revision, or None."""

    def last_good(self, load_balancer_id: str) -> Revision | None:
        """The newest revision that every amphora accepted, or None."""

    def revisions(self, load_balancer_id: str) -> Sequence[Revision]:
        """All, newest first."""

    def mark_good(self, load_balancer_id: str, number: int) -> None:
        """Every amphora accepted it. Older revisions beyond the last 20 are dropped."""

    def emit(self, event: Event) -> None:
        """Add an event to the outbox; its time is the database's."""

    def events(
        self, *, after: int = 0, load_balancer_id: str | None = None, operation_id: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """Events with a sequence above `after`, oldest first."""

    def events_named(self, name: str, load_balancer_id: str, *, after: int) -> Sequence[Event]:
        """Events of that name about a load balancer with a sequence above `after`, oldest first, a thousand at most; those that
        this transaction emits are not among them.
        """

    def last_event(self) -> int:
        """The sequence of the newest event, 0 when there is none; those that this transaction emits come later."""

    def newest_event(self, names: Collection[str], *, amphora_id: str | None = None) -> Event | None:
        """The newest event of one of these names (about that amphora), or None."""

    def newest_events(self, names: Collection[str], *, limit: int) -> Sequence[Event]:
        """Events of one of these names, the newest first."""

    def undelivered(self, plugin: str, *, limit: int = 1000) -> Sequence[Event]:
        """Events beyond those that a plugin has been given, oldest first; none for a plugin not seen before."""

    def delivered(self, plugin: str) -> int:
        """The sequence up to which a plugin has been given events; a plugin not seen before starts at the newest event."""

    def set_delivered(self, plugin: str, sequence: int) -> None:
        """Remember it. It never moves back."""

    def purge(self, *, amphora_age: float, load_balancer_age: float, limit: int = 1000) -> int:
        """Remove rows of amphorae and load balancers that have been DELETED for longer than that (seconds), operations that
        ended before the latter age with their journals, and events as old that every plugin was given; at most `limit` of
        each. How many rows: 0 means that nothing is left to do.
        """

    def cancel_operation(self, operation_id: str, reason: str, *, unless_held: bool = False) -> bool:
        """Turn an operation that is not final to undoing: its holder loses the fence, the next claim (after the present
        lease, so that a call under way is over) undoes, and ends it as CANCELLED; one that failed by itself before ends
        FAILED. False when it is final already, or (with `unless_held`) when a lease runs.
        """

    def abandon_operation(self, operation_id: str, reason: str) -> bool:
        """Close an operation as CANCELLED on the spot, whoever holds it; nothing is undone and no status is moved. False
        when it is final already. The holder loses the fence; a call of its that is under way is not stopped.
        """

    # -- who works -------------------------------------------------------------------------------------------------
    def attend(self, holder: str, flows: Mapping[str, Collection[int]], *, seconds: float) -> None:
        """Say that this worker lives and knows these flows; the word holds for so long from now. It decides nothing:
        only `why` reads it.
        """

    def leave(self, *, holder: str | None = None, but: str | None = None) -> None:
        """Take back the word of one worker (it ends), or of all but one (the others are known to be dead)."""

    def attendance(self) -> Attendance:
        """Who says that they live, those too whose word holds no more (for a day)."""

    def turned(self, name: str) -> int | None:
        """When somebody last had that turn (`Storage.turn`), microseconds; None when nobody ever had."""

    def lost_requests(self, providers: Collection[str], *, age: float, own_age: float) -> Sequence[str]:
        """Ids of load balancers of these providers that are pending without an open operation, the longest first.

        `age` is how long (seconds) the row must have been as it is, `own_age` where an operation here was ever about it.
        """

    def aimless_operations(self, *, age: float) -> Sequence[str]:
        """Ids of open operations whose load balancer is gone or DELETED, and that nobody holds or undoes.

        Only those stored `age` seconds ago or more: the row of a younger one may be about to be committed.
        """


class Storage(Protocol):
    """Transactions, and the queue."""

    def transaction(self, work: Callable[[Transaction], T], *, claim: Claim | None = None) -> T:
        """Run `work` in one transaction and commit; repeat it whole when the database asks for that.

        With a claim, the transaction begins with the fenced update that also extends the lease.

        Raises:
            FenceLost: the claim is no longer the newest; nothing was changed.
            TransientError: the database is away, after the retries of the settings.
        """

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent snapshot; it must not change anything."""

    def now(self) -> int:
        """The database's clock, microseconds since the epoch."""

    def room(self) -> int | None:
        """Bytes left on the file system of an embedded database; None for one on a server."""

    def place(self) -> str:
        """The directory of an embedded database; of one on a server, what a person calls it, without password."""

    def unwritable(self) -> str | None:
        """Why nothing can be stored now, in the database's own words; None when something can. It finds out by storing
        something that nobody reads.
        """

    # -- the queue -------------------------------------------------------------------------------------------------
    def claim(
        self, holder: str, flows: Mapping[str, Collection[int]], *, lease: float, limit: int
    ) -> Sequence[tuple[Operation, Claim]]:
        """Take up to `limit` operations that are due: queued, parked with their wake-up over, or left by a dead holder.

        Only flows and versions in `flows`; never two of one load balancer at once. Compare-and-set, so any number of
        callers may compete; what is returned is the caller's until its lease ends. `Operation.fence` is the new fence.
        """

    def renew(self, claim: Claim, lease: float) -> None:
        """Extend the lease to `lease` seconds from now. Raises FenceLost."""

    def park(
        self,
        claim: Claim,
        *,
        wake_in: float,
        wait: Mapping[str, Any] | None,
        error: str | None = None,
        entry: JournalEntry | None = None,
    ) -> None:
        """Let go of the operation until `wake_in` seconds have passed, keeping its load balancer's lock. Raises FenceLost.

        `wait` is what it waits for (None: just time); `error` the transient cause of a retry; `entry` is journaled in the same transaction.
        """

    def waiting(self, kinds: Collection[str], *, limit: int = 10_000) -> Sequence[Operation]:
        """Parked operations whose `wait["kind"]` is one of `kinds`, whoever parked them: for bulk checks."""

    def waits(self, kinds: Collection[str], *, limit: int = 100_000) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """(operation id, wait) of what `waiting` returns, without the rest: cheap for ten thousand of them."""

    def turn(self, name: str, every: float) -> bool:
        """True for one caller in `every` seconds by the database's clock, whichever process on whichever host asks:
        for what needs to be done once. Names are remembered for ever, so use few.
        """

    def wake(self, operation_ids: Collection[str]) -> None:
        """Make parked operations due now. Those that are not parked are passed over."""

    def end_leases(self, *, but: str) -> int:
        """End the leases of every holder but `but`; how many. Only for who knows that the others are dead: the holder of
        a state directory's lock, which the kernel gives to one process at a time. What they held is due at once.
        """

    def next_due(self) -> float | None:
        """Seconds until the next parked operation is due or the next lease ends, 0 when something is claimable, None when there is nothing."""

    def close(self) -> None:
        """Give connections back. Twice is harmless."""
