"""After the end of everything: no process, file, address or row; and while it lives, no secret where none belongs."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import inspect, text

from octavia_core import NewHealthMonitor, NewL7Policy, NewL7Rule, NewListener, NewLoadBalancer, NewPool
from octavia_core.domain.tree import SessionPersistence
from octavia_core.domain.vocabulary import (
    ClientAuthentication,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    Provisioning,
)
from octavia_core.errors import OperationFailed
from tests.haproxy.certificates import Authority
from tests.main_job.stage import PATIENCE, behind, leftovers, open_stage, processes_of, until
from tests.support.calm import CALM
from tests.support.running import Echo

HISTORY = {
    "listener_statistics",  # totals of a deleted listener still count
    "oc_operation", "oc_journal", "oc_event",  # what happened
    "oc_meta", "oc_cursor",  # of the database itself
    "oc_observer",  # one row of the health manager, written now and then
}  # fmt: skip
"""Tables that may have more rows after load balancers that are gone."""


def rows_of(control) -> dict[str, int]:
    with control.storage._engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


def grown(control, before: dict[str, int]) -> set[str]:
    """Tables that have more rows than before."""
    return {name for name, count in rows_of(control).items() if count > before.get(name, 0)}


def whole_tree(servers) -> NewLoadBalancer:
    """A load balancer with one of everything."""
    monitor = NewHealthMonitor(type=MonitorType.HTTP, delay=1, timeout=60, max_retries=1)
    kept = SessionPersistence(type=PersistenceType.HTTP_COOKIE)
    pool = NewPool(members=servers, health_monitor=monitor, session_persistence=kept)
    rule = NewL7Rule(type=L7RuleType.PATH, value="/no")
    policies = [
        NewL7Policy(action=L7Action.REJECT, rules=[rule]),
        NewL7Policy(action=L7Action.REDIRECT_TO_POOL, redirect_pool=NewPool(members=servers), rules=[rule]),
    ]
    return NewLoadBalancer(
        name="whole",
        listeners=[
            NewListener(
                protocol=ListenerProtocol.HTTP,
                protocol_port=8080,
                default_pool=pool,
                l7policies=policies,
                allowed_cidrs=["127.0.0.0/8"],
            ),
            NewListener(
                protocol=ListenerProtocol.TERMINATED_HTTPS,
                protocol_port=8443,
                tls_certificate_id="www",
                sni_container_ids=["www"],
                client_ca_tls_certificate_id="clients",
                client_authentication=ClientAuthentication.OPTIONAL,
                default_pool=NewPool(members=servers),
            ),
        ],
    )


def test_nothing_is_left_of_load_balancers_good_and_bad(tmp_path, authority):
    with Echo("one") as one, open_stage(tmp_path / "state", CALM) as stage:
        control = stage.controller
        stage.put_secret("www", authority.issue("www.test"))
        stage.put_payload("clients", Authority().pem)
        empty = rows_of(control)
        lb = stage.create(whole_tree(behind(one)))
        stage.update(Kind.LISTENER, lb.listeners[0].id, name="renamed")
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        bad = control.create_load_balancer(NewLoadBalancer(vip_address=lb.vip.ip_address))
        with contextlib.suppress(OperationFailed):
            bad.wait(PATIENCE)
        assert leftovers(stage) != []
        stage.drop(lb.id, bad.load_balancer_id)
        assert leftovers(stage) == []
        assert processes_of(stage.state) == {}
        for folder in ("amphorae", "network/vips", "network/plugs"):
            assert [path.name for path in (stage.state / folder).glob("*") if path.name != "lock"] == []
        assert grown(control, empty) <= HISTORY | {"load_balancer", "vip", "oc_revision", "amphora"}
        while control.storage.transaction(lambda tx: tx.purge(amphora_age=0, load_balancer_age=0)):
            pass  # housekeeping, in a hurry
        assert grown(control, empty) <= HISTORY


def key_words(pem: bytes) -> list[bytes]:
    """What a private key looks like inside other text: pieces of its base64, and of its bytes."""
    inside = pem.decode().split("PRIVATE KEY-----")[1].rpartition("-----END")[0]
    packed = "".join(inside.split())
    return [packed[20:60].encode(), base64.b64decode(packed)[30:50]]


def told(pid: int) -> bytes:
    """What everybody (argv) and this user (environment) can read of a process."""
    return b"\0".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def contents(paths: Iterable[Path]) -> Iterator[tuple[Path, bytes, int]]:
    """What files hold, and their modes; one that vanishes while it is looked for holds nothing."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.read_bytes(), path.stat().st_mode


def test_no_secret_is_where_it_does_not_belong(tmp_path, authority, caplog):
    """Keys are in the files made for keys; not in argv, environments, log files, the journal, events or the database."""
    caplog.set_level(logging.DEBUG)
    issued = authority.issue("www.test")
    with Echo("one") as one, open_stage(tmp_path / "state", CALM) as stage:
        control, state = stage.controller, stage.state
        stage.put_secret("www", issued)
        stage.put_payload("clients", Authority().pem)
        lb = stage.create(whole_tree(behind(one)))
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        stage.put_payload("bad.pem", f"{issued.certificate}\n{authority.issue('x').private_key.reveal().decode()}\n")
        bad = control.create_listener(
            lb.id,
            NewListener(protocol=ListenerProtocol.TERMINATED_HTTPS, protocol_port=8444, tls_certificate_id="bad"),
        )
        with contextlib.suppress(OperationFailed):
            bad.wait(PATIENCE)
        (amphora,) = control.amphorae(lb.id)
        home = state / "amphorae" / amphora.id
        keys = [
            issued.private_key.reveal(),
            (state / "secrets" / "bad.pem").read_bytes(),
            (home / "etc/octavia/certs/server.pem").read_bytes(),
            *(path.read_bytes() for path in (state / "authority").glob("*.key")),
            (state / "authority/controller.pem").read_bytes(),
        ]
        words = [word for pem in keys for word in key_words(pem)]
        words.append((state / "heartbeat.key").read_bytes().strip())
        assert len(words) == 2 * len(keys) + 1

        # files: a private key is under authority/ and secrets/, and of an amphora in its boot and certificate files
        found = [(path, mode) for path, content, mode in contents(state.rglob("*")) if b"PRIVATE KEY-----" in content]
        holders = {path.relative_to(state) for path, _ in found}
        boot, served = Path("amphorae", amphora.id, "etc"), Path("amphorae", amphora.id, "var/lib/octavia")
        allowed = (Path("authority"), Path("secrets"), boot, served)
        assert [str(path) for path in holders if not any(path.is_relative_to(folder) for folder in allowed)] == []
        assert all(path.suffix == ".pem" for path in holders if path.is_relative_to(served))
        assert any(path.is_relative_to(boot) for path in holders)
        assert [path for path, mode in found if not path.is_symlink() and mode & 0o077] == []

        # processes: agents and HAProxy, and this one's children
        until(lambda: len(processes_of(state)) == 2, "the end of what only checked a configuration")
        mine = {pid: told(pid) for pid in (*processes_of(state), os.getpid())}
        assert len(mine) == 3
        assert [(pid, word) for pid, said in mine.items() for word in words if word in said] == []

        # what people read
        histories = [json.dumps([repr(e) for e in control.events(limit=10_000)])]
        for row in control.operations(limit=1000):
            histories.append(repr(row))
            histories += [repr(entry) for entry in control.storage.read(lambda tx, id_=row.id: tx.journal(id_))]
        histories += [repr(control.why(lb.id)), repr(control.timeline(lb.id)), repr(control.settings)]
        logs = [content for _, content, _ in contents(home.rglob("*.log"))]
        database = [content for _, content, _ in contents(state.glob("octavia.db*"))]
        assert logs != []
        assert database != []
        places = [*(history.encode() for history in histories), *logs, *database, caplog.text.encode()]
        assert [word for place in places for word in words if word in place] == []
        assert "operation.accepted" in histories[0]
        stage.delete(Kind.LISTENER, bad.subject_id)
        assert stage.statuses(lb.id) <= {Provisioning.ACTIVE, Provisioning.ERROR}
