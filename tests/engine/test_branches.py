"""Branches that commit side by side over a line that is cut at COMMIT: each of their records is applied once.

A branch finds out by the mark in their operation's row whether its lost COMMIT arrived. Would another one commit between
that COMMIT and the look, it would overwrite the mark, and the first would apply its record again.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from octavia_core.db.tables import metadata
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.run import Run
from tests.engine.copies import BY_NAME
from tests.engine.cutting import cutter
from tests.engine.outside import DATABASE, Engine, prepared
from tests.engine.test_crash_matrix import check
from tests.support.databases import ready_on
from tests.support.servers import server

BRANCHES = 3
ALMOST = 0.3
"""Seconds that a COMMIT's answer is held back, in which another branch would commit if it could."""


@pytest.mark.external
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_records_of_branches_whose_commits_are_cut_are_applied_once(kind: str, tmp_path: Path) -> None:
    real = server(kind)
    state = tmp_path / "state"
    state.mkdir()
    another = threading.Event()
    cut: list[int] = []
    racing = threading.Event()

    def fate(number: int) -> str:
        if not racing.is_set() or len(cut) >= BRANCHES:
            another.set()
            return "pass"
        cut.append(number)
        return "arrives"

    with ready_on(real) as url, tempfile.TemporaryDirectory(prefix="oc-") as short:
        (state / DATABASE).write_text(url, encoding="utf-8")
        prepared(BY_NAME["configure"], state)
        listen = Path(short) / (".s.PGSQL.5432" if kind == "postgresql" else "s")
        through = make_url(url).set(query={"unix_socket": str(listen)} if kind == "mariadb" else {"host": short})
        with cutter(listen, real.socket_file, fate, held=lambda: another.wait(ALMOST)) as bad:
            (state / DATABASE).write_text(through.render_as_string(hide_password=False), encoding="utf-8")
            engine = Engine.open(state)
            try:
                ((operation, claim),) = engine.storage.claim("holder", claimable(), lease=60.0, limit=1)
                run = Run(engine.storage, claim, operation, engine.world)
                of = metadata.tables["load_balancer"]
                together = threading.Barrier(BRANCHES)

                def branch(mine: Run) -> None:
                    together.wait(30)
                    mine.record("add", count)

                def count(tx: Any) -> None:
                    tx.write(of.update().values(description=of.c.description + "x"))

                engine.storage.write(lambda tx: tx.write(of.update().values(description="")))
                racing.set()
                run.parallel({f"branch-{n}": branch for n in range(BRANCHES)})
                assert engine.load_balancer().description == BRANCHES * "x"
                paths = [e.path for e in engine.storage.read(lambda tx: tx.journal(operation.id))]
                assert sorted(p for p in paths if p.endswith("/add")) == [f"branch-{n}/add" for n in range(BRANCHES)]
            finally:
                engine.close()
        assert bad.cuts == BRANCHES


@pytest.mark.external
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize("fate", ["arrives", "lost"])
def test_a_pair_is_built_over_a_line_that_is_cut_at_every_second_commit(kind: str, fate: str, tmp_path: Path) -> None:
    real = server(kind)
    state = tmp_path / "state"
    state.mkdir()
    with ready_on(real) as url, tempfile.TemporaryDirectory(prefix="oc-") as short:
        (state / DATABASE).write_text(url, encoding="utf-8")
        prepared(BY_NAME["pair-create"], state)
        listen = Path(short) / (".s.PGSQL.5432" if kind == "postgresql" else "s")
        through = make_url(url).set(query={"unix_socket": str(listen)} if kind == "mariadb" else {"host": short})
        with cutter(listen, real.socket_file, lambda n: fate if n % 2 else "pass") as bad:
            (state / DATABASE).write_text(through.render_as_string(hide_password=False), encoding="utf-8")
            engine = Engine.open(state)
            try:
                engine.settle(patience=60.0)
                check(engine, BY_NAME["pair-create"])
            finally:
                engine.close()
            assert bad.cuts > 5
