"""Our tables come to a database that upstream's own command made, and go again, and upstream never notices.

Upstream's command runs on MariaDB, where its users have it; on the others its schema is made as the facts have it
(test_schema.py).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import Engine, inspect, text

from octavia_core.cli.program import run
from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.db import schema
from octavia_core.db.engine import make_engine
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables import OWN, UPSTREAM
from octavia_core.db.tables.seeds import UPSTREAM_REVISION
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.settings import Database, Settings
from tests.db.test_schema import snapshot
from tests.peers.environment import peer
from tests.support.servers import server

pytestmark = [pytest.mark.peers, pytest.mark.external, pytest.mark.timeout(300)]


@attrs.frozen
class Cloud:
    """A database that upstream's command made, and the octavia.conf that names it."""

    conf: Path
    url: str
    engine: Engine

    def upstream(self, *words: str) -> str:
        """octavia-db-manage, upstream's own."""
        done = subprocess.run(
            [str(peer() / "octavia-db-manage"), "--config-file", str(self.conf), *words],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    def theirs(self) -> dict[str, Any]:
        """What their tables are like, as the database says."""
        return {name: table for name, table in snapshot(self.engine).items() if not name.startswith("oc_")}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with server("mariadb").new_database() as url:
        conf = tmp_path / "octavia.conf"
        conf.write_text(f"[DEFAULT]\n[database]\nconnection = {url}\n", encoding="utf-8")
        engine = make_engine(Database(connection=Secret(url)))
        made = Cloud(conf, url, engine)
        made.upstream("upgrade", "head")
        yield made
        engine.dispose()


def test_only_our_tables_come_and_go_and_upstreams_command_finds_all_as_it_was(cloud: Cloud) -> None:
    theirs = cloud.theirs()
    assert set(theirs) == {table.name for table in UPSTREAM}
    with cloud.engine.begin() as connection:
        connection.execute(text("INSERT INTO quotas (project_id) VALUES ('kept')"))
    for _ in range(2):
        assert run(["db", "upgrade", "--config-file", str(cloud.conf)]) == 0
        schema.check(cloud.engine)
        assert cloud.theirs() == theirs
        added = set(inspect(cloud.engine).get_table_names()) - set(theirs)
        assert added == {table.name for table in OWN} | {schema.VERSION_TABLE}
        assert UPSTREAM_REVISION in cloud.upstream("current")
        cloud.upstream("upgrade", "head")
        for revision in (*reversed(schema.KNOWN[:-1]), "base"):
            schema.downgrade(cloud.url, revision)
            assert cloud.theirs() == theirs
        assert set(inspect(cloud.engine).get_table_names()) == set(theirs) | {schema.VERSION_TABLE}
    with cloud.engine.connect() as connection:
        assert connection.scalar(text("SELECT project_id FROM quotas")) == "kept"


def test_operations_work_on_it(cloud: Cloud) -> None:
    assert run(["db", "upgrade", "--config-file", str(cloud.conf)]) == 0
    storage = SqlStorage.open(Settings(database=Database(connection=Secret(cloud.url))))
    operation = Acceptor(storage, Topology.SINGLE).create_load_balancer(NewLoadBalancer(name="web"), Asked())
    ((claimed, claim),) = storage.claim("host:1:abcd", {"create": {1}}, lease=10, limit=1)
    assert claimed.id == operation.id
    storage.renew(claim, 10)
    tree = storage.read(lambda tx: tx.tree(str(operation.load_balancer_id)))
    assert tree is not None
    assert tree.name == "web"
    storage.close()
