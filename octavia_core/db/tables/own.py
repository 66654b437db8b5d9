"""Our own tables, beside upstream's: operations with their journals, events, revisions, liveness, what health
managers share, what agents were given.

No foreign key leads from here into upstream's tables, so upstream's programs may delete their rows as they always did.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, UniqueConstraint

from octavia_core.db.tables.parts import exact, long_text, metadata, microseconds

__all__ = [
    "oc_amphora",
    "oc_comeback",
    "oc_commit",
    "oc_event",
    "oc_event_cursor",
    "oc_governor",
    "oc_journal",
    "oc_liveness",
    "oc_mark",
    "oc_meta",
    "oc_observer",
    "oc_operation",
    "oc_revision",
    "oc_rotation",
]

oc_operation = Table(
    "oc_operation",
    metadata,
    Column("id", exact(36), primary_key=True),
    Column("flow", exact(64), nullable=False),
    Column("flow_version", Integer(), nullable=False),
    Column("load_balancer_id", exact(36)),
    Column("amphora_id", exact(36)),
    Column("arguments", long_text(), nullable=False),
    Column("subjects", long_text(), nullable=False),
    Column("internal", Boolean(), nullable=False),
    Column("actor", exact(255), nullable=False),
    Column("request_id", exact(255)),
    Column("state", exact(16), nullable=False),
    Column("lock_key", exact(36)),  # what it holds: its load balancer, or its amphora where it has none
    Column("holder", exact(255)),
    Column("fence", BigInteger(), nullable=False),
    Column("lease_until", microseconds(), nullable=False),
    Column("wake_at", microseconds(), nullable=False),
    Column("wait", long_text()),
    Column("wait_kind", exact(64)),
    Column("undoing", Boolean(), nullable=False),
    Column("attempts", Integer(), nullable=False),
    Column("error", long_text()),
    Column("commit_token", exact(36)),  # of the last fenced transaction: tells whether a lost COMMIT arrived
    Column("created_at", microseconds(), nullable=False),
    Column("updated_at", microseconds(), nullable=False),
    Column("finished_at", microseconds()),
    UniqueConstraint("lock_key", name="uq_oc_operation_lock_key"),
    UniqueConstraint("flow", "request_id", name="uq_oc_operation_flow_request_id"),
    Index("ix_oc_operation_state_wake_at", "state", "wake_at"),
    Index("ix_oc_operation_state_lease_until", "state", "lease_until"),
    Index("ix_oc_operation_load_balancer_id", "load_balancer_id", "created_at"),
    Index("ix_oc_operation_created_at", "created_at"),
)

oc_journal = Table(
    "oc_journal",
    metadata,
    Column("operation_id", exact(36), primary_key=True),
    Column("path", exact(255), primary_key=True),
    Column("sequence", Integer(), nullable=False),
    Column("kind", exact(16), nullable=False),
    Column("outcome", exact(16), nullable=False),
    Column("entry_key", long_text()),
    Column("result", long_text()),
    Column("error", long_text()),
    Column("attempts", Integer(), nullable=False),
    Column("started_at", microseconds(), nullable=False),
    Column("finished_at", microseconds()),
)

oc_event = Table(
    "oc_event",
    metadata,
    # Counted in oc_meta, by the last statement of a transaction: so sequences become visible in their own order.
    Column("sequence", BigInteger(), primary_key=True, autoincrement=False),
    Column("name", exact(128), nullable=False),
    Column("text", long_text(), nullable=False),
    Column("at", microseconds(), nullable=False),
    Column("load_balancer_id", exact(36)),
    Column("amphora_id", exact(36)),
    Column("operation_id", exact(36)),
    Column("data", long_text(), nullable=False),
    Index("ix_oc_event_load_balancer_id", "load_balancer_id", "sequence"),
    Index("ix_oc_event_operation_id", "operation_id", "sequence"),
)

oc_event_cursor = Table(
    "oc_event_cursor",
    metadata,
    Column("plugin", exact(255), primary_key=True),
    Column("sequence", BigInteger(), nullable=False),
)

oc_revision = Table(
    "oc_revision",
    metadata,
    Column("load_balancer_id", exact(36), primary_key=True),
    Column("number", Integer(), primary_key=True, autoincrement=False),
    Column("tree", long_text(), nullable=False),
    Column("good", Boolean(), nullable=False),
    Column("operation_id", exact(36)),
    Column("created_at", microseconds(), nullable=False),
    UniqueConstraint("operation_id", name="uq_oc_revision_operation_id"),
)

oc_liveness = Table(
    "oc_liveness",
    metadata,
    Column("amphora_id", String(36), primary_key=True),
    Column("last_heard", microseconds()),
    Column("since", microseconds(), nullable=False),
    Column("observer", exact(255)),
    Column("sequence", BigInteger()),
    Column("declared_dead", microseconds()),
    Column("report", long_text()),
    Column("host", exact(255)),  # where compute put it, None where compute does not say
    Index("ix_oc_liveness_last_heard", "last_heard"),
    Index("ix_oc_liveness_declared_dead", "declared_dead"),
)

oc_amphora = Table(
    "oc_amphora",
    metadata,
    Column("amphora_id", String(36), primary_key=True),
    Column("agent_port", Integer(), nullable=False),
)

oc_commit = Table(
    "oc_commit",
    metadata,
    Column("token", exact(36), primary_key=True),
    Column("at", microseconds(), nullable=False),
    Index("ix_oc_commit_at", "at"),
)

oc_meta = Table(
    "oc_meta",
    metadata,
    Column("name", exact(64), primary_key=True),
    Column("number", BigInteger(), nullable=False),
)

oc_governor = Table(
    "oc_governor",
    metadata,
    Column("name", exact(64), primary_key=True),
    Column("paused_by", exact(255)),
    Column("paused_reason", long_text()),
    Column("paused_at", microseconds()),
    Column("tokens", BigInteger()),  # millionths of a failover; NULL: nobody has counted yet
    Column("counted_at", microseconds()),
)

oc_observer = Table(
    "oc_observer",
    metadata,
    Column("name", exact(255), primary_key=True),
    Column("written_at", microseconds(), nullable=False),
    Column("figures", long_text(), nullable=False),
)

oc_comeback = Table(
    "oc_comeback",
    metadata,
    Column("amphora_id", exact(36), primary_key=True),
    Column("load_balancer_id", exact(36), nullable=False),
    Column("attempts", Integer(), nullable=False),
    Column("next_at", microseconds(), nullable=False),
    Column("since", microseconds(), nullable=False),
    Column("operation_id", exact(36)),  # the last attempt, None before the first
    Column("reason", long_text(), nullable=False),
    Index("ix_oc_comeback_next_at", "next_at"),
)

oc_mark = Table(
    "oc_mark",
    metadata,
    Column("amphora_id", exact(36), primary_key=True),
    Column("what", exact(32), primary_key=True),
    Column("mark", exact(64), nullable=False),  # a fingerprint: what its agent has for certain
    Column("given_at", microseconds(), nullable=False),
)

oc_rotation = Table(
    "oc_rotation",
    metadata,
    Column("what", exact(32), primary_key=True),
    Column("mark", exact(64), nullable=False),  # what all agents are to have
    Column("begun_at", microseconds(), nullable=False),
)
