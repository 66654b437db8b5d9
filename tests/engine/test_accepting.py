"""Accepting a wish is one transaction: whatever becomes of its COMMIT, there is a status with its operation, or neither."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import pytest
from sqlalchemy import make_url

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Kind, Provisioning, Topology
from octavia_core.domain.wishes import NewMember
from octavia_core.errors import TransientError
from tests.engine.cutting import cutter
from tests.engine.outside import DATABASE, WISH, Engine
from tests.support.databases import ready_on
from tests.support.servers import server


@pytest.mark.external
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize("fate", ["arrives", "lost"])
def test_a_wish_whose_commit_has_no_answer_is_stored_whole_or_not_at_all(kind: str, fate: str, tmp_path: Path) -> None:
    real = server(kind)
    with ready_on(real) as url, tempfile.TemporaryDirectory(prefix="oc-") as short:
        (tmp_path / DATABASE).write_text(url, encoding="utf-8")
        engine = Engine.open(tmp_path)
        engine.acceptor.create_load_balancer(WISH, Asked())
        engine.settle()
        pool = engine.load_balancer().pools[0].id
        listen = Path(short) / (".s.PGSQL.5432" if kind == "postgresql" else "s")
        through = make_url(url).set(query={"unix_socket": str(listen)} if kind == "mariadb" else {"host": short})
        ends = [0]  # the number of the COMMIT that is cut: reads have one, too

        with cutter(listen, real.socket_file, lambda n: fate if n == ends[0] else "pass") as line:
            connection = Secret(through.render_as_string(hide_password=False))
            database = attrs.evolve(engine.world.settings.database, connection=connection, max_retries=1)
            storage = SqlStorage.open(attrs.evolve(engine.world.settings, database=database))
            acceptor = Acceptor(storage, Topology.SINGLE)
            try:
                before = line.commits
                acceptor.create_member(pool, NewMember("192.0.2.4", 80), Asked())
                engine.settle()
                ends[0] = 2 * line.commits - before
                with pytest.raises(
                    TransientError, match="does not answer"
                ):  # nobody tries again: the outcome is unknown
                    acceptor.create_member(pool, NewMember("192.0.2.5", 80), Asked())
            finally:
                storage.close()
            assert line.cuts == 1
        tree, rows = engine.load_balancer(), engine.open_operations()
        members = {m.address: m.provisioning_status for m in tree.pools[0].members}
        if fate == "arrives":
            assert tree.provisioning_status is Provisioning.PENDING_UPDATE
            assert members.get("192.0.2.5") is Provisioning.PENDING_CREATE
            assert [(row.flow, row.subjects[0].kind) for row in rows] == [("configure", Kind.MEMBER)]
        else:
            assert tree.provisioning_status is Provisioning.ACTIVE
            assert "192.0.2.5" not in members
            assert rows == []
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
        engine.close()
