"""A database server that is killed while operations are carried out, and comes back: nothing is lost, nobody is needed."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from octavia_core.controller.accept import Asked
from octavia_core.controller.worker import Worker
from octavia_core.domain.operation import OperationState
from octavia_core.errors import TransientError
from octavia_core.flows.runner import Runner
from tests.engine.outside import DATABASE, WISH, Engine
from tests.engine.victims import Victims
from tests.support.databases import ready_on
from tests.support.servers import killed, server


@pytest.mark.external
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_database_that_dies_during_recovery_delays_it_and_no_more(kind: str, tmp_path: Path, killer: Victims) -> None:
    real = server(kind, durable=True)
    with ready_on(real) as url:
        (tmp_path / DATABASE).write_text(url, encoding="utf-8")
        engine = Engine.open(tmp_path)
        operations = [engine.acceptor.create_load_balancer(WISH, Asked()) for _ in range(6)]
        with killer.sleeper(tmp_path, "effect", "standalone/boot"):
            pass  # one of them is left half-done by a worker that is gone
        halfway = threading.Event()
        engine.cloud.before = lambda name: halfway.set() if name == "network.plug_vip" else None
        worker = Worker(Runner(engine.storage, engine.world), threads=2)
        worker.start()
        try:
            assert halfway.wait(60)
            with killed(kind), pytest.raises(TransientError):
                engine.acceptor.create_load_balancer(WISH, Asked())
            deadline = engine.world.clock.monotonic() + 60
            while engine.open_operations():
                assert engine.world.clock.monotonic() < deadline, engine.open_operations()
                engine.world.clock.sleep(0.1)
        finally:
            worker.stop(60.0)
        rows = [engine.storage.read(lambda tx, of=o.id: tx.operation(of)) for o in operations]
        assert {row.state for row in rows if row} == {OperationState.SUCCEEDED}
        assert engine.cloud.made_twice() == []
        assert len(engine.world.compute.list()) == 6
        engine.close()
    gc.collect()  # PyMySQL leaves its socket open when nobody listens: said here, where it is known
