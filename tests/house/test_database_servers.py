"""The database servers that other tests stand on."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.support import guard, servers

KINDS = [pytest.param("mariadb", marks=pytest.mark.external), pytest.param("postgresql", marks=pytest.mark.external)]


def test_a_test_gets_an_empty_database(database_url):
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE here_first (id INTEGER PRIMARY KEY)"))
        assert connection.execute(text("SELECT count(*) FROM here_first")).scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_goes_even_when_a_connection_was_left_in_a_transaction(kind):
    server = servers.server(kind)
    with server.new_database() as url:
        engine = create_engine(url)
        connection = engine.connect()
        connection.execute(text("CREATE TABLE held (id INTEGER PRIMARY KEY)"))
        connection.execute(text("SELECT * FROM held"))
    with pytest.raises(DBAPIError):
        connection.execute(text("SELECT * FROM held"))
    connection.invalidate()
    connection.close()
    engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_all_workers_share_one_server(kind):
    assert servers.server(kind) == servers.server(kind)
    facts = json.loads((Path(os.environ[servers.VARIABLE]) / f"{kind}.json").read_text())
    os.kill(facts["guard"], 0)


def test_a_server_does_not_outlive_a_test_run_that_was_killed(tmp_path):
    server = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as run:
        line = [sys.executable, guard.__file__, str(run.pid), str(int(signal.SIGTERM)), "", str(tmp_path)]
        with subprocess.Popen([*line, sys.executable, "-c", server], stdout=subprocess.PIPE) as watcher:
            server_fd = os.pidfd_open(int(watcher.stdout.readline()))
            run.kill()
            gone, _, _ = select.select([server_fd], [], [], 30)
            watcher.kill()
    os.close(server_fd)
    assert gone
