"""Rows and datagrams of many amphorae: two listeners and one pool with five members each."""

from __future__ import annotations

import uuid
from typing import Any

from octavia_core.domain.heartbeat import encode

__all__ = ["KEY", "datagram", "store_rows"]

KEY = "bench-heartbeat-key"
MEMBERS, LISTENERS = 5, 2


def store_rows(url: str, size: int) -> list[dict[str, Any]]:
    """Store `size` load balancers with an amphora each, heard just now, by bulk inserts; their ids."""
    from octavia_core.db import schema
    from octavia_core.db.storage import SqlStorage
    from octavia_core.db.tables.amphora import amphora, amphora_health
    from octavia_core.db.tables.balancer import load_balancer
    from octavia_core.db.tables.listener import listener
    from octavia_core.db.tables.own import oc_liveness
    from octavia_core.db.tables.pool import member, pool
    from octavia_core.db.transaction.amphorae import naive_utc
    from octavia_core.domain.secret import Secret
    from octavia_core.settings import Database, Settings

    settings = Settings(database=Database(connection=Secret(url)))
    schema.prepare(settings.database)
    storage = SqlStorage.open(settings)
    made = [_ids(n) for n in range(size)]
    now = storage.now()
    written = {"last_update": naive_utc(now / 1_000_000), "busy": False}
    state = {"provisioning_status": "ACTIVE", "operating_status": "ONLINE", "enabled": True}
    tables: list[tuple[Any, list[dict[str, Any]]]] = [
        (load_balancer, [{"id": one["lb"], "name": f"lb-{n}", **state} for n, one in enumerate(made)]),
        (
            amphora,
            [
                {
                    "id": one["amphora"], "load_balancer_id": one["lb"], "status": "ALLOCATED", "cert_busy": False,
                    "lb_network_ip": f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", "compute_id": one["amphora"],
                }
                for n, one in enumerate(made)
            ],
        ),
        (
            pool,
            [{"id": one["pool"], "load_balancer_id": one["lb"], "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", **state}
             for one in made],
        ),
        (
            listener,
            [
                {"id": id, "load_balancer_id": one["lb"], "protocol": "HTTP", "protocol_port": 80 + n,
                 "default_pool_id": one["pool"], "peer_port": 1025 + n, **state}
                for one in made for n, id in enumerate(one["listeners"])
            ],
        ),
        (
            member,
            [
                {"id": id, "pool_id": one["pool"], "ip_address": f"192.0.2.{n}", "protocol_port": 80, "weight": 1,
                 "backup": False, **state}
                for one in made for n, id in enumerate(one["members"])
            ],
        ),
        (amphora_health, [{"amphora_id": one["amphora"], **written} for one in made]),
        (
            oc_liveness,
            [{"amphora_id": one["amphora"], "last_heard": now, "since": now, "observer": "before"} for one in made],
        ),
    ]  # fmt: skip

    for table, rows in tables:  # in the order of their keys, a transaction per portion: pages fill one after the other
        rows.sort(key=lambda row: str(row.get("id", row.get("amphora_id"))))
        for start in range(0, len(rows), 5000):
            portion = rows[start : start + 5000]
            storage.write(lambda tx, table=table, portion=portion: tx.write_many(table.insert(), portion))  # type: ignore[misc]
    storage.close()
    return made


def _ids(number: int) -> dict[str, Any]:
    def new() -> str:
        return str(uuid.uuid4())

    return {
        "number": number,
        "lb": new(),
        "amphora": new(),
        "pool": new(),
        "listeners": [new() for _ in range(LISTENERS)],
        "members": [new() for _ in range(MEMBERS)],
    }


def datagram(one: dict[str, Any], seq: int) -> bytes:
    """As an agent would send it."""
    stats = {"tx": 2048, "rx": 1024, "conns": 3, "totconns": 4, "ereq": 0}
    return encode(
        {
            "id": one["amphora"],
            "seq": seq,
            "listeners": {id: {"status": "OPEN", "stats": stats} for id in one["listeners"]},
            "pools": {
                f"{one['pool']}:{id}": {"status": "UP", "members": dict.fromkeys(one["members"], "UP")}
                for id in one["listeners"]
            },
            "ver": 3,
        },
        KEY,
    )
